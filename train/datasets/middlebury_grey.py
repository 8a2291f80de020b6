"""Middlebury 2001, 2003, 2005 and 2006: two of several views of a scene, 8-bit ground truth of both, 0 unknown. Newer ones: `middlebury`.

What a grey level stands for follows from the set and the size of the pictures; the sets' pages at vision.middlebury.edu/stereo/data say it.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import Decode, FileDataset, Files, find, join_files, open_files, read_pair
from train.datasets.readers import read_grey8_disparity, read_number
from train.sample import StereoSample
from utils.calibration import Calibration

VIEWS = ("im2", "im6", "disp2", "disp6")  # of 2001 and 2003: the left picture, the right one, ground truth of either
VIEWS_2001 = {
    "{scene}": VIEWS,
    "map": ("im0", "im1", "disp0", "disp1"),
    "tsukuba": ("scene1.row3.col3", "scene1.row3.col4", "truedisp.row3.col3", "none"),
}
SIZES_2003 = {"full": ("F", 1), "half": ("H", 2), "quarter": ("", 4)}  # ending of the scene's folder, grey levels per pixel
SIZES_2006 = {"full": ("FullSize", 1), "half": ("HalfSize", 2), "third": ("ThirdSize", 3)}
FOCAL_2006_PX, BASELINE_2006_M = 3740.0, 0.160  # at full size


@DATASETS.register("middlebury2001")
def middlebury2001(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`<scene>/{im2,im6}.ppm`, `<scene>/{disp2,disp6}.pgm`, 8 levels a pixel; `map` has views 0 and 1, `tsukuba` names of its own and 16.

    Scharstein and Szeliski, IJCV 2002.
    """
    there = [] if path is None or not path.is_dir() else [s for s, views in VIEWS_2001.items() if find(path, f"{s}/{views[0]}.{{suffix}}")]
    scenes = there or ["{scene}"]
    return join_files([_open("middlebury2001", path, scene, VIEWS_2001[scene], _load_2001, allow_unpaired) for scene in scenes])


@DATASETS.register("middlebury2003")
def middlebury2003(path: Path | None, *, size: Literal["full", "half", "quarter"] = "quarter", allow_unpaired: bool = False) -> FileDataset:
    """`<scene>/{im2,im6,disp2,disp6}.png`, 4 levels a pixel; the half size is in `<scene>H` and has 2, the full one in `<scene>F` and 1.

    Scharstein and Szeliski, CVPR 2003.
    """
    ending, levels = SIZES_2003[size]
    place = f"{{scene}}{ending}"
    return _open("middlebury2003", path, place, VIEWS, partial(_load, levels=levels), allow_unpaired, but=() if ending else ("F", "H"))


@DATASETS.register("middlebury2005")
def middlebury2005(
    path: Path | None, *, size: Literal["full", "half", "third"] = "third", exposures: bool = False, allow_unpaired: bool = False
) -> FileDataset:
    """As middlebury2006. Scharstein and Pal, CVPR 2007."""
    return _open_2006("middlebury2005", path, size, exposures, allow_unpaired)


@DATASETS.register("middlebury2006")
def middlebury2006(
    path: Path | None, *, size: Literal["full", "half", "third"] = "third", exposures: bool = False, allow_unpaired: bool = False
) -> FileDataset:
    """`ThirdSize/<scene>/{view1,view5,disp1,disp5}.png`, 3 levels a pixel; `HalfSize` has 2, `FullSize` 1. Hirschmueller, Scharstein 2007.

    exposures: the pictures `Illum{1,2,3}/Exp{0,1,2}/view{1,5}.png` of every scene instead, with the same ground truth.
    """
    return _open_2006("middlebury2006", path, size, exposures, allow_unpaired)


def _open_2006(kind: str, path: Path | None, size: str, exposures: bool, allow_unpaired: bool) -> FileDataset:
    folder, levels = SIZES_2006[size]
    scene = f"{folder}/{{scene}}"
    name = f"{scene}/Illum{{light}}/Exp{{exposure}}" if exposures else scene
    required = {"left": f"{name}/view1.png", "right": f"{name}/view5.png", "disparity": f"{scene}/disp1.png"}
    optional = {"disparity_right": f"{scene}/disp5.png", "offset": f"{scene}/dmin.txt"}
    load = partial(_load, levels=levels)
    return open_files(kind, path, required, load, key=name, optional=optional, allow_unpaired=allow_unpaired)


def _open(
    kind: str, path: Path | None, place: str, views: tuple[str, ...], load: Decode, allow_unpaired: bool, but: tuple[str, ...] = ()
) -> FileDataset:
    roles = ("left", "right", "disparity", "disparity_right")
    files = {role: f"{place}/{view}.{{suffix}}" for role, view in zip(roles, views, strict=True)}
    optional = {"disparity_right": files.pop("disparity_right")}

    def keep(fields):
        return not fields.get("scene", "").endswith(but)

    return open_files(kind, path, files, load, key=place, optional=optional, keep=keep, allow_unpaired=allow_unpaired)


def _load_2001(files: Files) -> StereoSample:
    return _load(files, levels=16 if files["disparity"].stem == "truedisp.row3.col3" else 8)


def _load(files: Files, levels: int) -> StereoSample:
    sample = read_pair(files, partial(read_grey8_disparity, scale=levels))
    if "offset" not in files:
        return sample
    height, width = sample.disparity.shape
    doffs_px = read_number(files["offset"]) / levels  # dmin.txt is in pixels of the full size, in the folders of all sizes
    return sample.replace(calibration=Calibration(FOCAL_2006_PX / levels, BASELINE_2006_M, (width, height), doffs_px))
