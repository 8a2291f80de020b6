"""Virtual KITTI 2 (Cabon et al., 2020): five rendered drives, ten variants each, depth of both cameras in 16-bit PNG of centimetres.

65535 is the sky and whatever is further than 655.34 m, and unknown.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_depth_pair
from train.datasets.readers import read_png16_depth
from train.sample import StereoSample
from utils.calibration import Calibration

UNIT_M = 0.01
CALIBRATION = Calibration(focal_px=725.0087, baseline_m=0.532725, size=(1242, 375), centre=(620.5, 187))  # of the authors' page
Scene = Literal["01", "02", "06", "18", "20"]
Variant = Literal["15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right", "clone", "fog", "morning", "overcast", "rain", "sunset"]


@DATASETS.register("virtual_kitti2")
def virtual_kitti2(
    path: Path | None, *, scenes: list[Scene] | None = None, variants: list[Variant] | None = None, allow_unpaired: bool = False
) -> FileDataset:
    """`Scene01/clone/frames/{rgb,depth}/Camera_{0,1}/{rgb_00000.jpg,depth_00000.png}`. scenes, variants: all that are there, or these."""
    folder = "Scene{scene}/{variant}"
    views = {"left": "rgb/Camera_0/rgb_{frame}.jpg", "right": "rgb/Camera_1/rgb_{frame}.jpg"}
    views |= {"disparity": "depth/Camera_0/depth_{frame}.png", "disparity_right": "depth/Camera_1/depth_{frame}.png"}
    required = {role: f"{folder}/frames/{name}" for role, name in views.items()}
    choose = {"scene": scenes, "variant": variants}
    key = f"{folder}/{{frame}}"
    return open_files("virtual_kitti2", path, required, _load, key=key, choose=choose, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_depth_pair(files, partial(read_png16_depth, unit_m=UNIT_M), CALIBRATION)
