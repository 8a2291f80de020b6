"""CREStereo's synthetic set (Li et al., CVPR 2022): four parts, JPEG pairs, 16-bit PNG / 32 of both views, 0 unknown."""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_png16_disparity
from train.sample import StereoSample

SCALE = 32


@DATASETS.register("crestereo")
def crestereo(
    path: Path | None, *, parts: list[Literal["hole", "reflective", "shapenet", "tree"]] | None = None, allow_unpaired: bool = False
) -> FileDataset:
    """`{hole,reflective,shapenet,tree}/0000_{left,right}.jpg`, `0000_{left,right}.disp.png`. parts: all that are there, or these."""
    required = {
        "left": "{part}/{frame}_left.jpg",
        "right": "{part}/{frame}_right.jpg",
        "disparity": "{part}/{frame}_left.disp.png",
        "disparity_right": "{part}/{frame}_right.disp.png",
    }
    return open_files("crestereo", path, required, _load, key="{part}/{frame}", choose={"part": parts}, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_pair(files, partial(read_png16_disparity, scale=SCALE))
