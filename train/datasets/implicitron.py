"""Annotations of films in the form of PyTorch3D's Implicitron, and the pairs in them. Where the images lie is a layout's business."""

import gzip
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from utils.errors import UserError


class File(BaseModel):
    path: str


class Image(File):
    size: tuple[int, int]  # (height, width)


class Viewpoint(BaseModel):
    T: tuple[float, float, float]
    focal_length: tuple[float, float]
    principal_point: tuple[float, float]
    intrinsics_format: Literal["ndc_isotropic", "ndc_norm_image_bounds"]


class Frame(BaseModel):
    """One image of one camera; what else the file says of it is passed over."""

    sequence_name: str
    frame_number: int
    camera_name: Literal["left", "right"]
    image: Image
    depth: File
    viewpoint: Viewpoint


def read_frames(path: Path, exclude: Sequence[str]) -> dict[str, dict[str, Frame]]:
    """`sequence/number` -> camera -> what is said of its image, without the sequences to exclude. UserError for a file that is not that."""
    try:
        frames = TypeAdapter(list[Frame]).validate_json(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected annotations in gzipped JSON") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; expected the annotations as published") from None
    found: dict[str, dict[str, Frame]] = defaultdict(dict)
    for frame in frames:
        if frame.sequence_name in exclude:
            continue
        key = f"{frame.sequence_name}/{frame.frame_number:04d}"
        if other := found[key].get(frame.camera_name):
            raise UserError(f"{path}: {other.image.path} and {frame.image.path} are both the {frame.camera_name} image of {key}")
        found[key][frame.camera_name] = frame
    return found


def camera_numbers(left: Frame, right: Frame) -> tuple[float, ...]:
    """focal_px, baseline_m, width, height, doffs_px, the principal point and focal_y_px of a pair, as of `Calibration`.

    In PyTorch3D x points to the left and the origin is the centre of the image. `ndc_isotropic` counts in halves of its shorter side,
    `ndc_norm_image_bounds` in halves of each. Raises UserError for cameras at one place, or without focal length.
    """
    height, width = left.image.size
    focal, centre = [], []
    for view in (left.viewpoint, right.viewpoint):
        half = (width / 2, height / 2)
        unit = (min(half), min(half)) if view.intrinsics_format == "ndc_isotropic" else half
        focal.append([view.focal_length[axis] * unit[axis] for axis in (0, 1)])
        centre.append([half[axis] - view.principal_point[axis] * unit[axis] for axis in (0, 1)])
    baseline = abs(right.viewpoint.T[0] - left.viewpoint.T[0])
    if not min(baseline, *focal[0]) > 0:
        raise UserError(f"{left.image.path}: its camera and the other one have no distance or no focal length; correct the annotations")
    return focal[0][0], baseline, width, height, centre[1][0] - centre[0][0], *centre[0], focal[0][1]
