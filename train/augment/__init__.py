"""Augmentations, sample to sample: `photometric` changes colours, `spatial` changes geometry. Which set gets which is the loader's."""

from train.augment.photometric import IMAGE_AUGMENTATIONS, build_image_augmentations
from train.augment.spatial import SpatialOptions, spatial, spatial_options

__all__ = ["IMAGE_AUGMENTATIONS", "SpatialOptions", "build_image_augmentations", "spatial", "spatial_options"]
