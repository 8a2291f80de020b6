"""Calibration as OpenCV's users store it: YAML, XML or JSON of cv2.FileStorage, or NPZ, under the names of its documentation and samples.

Other formats are in `calibration_files`; telling them apart, and units, is for `calibration_formats`.
"""

import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np

from utils.calibration import Calibration, check_camera, checked_calibration
from utils.errors import UserError, shorten
from utils.rectification import StereoRig, of_projections

Entries = dict[str, np.ndarray]  # by `plain` name


def _of_side(number: str, *stems: str) -> tuple[str, ...]:
    """K1, KL, K_left, left_K and so on."""
    letter, word = {"1": ("l", "left"), "2": ("r", "right")}[number]
    return tuple(name for stem in stems for name in (f"{stem}{number}", f"{stem}{letter}", f"{stem}{word}", f"{word}{stem}"))


# What we call an entry -> what files do, in lower case and without separators.
NAMES = {
    **{f"K{n}": _of_side(n, "k", "m", "mtx", "cameramatrix", "intrinsics") for n in "12"},
    **{f"D{n}": _of_side(n, "d", "dist", "distcoeffs", "distortion", "distcoef") for n in "12"},
    "R": ("r", "rot", "rotation", "rotationmatrix"),
    "T": ("t", "trans", "translation", "translationvector"),
    **{f"P{n}": _of_side(n, "p", "proj", "projmat", "projection", "projectionmatrix") for n in "12"},
    "Q": ("q", "disptodepth", "disptodepthmat", "disptodepthmatrix", "disparitytodepth", "disparitytodepthmatrix"),
    "size": ("size", "imagesize", "imgsize", "resolution", "imageresolution"),
    "width": ("width", "imagewidth"),
    "height": ("height", "imageheight"),
}
RAW = ("K1", "D1", "K2", "D2", "R", "T")
NUMBERS = {"K1": 9, "K2": 9, "R": 9, "T": 3, "P1": 12, "P2": 12, "Q": 16, "size": 2, "width": 1, "height": 1}
SHAPES = {9: (3, 3), 12: (3, 4), 16: (4, 4)}


def read_entries(path: Path) -> Entries:
    """The entries of a file that we have a name for, under that name, float64. Raises OSError where it cannot be opened, else UserError."""
    stored = _read_npz(path) if path.suffix.lower() == ".npz" else _read_storage(path)
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): value for name, value in stored.items()}
    entries: Entries = {}
    for ours, theirs in NAMES.items():
        found = next((plain[name] for name in theirs if name in plain), None)
        if found is None:
            continue
        count = NUMBERS.get(ours, found.size)
        if found.size != count or not found.size or not np.isfinite(found).all():
            raise UserError(f"{path}: {ours} holds {found.size} numbers, or some that are not finite; expected {count}")
        entries[ours] = found.reshape(SHAPES.get(count, (count,)))
    if not entries:
        raise UserError(
            f"{path}: none of the names K1 D1 K2 D2 R T (or M1, cameraMatrix1, ...), P1 P2, Q; it has {shorten(stored) or 'nothing'}"
        )
    return entries


def has_projections(entries: Entries) -> bool:
    return {"P1", "P2"} <= entries.keys() or "Q" in entries


def has_cameras(entries: Entries) -> bool:
    return set(RAW) <= entries.keys()


def size_of(entries: Entries) -> tuple[int, int] | None:
    """(width, height) of the images that the numbers belong to, where the file says."""
    if "size" in entries:
        width, height = entries["size"]
    elif {"width", "height"} <= entries.keys():
        width, height = float(entries["width"][0]), float(entries["height"][0])
    else:
        return None
    return round(width), round(height)


def rectified(entries: Entries, size: tuple[int, int], path: Path, unit_m: float = 1.0) -> Calibration:
    """The rectified pair that P1 and P2, or Q, describe. unit_m: metres per unit of the baseline. Raises UserError."""
    if {"P1", "P2"} <= entries.keys():
        return of_projections(entries["P1"], entries["P2"], size=size, where=path, unit_m=unit_m)
    if "Q" not in entries:
        raise UserError(f"{path}: neither P1 and P2 nor Q, which a rectified pair needs; it has {shorten(entries)}")
    return of_reprojection(entries["Q"], size=size, where=path, unit_m=unit_m)


def of_reprojection(q: np.ndarray, *, size: tuple[int, int], where: object, unit_m: float = 1.0) -> Calibration:
    """Of stereoRectify's Q: (X, Y, Z, W) = Q @ (x, y, d, 1), so Z / W = f / (d / baseline + Q[3, 3]).

    It is of use for square pixels only, as there is one focal length in it.
    """
    focal_px, inverse_baseline = float(q[2, 3]), float(q[3, 2])
    if focal_px <= 0 or inverse_baseline == 0:
        raise UserError(f"{where}: Q[2, 3] is {focal_px:g} and Q[3, 2] {inverse_baseline:g}; expected the focal length and 1 / baseline")
    if inverse_baseline < 0:
        raise UserError(f"{where}: Q has a negative baseline: the second camera is to the left of the first; exchange the two")
    return checked_calibration(
        where,
        focal_px=focal_px,
        focal_y_px=focal_px,
        baseline_m=unit_m / inverse_baseline,
        doffs_px=float(q[3, 3]) / inverse_baseline,
        centre=(-float(q[0, 3]), -float(q[1, 3])),
        size=size,
    )


def rig(entries: Entries, size: tuple[int, int], path: Path, unit_m: float = 1.0) -> StereoRig:
    """The cameras before rectification. unit_m: metres per unit of T. Raises UserError where entries are missing."""
    if missing := [name for name in RAW if name not in entries]:
        raise UserError(f"{path}: lacks {', '.join(missing)}, which rectification needs; it has {shorten(entries)}")
    for name in ("D1", "D2"):
        if entries[name].size not in (4, 5, 8, 12, 14):
            raise UserError(f"{path}: {name} holds {entries[name].size} numbers; expected 4, 5, 8, 12 or 14, as OpenCV's camera model has")
    if min(entries[name][i, i] for name in ("K1", "K2") for i in (0, 1)) <= 0 or not entries["T"].any():
        raise UserError(f"{path}: a focal length in K1 or K2 is not positive, or T is 0; expected what stereoCalibrate gives")
    for name in ("K1", "K2"):
        check_camera(entries[name], path, name)
    if min(size) < 1:
        raise UserError(f"{path}: the images would be {size[0]} x {size[1]}; expected width and height of at least 1; correct the file")
    return StereoRig(
        matrices=(entries["K1"], entries["K2"]),
        distortions=(entries["D1"], entries["D2"]),
        rotation=entries["R"],
        translation_m=entries["T"] * unit_m,
        size=size,
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name], np.float64).ravel() for name in file.files if file[name].dtype.kind in "fiu"}
    except (ValueError, EOFError, BadZipFile, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: not an NPZ file of plain numbers ({reason}); write it with numpy.savez") from None


def _read_storage(path: Path) -> dict[str, np.ndarray]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        names = storage.root().keys() if storage.isOpened() else []
        found = {name: _numbers(storage.getNode(name)) for name in names}
    except (cv2.error, SystemError):
        raise UserError(f"{path}: not in the form of cv2.FileStorage (YAML, XML or JSON); write it with that, or as NPZ") from None
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def _numbers(node: Any) -> np.ndarray | None:
    """The numbers of a matrix, of a list of numbers or lists, or of one number; None for all else."""
    if node.isSeq():
        parts = [_numbers(node.at(i)) for i in range(node.size())]
        return np.concatenate(parts) if parts and all(part is not None for part in parts) else None
    if node.isInt() or node.isReal():
        return np.array([node.real()])
    if node.isMap() and {"dt", "data"} <= set(node.keys()):
        return np.asarray(node.mat(), np.float64).ravel()
    return None
