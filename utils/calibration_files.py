"""Files that hold the calibration of a rectified pair, one reader per format. What is computed from one is in `geometry`."""

import json
import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from utils.calibration import Calibration, check_camera, check_same_focal, checked_calibration
from utils.errors import UserError
from utils.rectification import of_projections

ENTRY = re.compile(r"(\w+)\s*=\s*(\[[^\]]*\]|[^\s=]+)")  # a matrix may span lines; blanks stand anywhere


def read_middlebury_calibration(path: Path) -> Calibration:
    """`calib.txt` of Middlebury 2014, 2021 and v3, and of ETH3D: cam0, cam1, doffs, baseline (millimetres), width, height.

    Where `doffs` is missing it is the difference of the principal points of cam1 and cam0. Raises OSError where the file cannot be
    opened, UserError that names it and what it lacks.
    """
    entries = dict(ENTRY.findall(path.read_text(encoding="utf-8-sig", errors="replace")))
    cam0 = _camera(path, entries, "cam0")
    cam1 = _camera(path, entries, "cam1") if "cam1" in entries or "doffs" not in entries else cam0
    check_same_focal((cam0[0], cam0[4]), (cam1[0], cam1[4]), path)
    doffs = _numbers(path, entries, "doffs", 1)[0] if "doffs" in entries else cam1[2] - cam0[2]
    (baseline_mm,), (width,), (height,) = (_numbers(path, entries, name, 1) for name in ("baseline", "width", "height"))
    return checked_calibration(
        path,
        focal_px=cam0[0],
        baseline_m=baseline_mm / 1000,
        size=(width, height),
        doffs_px=doffs,
        centre=(cam0[2], cam0[5]),
        focal_y_px=cam0[4],
    )


def read_scene_calibration(path: Path) -> Calibration | None:
    """`meta.json` of a scene in our own form: width, height, and under `calibration` fx, baseline_m, doffs, and cx and cy where known.

    None where one of the first three is not known. Raises OSError where the file cannot be opened, UserError that names it.
    """
    try:
        content = json.loads(path.read_bytes())
        given = content.get("calibration") or {}
        if None in map(given.get, ("fx", "baseline_m", "doffs")):
            return None
        focal_px, baseline_m, doffs_px = (float(given[name]) for name in ("fx", "baseline_m", "doffs"))
        centre = None if None in (given.get("cx"), given.get("cy")) else (float(given["cx"]), float(given["cy"]))
        size = (float(content["width"]), float(content["height"]))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{path}: no description of a scene ({type(error).__name__}: {error}); expected an object with width, height and calibration"
        ) from None
    return checked_calibration(
        path, focal_px=focal_px, focal_y_px=focal_px, baseline_m=baseline_m, size=size, doffs_px=doffs_px, centre=centre
    )


def read_ndds_calibration(path: Path, baseline_m: float) -> Calibration:
    """`_camera_settings.json` of NVIDIA's renderer NDDS (Falling Things), which has the cameras `left` and `right`, not their distance.

    Raises OSError where the file cannot be opened, UserError that names it and what it lacks; so do the readers below.
    """
    try:
        cameras = {camera["name"]: camera for camera in json.loads(path.read_bytes())["camera_settings"]}
        left, right = ({key: float(value) for key, value in cameras[side]["intrinsic_settings"].items()} for side in ("left", "right"))
        size = cameras["left"]["captured_image_size"]
        doffs_px, centre = right["cx"] - left["cx"], (left["cx"], left["cy"])
        width, height = float(size["width"]), float(size["height"])
        focal_px, focal_y_px = left["fx"], left["fy"]
        others = right["fx"], right["fy"]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{path}: {type(error).__name__}: {error}; expected camera_settings of 'left' and 'right' with intrinsic_settings and "
            "captured_image_size, as Falling Things has them"
        ) from None
    check_same_focal((focal_px, focal_y_px), others, path)
    return checked_calibration(
        path, focal_px=focal_px, baseline_m=baseline_m, size=(width, height), doffs_px=doffs_px, centre=centre, focal_y_px=focal_y_px
    )


def read_spring_calibration(path: Path, frame: int, size: tuple[int, int], baseline_m: float) -> Calibration:
    """`intrinsics.txt` of Spring: a line `fx fy cx cy` per frame, counted from 1, in pixels of `size`."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    words = lines[frame - 1].split() if 0 < frame <= len(lines) else []
    try:
        focal_px, focal_y_px, *centre = map(float, words)
        x, y = centre
    except ValueError:
        raise UserError(f"{path}: line {frame}: found '{' '.join(words)}'; expected fx fy cx cy of frame {frame}") from None
    return checked_calibration(path, focal_px=focal_px, baseline_m=baseline_m, size=size, centre=(x, y), focal_y_px=focal_y_px)


def read_booster_calibration(path: Path, size: tuple[int, int]) -> Calibration:
    """`calib_00-02.xml` of Booster, as OpenCV writes it: the projections `proj_matL` and `proj_matR` in pixels of `size`, and
    `baselineLR` in millimetres.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        stored = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        left, right = (stored.getNode(name).mat() for name in ("proj_matL", "proj_matR"))
        baseline_mm = stored.getNode("baselineLR").real()
    except (cv2.error, SystemError):
        left = right = baseline_mm = None
    if left is None or right is None or baseline_mm is None or min(*left.shape, *right.shape) < 3:
        raise UserError(f"{path}: no matrices proj_matL and proj_matR; expected the calibration as Booster has it")
    check_same_focal((left[0, 0], left[1, 1]), (right[0, 0], right[1, 1]), path)
    return checked_calibration(
        path,
        focal_px=float(left[0, 0]),
        baseline_m=baseline_mm / 1000,
        size=size,
        doffs_px=float(right[0, 2] - left[0, 2]),
        centre=(float(left[0, 2]), float(left[1, 2])),
        focal_y_px=float(left[1, 1]),
    )


KittiCameras = Literal["grey", "colour"]
KITTI_CAMERAS: dict[KittiCameras, tuple[int, int]] = {"grey": (0, 1), "colour": (2, 3)}  # left and right
KITTI_LINE = re.compile(r"^(\w+):[ \t]*(.*)$", re.MULTILINE)


def kitti_cameras(path: Path) -> list[KittiCameras]:
    """The pairs whose rectified projections a KITTI `calib*.txt` holds."""
    names = {name for name, _ in KITTI_LINE.findall(path.read_text(encoding="utf-8-sig", errors="replace"))}
    return [
        cameras
        for cameras, numbers in KITTI_CAMERAS.items()
        if any({form.format(number) for number in numbers} <= names for form in ("P{}", "P_rect_0{}"))
    ]


def read_kitti_calibration(path: Path, cameras: KittiCameras, size: tuple[float, float]) -> Calibration:
    """KITTI's `calib.txt` (P0 to P3: 2012, odometry) or `calib_cam_to_cam.txt` (P_rect_00 to P_rect_03: 2015, raw); metres.

    cameras: grey is the pair 0 and 1 (`image_0`, `image_00`), colour the pair 2 and 3 (`image_2`, `image_02`, `colored_0`). size: what
    holds where the file has no S_rect (width, height). Depth is measured from the left one of the pair. Raises as the readers above.
    """
    lines = dict(KITTI_LINE.findall(path.read_text(encoding="utf-8-sig", errors="replace")))
    left, right = KITTI_CAMERAS[cameras]
    form = "P_rect_0{}" if f"P_rect_0{left}" in lines else "P{}"
    projections = [_kitti_numbers(path, lines, form.format(number), 12).reshape(3, 4) for number in (left, right)]
    if f"S_rect_0{left}" in lines:
        width, height = _kitti_numbers(path, lines, f"S_rect_0{left}", 2)
        size = float(width), float(height)
    return of_projections(*projections, size=size, where=path)


def _kitti_numbers(path: Path, lines: dict[str, str], name: str, count: int) -> np.ndarray:
    try:
        numbers = np.array(lines.get(name, "").split(), np.float64)
    except ValueError:
        numbers = np.empty(0)
    if numbers.size != count:
        raise UserError(f"{path}: {name}: {lines.get(name, 'absent')!r}; expected {count} numbers, as KITTI's calibration has them")
    return numbers


def read_k_calibration(path: Path, size: tuple[int, int]) -> Calibration:
    """FoundationStereo's `K.txt`: nine numbers of the left camera's matrix, row by row, and on the next line the baseline in metres.

    size: what the matrix is for, which the file does not say.
    """
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()]
    try:
        numbers, (baseline_m,) = ([float(word) for word in words] for words in lines)
        matrix = np.array(numbers).reshape(3, 3)
    except ValueError:
        raise UserError(f"{path}: expected nine numbers of K on the first line and the baseline in metres on the second") from None
    check_camera(matrix, path, "K")
    (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
    return checked_calibration(path, focal_px=fx, focal_y_px=fy, baseline_m=baseline_m, size=size, centre=(cx, cy))


def _camera(path: Path, entries: dict[str, str], name: str) -> list[float]:
    """The nine numbers of a camera matrix, row by row."""
    numbers = _numbers(path, entries, name, 9)
    check_camera(np.array(numbers).reshape(3, 3), path, name)
    return numbers


def _numbers(path: Path, entries: dict[str, str], name: str, count: int) -> list[float]:
    expected = "one number" if count == 1 else f"{count} numbers in brackets"
    if name not in entries:
        raise UserError(f"{path}: no line '{name}=' (expected {expected}); pass a calib.txt as Middlebury and ETH3D write it")
    try:
        numbers = [float(word) for word in re.split(r"[\s;,\[\]]+", entries[name]) if word]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UserError(f"{path}: {name}={entries[name]}: expected {expected}; pass a calib.txt as Middlebury and ETH3D write it")
    return numbers
