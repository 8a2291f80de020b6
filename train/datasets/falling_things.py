"""Falling Things (Tremblay et al., CVPRW 2018): rendered household objects, depth of both views in 16-bit PNG of 0.1 mm, 960x540.

Depth 0 is unknown, and so is 65535, where the encoding ends: what lies further than 6.5535 m is stored as that.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_depth_pair
from train.datasets.readers import read_png16_depth
from train.sample import StereoSample
from utils.calibration_files import read_ndds_calibration

UNIT_M = 1e-4
BASELINE_M = 0.06  # as in RAFT-Stereo and torchvision; `_camera_settings.json` has the focal length and not this


@DATASETS.register("falling_things")
def falling_things(
    path: Path | None, *, parts: list[Literal["mixed", "single"]] | None = None, allow_unpaired: bool = False
) -> FileDataset:
    """`fat` itself: `mixed/<scene>/` and `single/<object>/<scene>/` with `000000.{left,right}.jpg`, `000000.{left,right}.depth.png` and
    `_camera_settings.json`. parts: all that are there, or these.
    """
    required = {
        "left": "{part}/{scene:**}/{frame}.left.jpg",
        "right": "{part}/{scene:**}/{frame}.right.jpg",
        "disparity": "{part}/{scene:**}/{frame}.left.depth.png",
        "disparity_right": "{part}/{scene:**}/{frame}.right.depth.png",
        "calibration": "{part}/{scene:**}/_camera_settings.json",
    }
    key = "{part}/{scene}/{frame}"
    return open_files("falling_things", path, required, _load, key=key, choose={"part": parts}, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_depth_pair(files, partial(read_png16_depth, unit_m=UNIT_M), read_ndds_calibration(files["calibration"], BASELINE_M))
