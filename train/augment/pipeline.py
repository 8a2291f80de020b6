"""What a data set's samples go through on their way to a batch: geometry first, then colour, which is only spent on what is kept.

The augmentations themselves are in `spatial` and `photometric`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.augment.photometric import build_image_augmentations
from train.augment.spatial import spatial, spatial_options
from train.sample import StereoSample


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
