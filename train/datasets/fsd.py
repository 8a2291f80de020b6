"""The layout of FoundationStereo's data set (Wen et al., CVPR 2025), and of users' own pairs: three folders, files of one name.

Directly under the path or in scene folders at any depth (`<scene>/dataset/data/left/rgb/...` as published). The right view's disparity is
not published.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair, restrict
from train.datasets.readers import read_fsd_disparity
from train.sample import StereoSample
from utils.errors import UserError

LAY_OUT = (
    "put pairs there as left/rgb/0000.jpg, right/rgb/0000.jpg and left/disparity/0000.png (one name for the three, png or jpg images; "
    "scene folders at any depth may hold them), or start with --config quickstart.json, which needs no data"
)


@DATASETS.register("fsd")
def fsd(path: Path | None, *, max_disparity: Annotated[float, Field(gt=0)] | None = None, allow_unpaired: bool = False) -> FileDataset:
    """`**/left/rgb/0000.jpg`, `**/right/rgb/0000.jpg`, `**/left/disparity/0000.png`.

    max_disparity: larger ground truth counts as unknown, in pixels of the stored image.
    """
    folders = {"left": "left/rgb", "right": "right/rgb", "disparity": "left/disparity"}
    required = {role: f"{{scene:**}}/{folder}/{{frame}}.{{suffix}}" for role, folder in folders.items()}
    load = partial(_load, max_disparity=max_disparity)
    try:
        return open_files("fsd", path, required, load, key="{scene}/{frame}", allow_unpaired=allow_unpaired)
    except UserError as error:
        raise UserError(f"{error}; {LAY_OUT}") from None


def _load(files: Files, max_disparity: float | None) -> StereoSample:
    sample = read_pair(files, read_fsd_disparity)
    return sample if max_disparity is None else restrict(sample, sample.disparity < max_disparity)
