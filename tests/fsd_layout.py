"""Writes pairs in the layout of the FSD data set, for tests and for a run on the real pairs beside the project. Holds no test."""

from pathlib import Path

import numpy as np

from train.datasets.readers import encode_fsd
from utils.images import read_image, write_image


def write_pair(folder: Path, name: str, left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> None:
    """`folder`/left/rgb/`name`.png and its two companions; disparity is 0 where it is not known."""
    files = {"left/rgb": left, "right/rgb": right, "left/disparity": encode_fsd(disparity)}
    for place, image in files.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        write_image(folder / place / f"{name}.png", image)


def write_real_pairs(shared: Path, folder: Path) -> int:
    """The pairs of `shared`/data/real under `folder`, one scene each; how many there were."""
    scenes = sorted(scene for scene in (shared / "data" / "real").iterdir() if (scene / "left.png").is_file())
    for scene in scenes:
        truth = np.load(scene / "disparity.npz")
        disparity = np.where(truth["valid"], truth["disparity"], 0)
        write_pair(
            folder / scene.name / "dataset" / "data", "0000", read_image(scene / "left.png"), read_image(scene / "right.png"), disparity
        )
    return len(scenes)
