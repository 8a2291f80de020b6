"""Any calibration file that people have, told apart by what it holds, with its unit and its image size made sure of. The formats
themselves are in `calibration_files` and `calibration_opencv`.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from utils import calibration_opencv as opencv
from utils.calibration import Calibration
from utils.calibration_files import (
    KITTI_CAMERAS,
    KittiCameras,
    kitti_cameras,
    read_k_calibration,
    read_kitti_calibration,
    read_middlebury_calibration,
    read_scene_calibration,
)
from utils.errors import UserError
from utils.rectification import Rectification, StereoRig, rectify

Size = tuple[int, int]
Unit = Literal["m", "cm", "mm"]
METRES: dict[Unit, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001}
BASELINES_M = (0.003, 3.0)  # from an endoscope to a lorry; one in another unit lies almost always outside
ASPECT = 0.01  # what the scales across and down may differ by; a quarter of 2964 x 1988 is published as 741 x 500
FORMATS = "Middlebury calib.txt, KITTI calib*.txt, OpenCV YAML, XML, JSON or NPZ, FoundationStereo's K.txt, or meta.json of a scene"
KITTI_FOLDER = re.compile(r"image_0?([0-3])|colored_[01]")


@dataclass(frozen=True)
class Choices:
    """What a file may leave open. None: as the file says, and an error where it does not.

    unit: of the baseline. size: (width, height) that the numbers belong to. cameras: which of KITTI's two pairs. rectify: whether the
    images are raw and to be rectified.
    """

    unit: Unit | None = None
    size: Size | None = None
    cameras: KittiCameras | None = None
    rectify: bool | None = None


@dataclass(frozen=True, eq=False)
class PairCalibration:
    """A calibration at the size of the images. rectification: makes a rectified pair of theirs, where they are raw.

    description: what was found in the file and what was assumed, for a person.
    """

    calibration: Calibration
    rectification: Rectification | None
    description: str


class _Found(NamedTuple):
    """What a file holds. named_size: whether it says its image size itself."""

    geometry: Calibration | StereoRig
    kind: str
    named_size: bool


def read_calibration(path: Path, image_size: Size, choices: Choices | None = None, *, images: str = "") -> PairCalibration:
    """The calibration of a pair of `image_size` (width, height), whatever size the file's was made at; raises UserError in one line.

    images: path of the left image, whose folder may say which of KITTI's cameras it is of. A file that names no size of its own, without
    `choices.size`, is taken to be made at that of the images.
    """
    choices = choices or Choices()
    try:
        found = _read(path, choices.size or image_size, choices, images)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a calibration: {FORMATS}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a calibration: {FORMATS}") from None
    size = found.geometry.size
    if choices.size is not None and size != choices.size:
        raise UserError(f"{path}: is of {_shown(size)} itself, but --calibration_size is {_shown(choices.size)}; leave that out")
    _check_aspect(path, size, image_size)
    _check_baseline(path, found.geometry, choices)
    source = "its own size" if found.named_size else "as given" if choices.size else "the images' size, as the file names none"
    scaled = "" if size == image_size else f", scaled to {_shown(image_size)}"
    if isinstance(found.geometry, StereoRig):
        rectification = rectify(found.geometry.scaled(image_size))
        calibration = rectification.calibration
    else:
        rectification, calibration = None, found.geometry.scaled(image_size)
    return PairCalibration(calibration, rectification, f"{found.kind}, {_shown(size)} ({source}){scaled}")


def _read(path: Path, size: Size, choices: Choices, images: str) -> _Found:
    """size: of a file that names none."""
    suffix = path.suffix.lower()
    if _is_opencv(path):
        return _read_opencv(path, size, choices)
    if choices.rectify:
        raise UserError(
            f"{path}: is of a rectified pair, there is nothing to rectify with; leave --rectify out, or pass OpenCV's K, D, R, T"
        )
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    native: Unit = "m"
    if suffix == ".json":
        geometry, kind, named = read_scene_calibration(path), "scene's meta.json", True
        if geometry is None:
            raise UserError(f"{path}: fx, baseline_m or doffs of this scene is not known; pass a file that has them")
    elif re.search(r"\bcam0\s*=", text):
        geometry, kind, named, native = read_middlebury_calibration(path), "Middlebury calib.txt", True, "mm"
    elif pairs := kitti_cameras(path):
        cameras = choices.cameras or _kitti_cameras(path, pairs, images)
        left, right = KITTI_CAMERAS[cameras]
        geometry = read_kitti_calibration(path, cameras, size)
        kind, named = f"KITTI, {cameras} cameras {left} and {right}", "S_rect_" in text
    elif re.fullmatch(r"[\s\d.eE+-]+", text):
        geometry, kind, named = read_k_calibration(path, size), "FoundationStereo's K.txt", False
    else:
        raise UserError(f"{path}: no calibration that is known; expected {FORMATS}")
    if choices.unit is not None:
        geometry = replace(geometry, baseline_m=geometry.baseline_m / METRES[native] * METRES[choices.unit])
    return _Found(geometry, kind, named)


def can_rectify(path: Path) -> bool:
    """Whether the file has what raw images are rectified with, OpenCV's K, D, R and T; False where there is no file. Raises UserError."""
    return path.is_file() and _is_opencv(path) and opencv.has_cameras(opencv.read_entries(path))


def _is_opencv(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in (".npz", ".yml", ".yaml", ".xml") or (suffix == ".json" and not _is_scene(path))


def _read_opencv(path: Path, size: Size, choices: Choices) -> _Found:
    entries = opencv.read_entries(path)
    named = opencv.size_of(entries)
    size, unit_m = named or size, METRES[choices.unit or "m"]
    raw, rectified = opencv.has_cameras(entries), opencv.has_projections(entries)
    if choices.rectify is None and raw and rectified:
        raise UserError(
            f"{path}: has the cameras (K, D, R, T) and the rectified pair (P1, P2 or Q); say what the images are: --rectify for raw ones, "
            "--no_rectify for rectified ones"
        )
    if choices.rectify or (choices.rectify is None and not rectified):
        return _Found(opencv.rig(entries, size, path, unit_m), "OpenCV's cameras, rectified here", named is not None)
    return _Found(opencv.rectified(entries, size, path, unit_m), "OpenCV's rectified pair", named is not None)


def _is_scene(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and "calibration" in content


def _kitti_cameras(path: Path, pairs: list[KittiCameras], images: str) -> KittiCameras:
    if len(pairs) == 1:
        return pairs[0]
    for part in reversed(Path(images).parts):
        if match := KITTI_FOLDER.fullmatch(part):
            return "grey" if match[1] in ("0", "1") else "colour"
    raise UserError(
        f"{path}: has two pairs of cameras; say which the images are of: --cameras grey (0 and 1) or --cameras colour (2 and 3)"
    )


def _check_aspect(path: Path, size: Size, image_size: Size) -> None:
    across, down = image_size[0] / size[0], image_size[1] / size[1]
    if abs(across / down - 1) > ASPECT:
        raise UserError(
            f"{path}: is of {_shown(size)}, the images are {_shown(image_size)}, of another shape: cropped, or of another camera; pass the "
            "calibration of these images"
        )


def _check_baseline(path: Path, geometry: Calibration | StereoRig, choices: Choices) -> None:
    """A baseline that no camera pair has is one in another unit; refused unless `choices.unit` says that it is right."""
    baseline = float(np.linalg.norm(geometry.translation_m)) if isinstance(geometry, StereoRig) else geometry.baseline_m
    if choices.unit is None and not BASELINES_M[0] <= baseline <= BASELINES_M[1]:
        raise UserError(
            f"{path}: the cameras would be {baseline:g} m apart; say the unit of the number in the file: --baseline_unit mm, cm or m"
        )


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
