"""What a camera and its files lose: sharpness, grain, compression, of one eye or both. Colours are in `photometric`.

Names and ranges are MoGe's (moge/train/dataloader.py) where it has them.
"""

from statistics import NormalDist
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from train.augment.base import IMAGE_AUGMENTATIONS, Limits, Probability, change_eyes
from train.sample import StereoSample

LEVELS = np.arange(256, dtype=np.float32)[:, None]  # grey levels, a row of a noise table each
# The middles of 256 equally likely parts of a normal distribution, scaled to its variance: what lies beyond 2.9 deviations is missing.
NORMAL = np.array([NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256)], np.float32)
NORMAL /= NORMAL.std()

# Filters that make a small image large again. All keep the pixel centres of `utils.geometry`; OpenCV's INTER_NEAREST moves the image by
# up to half a pixel, and with it the disparity.
ENLARGING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@IMAGE_AUGMENTATIONS.register("blurring")
def blurring(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    scale: Limits[Annotated[float, Field(gt=0, le=1)]] = (0.25, 1.0),
    probability: Probability = 0.5,
    asymmetric_probability: Probability = 1.0,
) -> StereoSample:
    """Reduced to `scale` of its sides and enlarged again with a filter drawn at random (MoGe); each eye by itself unless told otherwise."""
    return change_eyes(
        sample,
        rng,
        lambda image, settings: coarsen(image, *settings),
        lambda: (float(rng.uniform(*scale)), ENLARGING[rng.integers(len(ENLARGING))]),
        probability=probability,
        asymmetric_probability=asymmetric_probability,
    )


def coarsen(image: np.ndarray, scale: float, enlarging: int) -> np.ndarray:
    """uint8 (H, W, 3), averaged to whole pixels of about `scale` times its sides and enlarged again; nothing moves."""
    height, width = image.shape[:2]
    small = (max(round(scale * width), 1), max(round(scale * height), 1))
    if small == (width, height):
        return image
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=enlarging)


@IMAGE_AUGMENTATIONS.register("gaussian_noise")
def gaussian_noise(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    sigma: Limits[Annotated[float, Field(ge=0, le=128)]] = (0.0, 5.0),
    probability: Probability = 0.5,
    asymmetric_probability: Probability = 0.0,
) -> StereoSample:
    """Noise of one strength everywhere: standard deviation in grey levels of 255, drawn uniformly (the range is ours).

    The grain is always each eye's own; `asymmetric_probability` is of the strength.
    """
    return change_eyes(
        sample,
        rng,
        lambda image, strength: add_noise(image, gaussian_table(strength), rng),
        lambda: float(rng.uniform(*sigma)),
        probability=probability,
        asymmetric_probability=asymmetric_probability,
    )


@IMAGE_AUGMENTATIONS.register("shot_noise")
def shot_noise(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    photons: Limits[Annotated[float, Field(ge=20, le=1e6)]] = (100.0, 10000.0),
    probability: Probability = 0.5,
    asymmetric_probability: Probability = 0.0,
) -> StereoSample:
    """Photons that are counted: a Poisson distribution about `photons` at white, drawn log-uniformly (MoGe), and as many less where darker.

    The grain is always each eye's own; `asymmetric_probability` is of the exposure.
    """
    return change_eyes(
        sample,
        rng,
        lambda image, count: add_noise(image, shot_table(count), rng),
        lambda: float(np.exp(rng.uniform(*np.log(photons)))),
        probability=probability,
        asymmetric_probability=asymmetric_probability,
    )


def gaussian_table(sigma: float) -> np.ndarray:
    """uint8 (256, 256): what each grey level (row) may become, every column equally likely."""
    return _to_grey(LEVELS + np.float32(sigma) * NORMAL)


def shot_table(photons: float) -> np.ndarray:
    """The same for whole photons, `photons` of them on average at white: Poisson distributions by their quantiles (Cornish and Fisher).

    Mean and deviation are right to 2 % for grey levels that more than one photon makes.
    """
    per_level = np.float32(photons / 255)
    mean = LEVELS * per_level
    counts = np.rint(np.maximum(mean + np.sqrt(mean) * NORMAL + (NORMAL**2 - 1) / 6, 0))
    counts[0] = 0
    return _to_grey(counts / per_level)


def add_noise(image: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 of any shape, each value replaced by one of its row in `table`. A byte per value is drawn, which is six times as fast as a
    normally distributed number.
    """
    column = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    place = (image.astype(np.uint16) << 8) | column
    return table.ravel().take(place, mode="wrap")  # no place lies outside; the default mode looks whether one does


def _to_grey(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


@IMAGE_AUGMENTATIONS.register("jpeg_loss")
def jpeg_loss(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    quality: Limits[Annotated[int, Field(ge=1, le=100)]] = (20, 99),
    probability: Probability = 0.5,
    asymmetric_probability: Probability = 0.0,
) -> StereoSample:
    """Written as a JPEG file of a quality drawn uniformly, both limits included, and read back (MoGe)."""
    return change_eyes(
        sample,
        rng,
        compress,
        lambda: int(rng.integers(quality[0], quality[1] + 1)),
        probability=probability,
        asymmetric_probability=asymmetric_probability,
    )


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 3) RGB as it comes back from a JPEG file of this quality, 1 to 100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, f"an image of {image.shape} cannot be written as JPEG"
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
