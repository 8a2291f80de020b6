"""Middlebury 2014, 2021 and the evaluation v3 (Scharstein et al., GCPR 2014): PFM in pixels, inf unknown. Older sets: `middlebury_grey`."""

from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import Fields, FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_nocc_mask, read_pfm_disparity
from train.sample import StereoSample
from utils.calibration_files import read_middlebury_calibration

Right = Literal["im1", "im1E", "im1L"]

# The ten of the 23 scenes that are the evaluation v3's training set; the other 13 are its "additional datasets".
TRAIN = {"Adirondack", "Jadeplant", "Motorcycle", "Piano", "Pipes", "Playroom", "Playtable", "Recycle", "Shelves", "Vintage"}


@DATASETS.register("middlebury2014")
def middlebury2014(
    path: Path | None,
    *,
    rectification: Literal["perfect", "imperfect", "all"] = "perfect",
    right: Right = "im1",
    split: Literal["train", "additional", "all"] = "all",
    allow_unpaired: bool = False,
) -> FileDataset:
    """`<scene>-{perfect,imperfect}/{im0,im1}.png`, `disp0.pfm`, `disp1.pfm`, `calib.txt`.

    rectification: which folders by their ending; all also takes those with none. right: im1E has another exposure, im1L other lighting.
    split: train are the scenes of the evaluation v3's training set, additional all others.
    """

    def keep(fields: Fields) -> bool:
        name, _, ending = fields["scene"].partition("-")
        part = "train" if name in TRAIN else "additional"
        return rectification in ("all", ending) and split in ("all", part)

    required = {"left": "{scene}/im0.png", "right": f"{{scene}}/{right}.png", "disparity": "{scene}/disp0.pfm"}
    optional = {"disparity_right": "{scene}/disp1.pfm", "calibration": "{scene}/calib.txt"}
    return open_files("middlebury2014", path, required, load, key="{scene}", optional=optional, keep=keep, allow_unpaired=allow_unpaired)


@DATASETS.register("middlebury2021")
def middlebury2021(path: Path | None, *, ambient: bool = False, allow_unpaired: bool = False) -> FileDataset:
    """`data/<scene>/{im0,im1}.png`, `disp0.pfm`, `disp1.pfm`, `calib.txt`.

    ambient: the pictures `data/<scene>/ambient/L0/im{0,1}e{0,1,...}.png` of every lighting and exposure instead.
    """
    scene = "data/{scene}"
    left, right = (f"{scene}/ambient/{{light}}/{view}e{{exposure}}.png" if ambient else f"{scene}/{view}.png" for view in ("im0", "im1"))
    required = {"left": left, "right": right, "disparity": f"{scene}/disp0.pfm"}
    optional = {"disparity_right": f"{scene}/disp1.pfm", "calibration": f"{scene}/calib.txt"}
    key = "{scene}/{light}/{exposure}" if ambient else "{scene}"
    return open_files("middlebury2021", path, required, load, key=key, optional=optional, allow_unpaired=allow_unpaired)


@DATASETS.register("middeval3")
def middeval3(path: Path | None, *, size: Literal["F", "H", "Q"] = "H", allow_unpaired: bool = False) -> FileDataset:
    """`training{F,H,Q}/<scene>/{im0,im1}.png`, `disp0GT.pfm`, `mask0nocc.png`, `disp1GT.pfm`, `calib.txt`. size: full, half, quarter."""
    scene = f"training{size}/{{scene}}"
    required = {"left": f"{scene}/im0.png", "right": f"{scene}/im1.png", "disparity": f"{scene}/disp0GT.pfm"}
    optional = {"disparity_right": f"{scene}/disp1GT.pfm", "nocc": f"{scene}/mask0nocc.png", "calibration": f"{scene}/calib.txt"}
    return open_files("middeval3", path, required, load, key=scene, optional=optional, allow_unpaired=allow_unpaired)


def load(files: Files) -> StereoSample:
    """The sample of a pair, PFM of one or both views, and where they are there `nocc` (mask0nocc.png) and `calibration` (calib.txt)."""
    occluded = read_nocc_mask(files["nocc"]) if "nocc" in files else None
    calibration = read_middlebury_calibration(files["calibration"]) if "calibration" in files else None
    return read_pair(files, read_pfm_disparity, occluded=occluded, calibration=calibration)
