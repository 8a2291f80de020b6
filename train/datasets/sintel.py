"""Sintel stereo (Butler et al., ECCV 2012): frames of an animated film, disparity of the left view in 8-bit RGB, masks of occlusion."""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair, restrict
from train.datasets.readers import read_mask, read_sintel_disparity
from train.sample import StereoSample


@DATASETS.register("sintel")
def sintel(
    path: Path | None,
    *,
    render: Literal["clean", "final", "both"] = "clean",
    truth: Literal["occ", "noc"] = "noc",
    allow_unpaired: bool = False,
) -> FileDataset:
    """`training/{clean,final}_{left,right}/<scene>/frame_0001.png`, `training/{disparities,occlusions,outofframe}/<scene>/...`.

    render: clean without blur and fog, final with them. Both are two samples with one ground truth.
    truth: noc is what both eyes see, occ all that is stored. The right eye misses what is occluded and, which has a mask of its own, what
    lies outside its image.
    """
    folders = {"left": "{render}_left", "right": "{render}_right", "disparity": "disparities"}
    folders |= {"occluded": "occlusions", "outside": "outofframe"}
    required = {role: f"training/{folder}/{{scene}}/{{frame}}.png" for role, folder in folders.items()}
    choose = {"render": ["clean", "final"] if render == "both" else [render]}
    load = partial(_load, noc=truth == "noc")
    return open_files("sintel", path, required, load, key="{render}/{scene}/{frame}", choose=choose, allow_unpaired=allow_unpaired)


def _load(files: Files, noc: bool) -> StereoSample:
    occluded = read_mask(files["occluded"]) | read_mask(files["outside"])
    sample = read_pair(files, read_sintel_disparity, occluded=occluded)
    return restrict(sample, ~occluded) if noc else sample
