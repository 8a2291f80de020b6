"""Changes of colour, of one eye or both. What a camera loses (sharpness, noise, compression) is in `degrade`."""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from train.augment.base import IMAGE_AUGMENTATIONS, Limits, Probability, change_eyes
from train.sample import StereoSample

GREY = np.array([0.299, 0.587, 0.114])  # luma weights of Rec. 601
RGB_TO_YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

Factors = Limits[Annotated[float, Field(ge=0)]]
Shifts = Limits[Annotated[float, Field(ge=-0.5, le=0.5)]]


@IMAGE_AUGMENTATIONS.register("jittering")
def jittering(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    brightness: Factors = (0.9, 1.1),
    contrast: Factors = (0.9, 1.1),
    saturation: Factors = (0.9, 1.1),
    gamma: Factors = (0.9, 1.1),
    hue: Shifts = (-0.05, 0.05),
    probability: Probability = 1.0,
    asymmetric_probability: Probability = 0.2,
) -> StereoSample:
    """Colour jitter with the ranges of MoGe; both eyes alike, or each its own with `asymmetric_probability` (RAFT-Stereo, 0.2).

    Factors are drawn uniformly; hue in turns of the colour circle. Brightness, contrast and gamma make one table of 256 entries,
    saturation and hue one 3 x 3 matrix, so that an image is touched twice.
    """
    ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "gamma": gamma, "hue": hue}
    pivot = float(np.dot(cv2.mean(sample.left)[:3], GREY))
    return change_eyes(
        sample,
        rng,
        lambda image, changes: adjust_colour(image, pivot=pivot, **changes),
        lambda: {name: float(rng.uniform(*limits)) for name, limits in ranges.items()},
        probability=probability,
        asymmetric_probability=asymmetric_probability,
    )


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
