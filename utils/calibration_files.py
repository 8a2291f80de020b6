"""Files that hold the calibration of a rectified pair, one reader per format. What is computed from one is in `geometry`."""

import re
from pathlib import Path

from utils.calibration import Calibration
from utils.errors import UserError

ENTRY = re.compile(r"(\w+)\s*=\s*(\[[^\]]*\]|[^\s=]+)")  # a matrix may span lines; blanks stand anywhere


def read_middlebury_calibration(path: Path) -> Calibration:
    """`calib.txt` of Middlebury 2014, 2021 and v3, ETH3D and CARLA-HR: cam0, cam1, doffs, baseline (millimetres), width, height.

    Where `doffs` is missing it is the difference of the principal points of cam1 and cam0. Raises OSError where the file cannot be
    opened, UserError that names it and what it lacks.
    """
    entries = dict(ENTRY.findall(path.read_text(encoding="utf-8-sig", errors="replace")))
    cam0 = _camera(path, entries, "cam0")
    doffs = _numbers(path, entries, "doffs", 1)[0] if "doffs" in entries else _camera(path, entries, "cam1")[2] - cam0[2]
    (baseline_mm,), (width,), (height,) = (_numbers(path, entries, name, 1) for name in ("baseline", "width", "height"))
    if min(cam0[0], cam0[4], baseline_mm, width, height) <= 0:
        raise UserError(f"{path}: focal lengths, baseline, width and height must be positive; correct the file")
    return Calibration(
        focal_px=cam0[0],
        baseline_m=baseline_mm / 1000,
        size=(round(width), round(height)),
        doffs_px=doffs,
        centre=(cam0[2], cam0[5]),
        focal_y_px=cam0[4],
    )


def _camera(path: Path, entries: dict[str, str], name: str) -> list[float]:
    """The nine numbers of a camera matrix, row by row."""
    return _numbers(path, entries, name, 9)


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
