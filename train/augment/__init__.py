"""Augmentations, sample to sample: `photometric`, `degrade` and `patches` change pixels where they are, `spatial` moves them.

`pipeline` puts them in order. Which data set gets which is the loader's.
"""

from train.augment import degrade, patches, photometric  # noqa: F401 (they register what they hold)
from train.augment.base import IMAGE_AUGMENTATIONS
from train.augment.pipeline import build_image_augmentations
from train.augment.spatial import SpatialOptions, spatial, spatial_options

__all__ = ["IMAGE_AUGMENTATIONS", "SpatialOptions", "build_image_augmentations", "spatial", "spatial_options"]
