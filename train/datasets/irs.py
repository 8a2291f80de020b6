"""IRS (Wang et al., 2019): rendered rooms, 960x540, disparity of the left view in OpenEXR, in the channel G."""

from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import Fields, FileDataset, Files, open_files, read_pair
from train.datasets.readers import known, need, read_exr
from train.sample import StereoSample

BAD = ["QAOfficeAndSecurityRoom2_Night"]  # left out by loaders derived from MonSter's, which call it a bad scene; not by the authors
LAYOUTS = {
    "flat": {"left": "l_{frame}.png", "right": "r_{frame}.png", "disparity": "d_{frame}.exr"},
    "folders": {"left": "left_image/l_{frame}.png", "right": "right_image/r_{frame}.png", "disparity": "depth/d_{frame}.exr"},
}


@DATASETS.register("irs")
def irs(
    path: Path | None,
    *,
    layout: Literal["flat", "folders"] = "flat",
    parts: list[Literal["Home", "Office", "Restaurant", "Store"]] | None = None,
    exclude: list[str] = BAD,
    allow_unpaired: bool = False,
) -> FileDataset:
    """`Home/<scene>/{l_00001.png,r_00001.png,d_00001.exr}`, or in folders `{left_image,right_image,depth}` of the scene (`layout`).

    parts: all that are there, or these. exclude: scenes that are left out. The authors' lists say what is for testing. Needs OpenEXR.
    """
    need("OpenEXR", "exr", "irs")

    def keep(fields: Fields) -> bool:
        return fields["scene"] not in exclude

    required = {role: f"{{part}}/{{scene}}/{name}" for role, name in LAYOUTS[layout].items()}
    key, choose = "{part}/{scene}/{frame}", {"part": parts}
    return open_files("irs", path, required, _load, key=key, keep=keep, choose=choose, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_pair(files, lambda path: known(read_exr(path, "G")))
