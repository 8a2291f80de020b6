"""InStereo2K (Bao et al., 2020): indoor pairs with structured light, 16-bit PNG / 100 of both views, 0 unknown.

The factor is that of the authors' readme (StereoDataset, Readme.md). torchvision divides by 1024, and looks one folder deep, where the
archive has `part1` and so on in between.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import Fields, FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_png16_disparity
from train.sample import StereoSample

SCALE = 100


@DATASETS.register("instereo2k")
def instereo2k(path: Path | None, *, split: Literal["train", "test", "all"] = "train", allow_unpaired: bool = False) -> FileDataset:
    """`**/000001/{left,right,left_disp,right_disp}.png`. split: test is what lies in `test`, train everything else."""

    def keep(fields: Fields) -> bool:
        return split == "all" or (fields["scene"].partition("/")[0] == "test") == (split == "test")

    required = {
        "left": "{scene:**}/left.png",
        "right": "{scene:**}/right.png",
        "disparity": "{scene:**}/left_disp.png",
        "disparity_right": "{scene:**}/right_disp.png",
    }
    return open_files("instereo2k", path, required, _load, key="{scene}", keep=keep, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_pair(files, partial(read_png16_disparity, scale=SCALE))
