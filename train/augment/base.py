"""What the augmentations of images share: their registry, the types of their parameters, and how the two eyes share a draw.

An augmentation of images maps `(sample, rng)` to a sample whose pixels are where they were; its keyword-only arguments are its JSON
parameters. The augmentations themselves are in `photometric`, `degrade` and `patches`.
"""

from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from train.sample import StereoSample
from utils.registry import Registry

IMAGE_AUGMENTATIONS = Registry("image augmentation")

T = TypeVar("T")


def _ascending(limits: tuple) -> tuple:
    if limits[0] > limits[1]:
        raise ValueError("the first limit must not exceed the second")
    return limits


Limits = Annotated[tuple[T, T], AfterValidator(_ascending)]
Probability = Annotated[float, Field(ge=0, le=1)]


def change_eyes(
    sample: StereoSample,
    rng: np.random.Generator,
    change: Callable[[np.ndarray, T], np.ndarray],
    draw: Callable[[], T],
    *,
    probability: float,
    asymmetric_probability: float,
) -> StereoSample:
    """`change(image, settings)` of the eyes, with `probability` and settings from `draw`.

    Both eyes share the chance and the settings, or, with `asymmetric_probability`, each has its own of both.
    """

    def settings() -> T | None:
        return draw() if rng.random() < probability else None

    asymmetric = rng.random() < asymmetric_probability
    first = settings()
    second = settings() if asymmetric else first
    return sample.replace(
        left=sample.left if first is None else change(sample.left, first),
        right=sample.right if second is None else change(sample.right, second),
    )
