"""Any pairs by the patterns of their files: ground truth as disparity or as depth, in every format that `readers` knows."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, field_names, from_glob, open_files, read_pair, restrict
from train.datasets.readers import depth_disparity, known, looks_sparse, need, read_array, read_exr, read_fsd_disparity, read_mask
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.calibration_formats import read_calibration
from utils.errors import UserError
from utils.images import read_raw
from utils.pfm import read_pfm

Format = Literal["pfm", "png", "npy", "npz", "exr", "fsd"]
Positive = Annotated[float, Field(gt=0)]


@DATASETS.register("folder")
def folder(
    path: Path | None,
    *,
    left: str,
    right: str,
    disparity: str | None = None,
    depth: str | None = None,
    disparity_right: str | None = None,
    depth_right: str | None = None,
    valid: str | None = None,
    occluded: str | None = None,
    calibration: str | None = None,
    format: Format | None = None,
    scale: float | None = None,
    entry: str | None = None,
    focal_px: Positive | None = None,
    baseline_m: Positive | None = None,
    doffs_px: float = 0.0,
    sparse: bool | None = None,
    allow_unpaired: bool = False,
) -> FileDataset:
    """Patterns below `path`, as `left/*/*.png`, `**/im0.png` or `{scene}/{frame}_left.{suffix}`; see `layout.from_glob`.

    disparity or depth, disparity_right or depth_right: ground truth of the views, of one kind.
    valid, occluded: masks, not 0 where that is so. calibration: in any form that infer.py reads, scaled to the size of the pair.
    format: of the ground truth; by its suffix where it is not given (fsd is a PNG as of the type fsd).
    scale: stored units per pixel of disparity or per metre of depth (KITTI 256, millimetres 1000); PNG needs it; negative turns the sign.
    entry: the array of an NPZ, or the channel of an EXR, where there are several.
    focal_px, baseline_m, doffs_px: the geometry of all pairs, at their size. sparse: points, as of a laser; by their looks where not given.
    """
    if (disparity is None) == (depth is None) or (depth_right if depth is None else disparity_right) is not None:
        raise UserError("folder: expected 'disparity' or 'depth', and of the right view the same kind; give one of them")
    truth, truth_right = (disparity, disparity_right) if depth is None else (depth, depth_right)
    form = format or _format(truth)
    if form == "png" and scale is None:
        raise UserError("folder: PNG needs 'scale', the stored units per pixel of disparity (KITTI 256) or per metre of depth (mm 1000)")
    if scale is not None and not 1e-9 < abs(scale) < 1e9:
        raise UserError(f"folder: scale: found {scale:g}; expected the stored units per pixel of disparity or per metre of depth")
    if entry is not None and form not in ("npz", "exr"):
        raise UserError(f"folder: 'entry' names an array of an NPZ or a channel of an EXR; leave it out with {form}")
    if form == "exr":
        need("OpenEXR", "exr", "folder")
    if (focal_px is None) != (baseline_m is None) or (focal_px is not None and calibration is not None):
        raise UserError("folder: expected 'focal_px' and 'baseline_m', or 'calibration'; give both of the former, or the latter alone")
    if doffs_px and focal_px is None:
        raise UserError("folder: 'doffs_px' belongs to 'focal_px' and 'baseline_m'; give these as well, or leave it out")
    if depth is not None and focal_px is None and calibration is None:
        raise UserError("folder: depth needs 'focal_px' and 'baseline_m', or 'calibration', to become disparity")

    patterns = {"left": left, "right": right, "disparity": truth, "disparity_right": truth_right}
    patterns |= {"valid": valid, "occluded": occluded, "calibration": calibration}
    templates = {role: _template(role, pattern) for role, pattern in patterns.items() if pattern is not None}
    if templates["left"] == templates["right"]:
        raise UserError(f"folder: 'left' and 'right' are both '{left}'; give each eye its own pattern, such as *_left.png and *_right.png")
    _check_fields(templates)
    camera = None if focal_px is None or baseline_m is None else (focal_px, baseline_m, doffs_px)
    load = partial(_load, form=form, entry=entry, scale=scale or 1.0, depth=depth is not None, camera=camera, sparse=sparse)
    key = "/".join(f"{{{name}}}" for name in field_names(templates["left"])) or left.rsplit(".", 1)[0]
    return open_files("folder", path, templates, load, key=key, allow_unpaired=allow_unpaired)


def _format(pattern: str | None) -> Format:
    suffix = str(pattern).rpartition(".")[2].lower()
    if suffix not in ("pfm", "png", "npy", "npz", "exr"):
        raise UserError(f"folder: '{pattern}' does not end in .pfm, .png, .npy, .npz or .exr; say which 'format' the ground truth has")
    return suffix


def _template(role: str, pattern: str) -> str:
    try:
        return from_glob(pattern)
    except UserError as error:
        raise UserError(f"folder: {role}: {error}") from None


def _check_fields(templates: dict[str, str]) -> None:
    """UserError where files could not be paired: the right picture has the left one's fields, all others have some of them."""
    names = {role: field_names(template) for role, template in templates.items()}
    for role, own in names.items():
        if not set(own) <= set(names["left"]) or (role == "right" and len(own) < len(names["left"])):
            raise UserError(
                f"folder: 'left' and '{role}' have different wildcards ({_listed(names['left'])} and {_listed(own)}); give both the same "
                "number of them, or name what they have in common, as in {scene}/{frame}"
            )


def _listed(names: list[str]) -> str:
    return " ".join("*" if name[0] == "_" else f"{{{name}}}" for name in names) or "none"


def _load(
    files: Files,
    *,
    form: Format,
    entry: str | None,
    scale: float,
    depth: bool,
    camera: tuple[float, float, float] | None,
    sparse: bool | None,
) -> StereoSample:
    def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
        values = _values(path, form, entry) / np.float32(scale)
        if not depth:
            return known(values)
        calibration = _calibration(files, camera, values.shape)
        assert calibration is not None, "`folder` asks for one where there is depth"
        return depth_disparity(values, calibration)

    sample = read_pair(files, decode)
    shape = sample.disparity.shape
    if "valid" in files:
        sample = restrict(sample, _mask(files["valid"], shape))
    return sample.replace(
        occluded=_mask(files["occluded"], shape) if "occluded" in files else None,
        sparse=looks_sparse(sample.valid) if sparse is None else sparse,
        calibration=_calibration(files, camera, shape),
    )


def _calibration(files: Files, camera: tuple[float, float, float] | None, shape: tuple[int, ...]) -> Calibration | None:
    """Of a pair of that size (height, width): the file's, or `camera` (focal length, baseline and offset), or none."""
    size = (shape[1], shape[0])
    if "calibration" in files:
        found = read_calibration(files["calibration"], size, images=str(files["left"]))
        if found.rectification is not None:
            raise ValueError(f"{files['calibration']}: is of pictures that are not rectified; rectify them first")
        return found.calibration
    return None if camera is None else Calibration(focal_px=camera[0], baseline_m=camera[1], doffs_px=camera[2], size=size)


def _values(path: Path, form: Format, entry: str | None) -> np.ndarray:
    """(H, W) as stored."""
    if form == "exr":
        return read_exr(path, entry)
    if form in ("npy", "npz"):
        return read_array(path, entry)
    if form == "fsd":
        return read_fsd_disparity(path)[0]
    values = read_pfm(path) if form == "pfm" else read_raw(path)
    if values.ndim != 2:
        raise ValueError(f"{path}: expected one channel, found {values.shape[2]}")
    return values


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = read_mask(path)
    if mask.shape != shape:
        raise ValueError(f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, the disparity {shape[1]}x{shape[0]}")
    return mask
