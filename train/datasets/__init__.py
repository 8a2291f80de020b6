"""Data sets by type: `DATASETS`, `build_dataset`, and the modules that fill the registry. Batches are made in `train.dataloader`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.datasets import (  # noqa: F401  (they register themselves)
    booster,
    carla_hr,
    crestereo,
    dynamic_replica,
    eth3d,
    falling_things,
    ffs_stereo4d,
    folder,
    fsd,
    instereo2k,
    irs,
    kitti,
    middlebury,
    middlebury_grey,
    sceneflow,
    scenes,
    sintel,
    spring,
    synthetic,
    tartanair,
    unreal_stereo4k,
    virtual_kitti2,
)
from train.datasets.base import DATASETS, SampleError, StereoDataset

__all__ = ["DATASETS", "SampleError", "StereoDataset", "build_dataset"]


def build_dataset(type: str, path: str | Path | None, params: Mapping[str, Any], where: str) -> StereoDataset:
    """The data set of that type, its files listed. `UserError` for an unknown type, wrong parameters (beginning with `where`) or a layout
    that is not there (beginning with the type and the folder).
    """
    checked = DATASETS.check(type, params, where)
    return DATASETS[type](None if path is None else Path(path), **checked)
