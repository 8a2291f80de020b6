"""Dynamic Replica (Karaev et al., CVPR 2023): films of people and animals in scanned rooms, depth of both cameras as the bits of float16.

Which files are a pair, and where the cameras were, stands in `<split>/frame_annotations_<split>.jgz`, see `implicitron`. Paths in it start
at `<split>`, and do not leave it.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from train.datasets.base import DATASETS
from train.datasets.implicitron import camera_numbers, read_frames
from train.datasets.layout import FileDataset, Files, Row, check_complete, check_root, read_depth_pair
from train.datasets.readers import read_half_depth
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.files import inside

BAD = ["8369cb-7_obj", "a7b915-7_obj"]  # left out by the authors' first loader (dynamic_stereo, commit 0592711)


@DATASETS.register("dynamic_replica")
def dynamic_replica(
    path: Path | None, *, split: Literal["train", "valid", "test"] = "train", exclude: list[str] = BAD, allow_unpaired: bool = False
) -> FileDataset:
    """`<split>/frame_annotations_<split>.jgz` and what it names. exclude: sequences that are left out. allow_unpaired: leave out what has
    no other eye, and files that were not downloaded.
    """
    looked_for = f"{split}/frame_annotations_{split}.jgz"
    root = check_root("dynamic_replica", path, looked_for)
    listed: dict[str, set[str]] = {}
    samples, unpaired = [], []
    for key, eyes in sorted(read_frames(root / looked_for, exclude).items()):
        if len(eyes) < 2:
            unpaired.append(f"{next(iter(eyes.values())).image.path} has no other eye")
            continue
        left, right = eyes["left"], eyes["right"]
        named = {"left": left.image, "right": right.image, "disparity": left.depth, "disparity_right": right.depth}
        files = {role: inside(root / split, file.path, root / looked_for).relative_to(root).as_posix() for role, file in named.items()}
        if absent := [file for file in files.values() if not _is_there(root, file, listed)]:
            unpaired.append(f"{absent[0]} is not there")
        else:
            samples.append((Row(key, files), camera_numbers(left, right)))
    rows = [row for row, _ in samples]
    check_complete("dynamic_replica", root, rows, unpaired, allow_unpaired, looked_for)
    return FileDataset("dynamic_replica", root, rows, _load, np.array([numbers for _, numbers in samples]))


def _is_there(root: Path, file: str, listed: dict[str, set[str]]) -> bool:
    """Folders are listed once: asking for half a million files one by one takes minutes on the disk of a network."""
    folder, _, name = file.rpartition("/")
    if folder not in listed:
        listed[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
    return name in listed[folder]


def _load(files: Files, numbers: np.ndarray) -> StereoSample:
    focal_px, baseline_m, width, height, doffs_px, x, y, focal_y_px = map(float, numbers)
    size = (int(width), int(height))
    calibration = Calibration(focal_px, baseline_m, size, doffs_px=doffs_px, centre=(x, y), focal_y_px=focal_y_px)
    return read_depth_pair(files, read_half_depth, calibration)
