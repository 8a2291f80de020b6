"""What a data set's samples go through on their way to a batch: geometry first, then colour, which is only spent on what is kept.

The augmentations themselves are in `spatial`, `photometric`, `degrade` and `patches`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.augment.base import IMAGE_AUGMENTATIONS
from train.augment.spatial import spatial, spatial_options
from train.sample import StereoSample
from utils.errors import UserError, did_you_mean


class Augmentation:
    """`image_augmentation` and `stereo_augmentation` of the configuration as one function; plain data, so that workers can receive it.

    Raises UserError beginning with `where` for an unknown name or a wrong parameter.
    """

    def __init__(self, image: Sequence[str | Mapping[str, Any]], stereo: bool | Mapping[str, Any], where: str) -> None:
        self._image = build_image_augmentations(image, f"{where}.image_augmentation")
        self._spatial = spatial_options(stereo, f"{where}.stereo_augmentation")

    def __call__(self, sample: StereoSample, size: tuple[int, int], rng: np.random.Generator) -> StereoSample:
        """The sample at exactly `size` (width, height)."""
        return self._image(spatial(sample, size, rng, self._spatial), rng)

    def dump(self) -> tuple[list[dict[str, Any]], bool | dict[str, Any]]:
        """`image_augmentation` and `stereo_augmentation` with every default filled in."""
        image = [{"name": name, **params} for name, params in self._image.steps]
        return image, False if self._spatial is None else self._spatial.model_dump(mode="json")


class ImageAugmentations:
    """A checked list of augmentations, applied in its order. Plain data, so that it can be sent to worker processes."""

    def __init__(self, steps: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self.steps = tuple(steps)

    def __call__(self, sample: StereoSample, rng: np.random.Generator) -> StereoSample:
        for name, params in self.steps:
            sample = IMAGE_AUGMENTATIONS[name](sample, rng, **params)
        return sample


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
