"""UnrealStereo4K (Tosi et al., CVPR 2021): rendered places, 3840x2160, disparity of both views as NPY, or as PFM in copies of it."""

from pathlib import Path

import numpy as np

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_headless, read_npy_disparity, read_pfm_disparity
from train.sample import StereoSample
from utils.images import read_image

SIZE = (3840, 2160)  # of a `.raw`, which does not say it (SMD-Nets, lib/utils.py)


@DATASETS.register("unreal_stereo4k")
def unreal_stereo4k(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`00000/{Image0,Image1}/00000.png` (or `.raw`, bare BGR bytes, or `.jpg`), `{Disp0,Disp1}/00000.npy` (or `.pfm`). Splits are lists of
    files (SMD-Nets, filenames).
    """
    folders = {"left": "Image0", "right": "Image1", "disparity": "Disp0"}
    required = {role: f"{{scene}}/{folder}/{{frame}}.{{suffix}}" for role, folder in folders.items()}
    optional = {"disparity_right": "{scene}/Disp1/{frame}.{suffix}"}
    return open_files("unreal_stereo4k", path, required, _load, key="{scene}/{frame}", optional=optional, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_pair(files, _read_disparity, picture=_read_picture)


def _read_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_pfm_disparity(path) if path.suffix == ".pfm" else read_npy_disparity(path)


def _read_picture(path: Path) -> np.ndarray:
    return read_headless(path, SIZE) if path.suffix == ".raw" else read_image(path)
