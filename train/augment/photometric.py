"""Changes of colour, of one eye or both. They leave every pixel where it is; what moves pixels is in `spatial`.

An augmentation maps `(left, right, rng)` to `(left, right)`, uint8 (H, W, 3) RGB; its keyword-only arguments are its JSON parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import AfterValidator, Field

from train.sample import StereoSample
from utils.errors import UserError, did_you_mean
from utils.registry import Registry

IMAGE_AUGMENTATIONS = Registry("image augmentation")

GREY = np.array([0.299, 0.587, 0.114])  # luma weights of Rec. 601
RGB_TO_YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("the first limit must not exceed the second")
    return limits


Factors = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ascending)]
Shifts = Annotated[tuple[Annotated[float, Field(ge=-0.5, le=0.5)], Annotated[float, Field(ge=-0.5, le=0.5)]], AfterValidator(_ascending)]
Probability = Annotated[float, Field(ge=0, le=1)]


@IMAGE_AUGMENTATIONS.register("jittering")
def jittering(
    left: np.ndarray,
    right: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: Factors = (0.9, 1.1),
    contrast: Factors = (0.9, 1.1),
    saturation: Factors = (0.9, 1.1),
    gamma: Factors = (0.9, 1.1),
    hue: Shifts = (-0.05, 0.05),
    asymmetric_probability: Probability = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour jitter with the ranges of MoGe; both eyes alike, or each its own with `asymmetric_probability` (RAFT-Stereo, 0.2).

    Factors are drawn uniformly; hue in turns of the colour circle. Brightness, contrast and gamma make one table of 256 entries,
    saturation and hue one 3 x 3 matrix, so that an image is touched twice.
    """

    def draw() -> dict[str, float]:
        ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "gamma": gamma, "hue": hue}
        return {name: float(rng.uniform(*limits)) for name, limits in ranges.items()}

    asymmetric = rng.random() < asymmetric_probability
    pivot = float(np.dot(cv2.mean(left)[:3], GREY))
    first = draw()
    second = draw() if asymmetric else first
    return adjust_colour(left, pivot=pivot, **first), adjust_colour(right, pivot=pivot, **second)


def adjust_colour(
    image: np.ndarray, *, pivot: float, brightness: float, contrast: float, saturation: float, gamma: float, hue: float
) -> np.ndarray:
    """uint8 (H, W, 3) RGB with the changes applied in the order of the arguments; 1, 1, 1, 1 and 0 change nothing.

    pivot: the grey level that contrast leaves alone, before brightness; the same for both eyes, or alike would not be alike.
    """
    levels = np.arange(256, dtype=np.float64) * brightness
    levels = (levels - pivot * brightness) * contrast + pivot * brightness
    levels = 255 * np.clip(levels / 255, 0, 1) ** gamma
    image = cv2.LUT(image, np.rint(levels).astype(np.uint8))
    if saturation == 1 and hue == 0:
        return image
    turn = 2 * np.pi * hue
    chroma = saturation * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    change = np.eye(3)
    change[1:, 1:] = chroma
    return cv2.transform(image, YIQ_TO_RGB @ change @ RGB_TO_YIQ)


class ImageAugmentations:
    """A checked list of augmentations, applied in its order. Plain data, so that it can be sent to worker processes."""

    def __init__(self, steps: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self.steps = tuple(steps)

    def __call__(self, sample: StereoSample, rng: np.random.Generator) -> StereoSample:
        left, right = sample.left, sample.right
        for name, params in self.steps:
            left, right = IMAGE_AUGMENTATIONS[name](left, right, rng, **params)
        return sample.replace(left=left, right=right)


def build_image_augmentations(entries: Sequence[str | Mapping[str, Any]], where: str) -> ImageAugmentations:
    """From the JSON's `image_augmentation`: names, or objects of a name and its parameters (`{"name": "jittering", "hue": [-0.1, 0.1]}`).

    Raises `UserError` beginning with `where` for an unknown name or a wrong parameter.
    """
    steps = []
    for number, entry in enumerate(entries):
        place = f"{where}[{number}]"
        params = {} if isinstance(entry, str) else dict(entry)
        if not isinstance(entry, str) and "name" not in params:
            raise UserError(f"{place}: found no 'name' in {params}{did_you_mean('name', params)}; expected a name with its parameters")
        name = entry if isinstance(entry, str) else params.pop("name")
        steps.append((name, IMAGE_AUGMENTATIONS.check(name, params, place)))
    return ImageAugmentations(steps)
