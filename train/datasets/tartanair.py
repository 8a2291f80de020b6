"""TartanAir (Wang et al., IROS 2020): flights through rendered places, depth of both views in metres, 640x480."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from train.datasets.base import DATASETS
from train.datasets.layout import Fields, FileDataset, Files, open_files, read_depth_pair
from train.datasets.readers import read_array
from train.sample import StereoSample
from utils.calibration import Calibration

CALIBRATION = Calibration(focal_px=320, baseline_m=0.25, size=(640, 480), centre=(320, 240))  # tartanair_tools, data_type.md: 80 / depth
BAD = ["seasonsforest_winter/Easy"]  # left out by RAFT-Stereo (core/stereo_datasets.py, TartanAir) and whoever trains with its loader


@DATASETS.register("tartanair")
def tartanair(
    path: Path | None,
    *,
    difficulties: list[Literal["Easy", "Hard"]] | None = None,
    exclude: list[str] = BAD,
    max_depth_m: Annotated[float, Field(gt=0)] = 1000,
    allow_unpaired: bool = False,
) -> FileDataset:
    """`<environment>/{Easy,Hard}/P000/image_{left,right}/000000_{left,right}.png`, `depth_{left,right}/000000_{left,right}_depth.npy`;
    the archives' second folder of the environment's name may be there or not. The right view's depth is a download of its own.

    exclude: environments and difficulties that are left out. max_depth_m: the sky is a sphere, 10 000 m away for instance, and no surface:
    what is further away counts as unknown (1000 m are 0.08 px).
    """

    def keep(fields: Fields) -> bool:
        return f"{fields['environment'].rpartition('/')[2]}/{fields['difficulty']}" not in exclude

    folder = "{environment:**}/{difficulty}/P{trajectory}"
    views = {"left": "image_left/{frame}_left.png", "right": "image_right/{frame}_right.png"}
    truth = {"disparity": "depth_left/{frame}_left_depth.npy"}
    return open_files(
        "tartanair",
        path,
        {role: f"{folder}/{name}" for role, name in (views | truth).items()},
        partial(_load, max_depth_m=max_depth_m),
        key=f"{folder}/{{frame}}",
        optional={"disparity_right": f"{folder}/depth_right/{{frame}}_right_depth.npy"},
        keep=keep,
        choose={"difficulty": difficulties},
        allow_unpaired=allow_unpaired,
    )


def _load(files: Files, max_depth_m: float) -> StereoSample:
    def read_depth(path: Path) -> np.ndarray:
        depth = read_array(path).astype(np.float32)
        return np.where(depth < max_depth_m, depth, np.float32(0))

    return read_depth_pair(files, read_depth, CALIBRATION)
