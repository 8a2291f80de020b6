"""What is written of a pair: disparity, colours, confidence, depth and points, and `inference.json`, which says what the files mean."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from train.inference import Result
from train.inference_pairs import Pair
from utils.calibration import Calibration
from utils.errors import UserError
from utils.files import write_atomic
from utils.geometry import depth_to_points, disparity_to_depth
from utils.images import encode_image
from utils.pfm import write_pfm
from utils.ply import write_ply
from utils.video import VideoWriter
from utils.visualize import colorize_disparity

MAPS = ("png", "pfm", "npy")
FORMATS = (*MAPS, "colour", "ply")
USUAL = ("png", "npy", "colour", "ply")
DISPARITY_SCALE = 256.0  # stored units per pixel, as of KITTI
DEPTH_SCALE = 1000.0  # stored units per metre
CONFIDENCE_SCALE = 65535.0
MOST = 65535
ABOUT = {
    "disparity.png": "16 bit, disparity in pixels = value / png_scale, 0 unknown",
    "disparity.pfm, disparity.npy": "disparity in pixels, x_right = x_left - disparity",
    "depth.png": "16 bit, millimetres along the optical axis, 0 unknown or beyond 65.535 m",
    "depth.pfm, depth.npy": "metres along the optical axis, 0 unknown",
    "confidence.png": "16 bit, probability that the disparity is less than a pixel off = value / 65535",
    "confidence.pfm, confidence.npy": "probability that the disparity is less than a pixel off",
    "occluded.png": "255 where the right eye does not see the same, 0 elsewhere; left out of depth and points",
    "points.ply": "metres; x right, y down, z forward from the left camera",
    "left.png, right.png": "the rectified pair that all of this belongs to",
}
ABOUT_FILE = "inference.json"
NAMES = frozenset([*", ".join(ABOUT).split(", "), "colour.png", "colour.mp4", ABOUT_FILE])


@dataclass
class Output:
    """Writes into `folder`, into a folder of its own for each pair with a name.

    formats: of `FORMATS`; png, pfm and npy are of every map. png_scale: stored units per pixel of disparity. max_depth_m: farther points
    are left out of the cloud. fps: of a video, whose colours become one as well.
    """

    folder: Path
    formats: Sequence[str] = USUAL
    png_scale: float = DISPARITY_SCALE
    max_depth_m: float | None = None
    fps: float | None = None
    _video: VideoWriter | None = field(default=None, init=False)
    _brightest: float | None = field(default=None, init=False)
    _claimed: frozenset[str] = field(default=NAMES, init=False)
    _marked: bool = field(default=False, init=False)

    def claim(self, names: Iterable[str], inputs: Iterable[Path], *, occluded: bool, calibrated: bool, rectified: bool) -> None:
        """Before anything is written for pairs of these names. occluded, calibrated, rectified: whether a pair may be so.

        Raises UserError where a file to be written is one of `inputs`, or is there and not of an earlier run by its `inference.json`.
        """
        files = self._files(occluded=occluded, calibrated=calibrated, rectified=rectified)
        video = ["colour.mp4"] if self.fps is not None and "colour" in self.formats else []
        read, earlier = {_identity(path) for path in inputs if path.exists()}, _written(self.folder)
        self._claimed = earlier | {*files, *video, ABOUT_FILE}
        for folder, expected in [(self.folder, [*video, ABOUT_FILE]), *((self.folder / name, files) for name in names)]:
            found = [folder / name for name in expected if (folder / name).exists()]
            if own := [path for path in found if _identity(path) in read]:
                raise UserError(f"--output {self.folder}: {own[0]} is one of the inputs and would be overwritten; pass another folder")
            ours = earlier | _written(folder)
            if others := [path for path in found if path.name not in ours]:
                raise UserError(
                    f"--output {self.folder}: {others[0]} is there already and was not written by infer, as no {ABOUT_FILE} says so; pass "
                    "another folder, or move it away"
                )

    def _files(self, *, occluded: bool, calibrated: bool, rectified: bool) -> list[str]:
        """Names of what a pair's folder may hold in the end."""
        maps = ["disparity", "confidence", *(["depth"] if calibrated else [])]
        files = [f"{name}.{form}" for name in maps for form in MAPS if form in self.formats]
        files += ["occluded.png"] * occluded + ["colour.png"] * ("colour" in self.formats and self.fps is None)
        return files + ["points.ply"] * (calibrated and "ply" in self.formats) + ["left.png", "right.png"] * rectified

    def write(self, pair: Pair, result: Result, calibration: Calibration | None, *, rectified: bool = False) -> dict[str, str]:
        """All files of one pair; kind -> sentence of what is unknown or could not be stored. rectified: views are new, and written too."""
        if not self._marked:  # what follows is ours also where no end is reached
            self._describe({"png_scale": self.png_scale, "files": ABOUT, "pairs": []} | _about(self.folder))
            self._marked = True
        folder = self.folder / pair.name
        folder.mkdir(parents=True, exist_ok=True)
        lost = self._map(folder, "disparity", result.disparity, self.png_scale)
        if result.confidence is not None:
            self._map(folder, "confidence", result.confidence, CONFIDENCE_SCALE)
        if result.agree is not None:
            _write_image(folder / "occluded.png", np.where(result.agree, 0, 255).astype(np.uint8))
        if "colour" in self.formats:
            self._colour(folder, result)
        if calibration is not None:
            depth = depth_of(result, calibration)
            self._map(folder, "depth", depth, DEPTH_SCALE)
            if "ply" in self.formats:
                shown = (depth > 0) & (depth <= (np.inf if self.max_depth_m is None else self.max_depth_m))
                write_ply(folder / "points.ply", depth_to_points(depth, calibration)[shown], pair.left[shown])
        if rectified:
            _write_image(folder / "left.png", pair.left)
            _write_image(folder / "right.png", pair.right)
        said = {}
        if unknown := result.disparity.size - result.finite.size:
            said["finite"] = (
                f"{unknown} of {result.disparity.size} disparities are nan or inf: the network failed there, and they are of no use; try "
                "--precision fp32, or other weights"
            )
        if lost:
            said["png"] = (
                f"{lost} disparities above {MOST / self.png_scale:g} px do not fit into disparity.png and are 0 there; pass a smaller "
                f"--png_scale than {self.png_scale:g}, or use the other formats"
            )
        return said

    def _map(self, folder: Path, name: str, values: np.ndarray, scale: float) -> int:
        """How many numbers the PNG could not hold."""
        lost = 0
        if "png" in self.formats:
            stored, lost = encode_png16(values, scale)
            _write_image(folder / f"{name}.png", stored)
        if "pfm" in self.formats:
            write_pfm(folder / f"{name}.pfm", values)
        if "npy" in self.formats:
            buffer = io.BytesIO()
            np.save(buffer, values)  # into a file it hides why that cannot be written
            write_atomic(folder / f"{name}.npy", buffer.getvalue())
        return lost

    def _colour(self, folder: Path, result: Result) -> None:
        """A picture with the largest disparity as red; of a video, frames with the same colours throughout."""
        if self.fps is None:
            _write_image(folder / "colour.png", colorize_disparity(result.disparity, result.agree))
            return
        if self._video is None:
            self._video = VideoWriter(self.folder / "colour.mp4", self.fps or 25.0)
            finite = result.finite
            self._brightest = 1.1 * float(np.percentile(finite, 99.5)) if finite.size else 1.0
        self._video.write(colorize_disparity(result.disparity, result.agree, self._brightest))

    def close(self, about: Mapping[str, Any]) -> None:
        """Write `inference.json`, `about` and what the files mean, and finish the video. Raises UserError where that is not whole."""
        with self._video or nullcontext():
            self._describe({**about, "png_scale": self.png_scale, "files": ABOUT})

    def _describe(self, about: Mapping[str, Any]) -> None:
        content = {**about, "written": sorted(self._claimed)}
        write_atomic(self.folder / ABOUT_FILE, json.dumps(content, indent=2, default=str) + "\n")


def _about(folder: Path) -> dict[str, Any]:
    """The `inference.json` of a folder; nothing where there is none of ours."""
    try:
        content = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and {"png_scale", "files"} <= content.keys() else {}


def _written(folder: Path) -> frozenset[str]:
    """Names of files in `folder` and below it that its `inference.json` says are ours."""
    about = _about(folder)
    return frozenset(map(str, about.get("written", NAMES))) if about else frozenset()


def _write_image(path: Path, image: np.ndarray) -> None:
    write_atomic(path, encode_image(path, image))


def _identity(path: Path) -> tuple[int, int]:
    """The same of every path to one file."""
    about = path.stat()
    return about.st_dev, about.st_ino


def depth_of(result: Result, calibration: Calibration) -> np.ndarray:
    """Metres, float32 (H, W); 0 where disparity is 0 and where the eyes do not agree. calibration: at the size of the pair."""
    depth = disparity_to_depth(result.disparity, calibration.focal_px, calibration.baseline_m, calibration.doffs_px)
    return depth if result.agree is None else np.where(result.agree, depth, np.float32(0))


def pose_record(pose: np.ndarray | None) -> dict[str, list[float]] | None:
    """The two parts of `StereoOutput.pose` by name, in plain numbers."""
    return None if pose is None else {"rotation_rad": pose[:3].tolist(), "position_baselines": pose[3:].tolist()}


def encode_png16(values: np.ndarray, scale: float) -> tuple[np.ndarray, int]:
    """uint16 (H, W): round(values * scale), at least 1 where positive, 0 where not or where it would not fit; how many finite do not."""
    scaled = np.rint(np.maximum(values.astype(np.float64), 0) * scale)
    fits = scaled <= MOST  # false for NaN
    stored = np.where(fits, np.where(values > 0, np.maximum(scaled, 1), 0), 0).astype(np.uint16)
    return stored, int(np.count_nonzero(~fits & np.isfinite(values)))


def check_formats(names: str) -> tuple[str, ...]:
    """`png,npy` as formats. Raises UserError for an unknown one."""
    formats = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"--formats {names}: '{unknown[0]}' is none of {', '.join(FORMATS)}")
    if not formats:
        raise UserError(f"--formats: nothing would be written; expected some of {', '.join(FORMATS)}")
    return formats
