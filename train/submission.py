"""Archives for the benchmark servers: KITTI 2012 and 2015, Middlebury v3, ETH3D. Every file is checked as their tools would, before the
archive exists. What predicts is the caller's.
"""

import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.datasets.layout import find
from utils.errors import UserError, shorten
from utils.files import write_atomic
from utils.images import read_image, read_raw, write_image
from utils.pfm import read_pfm, write_pfm

KITTI_SCALE, KITTI_MOST = 256, 65535


@dataclass(frozen=True)
class Pair:
    """A pair that the benchmark asks for. fields: those of the templates that it was found by."""

    fields: Mapping[str, str]
    left: Path
    right: Path


@dataclass(frozen=True)
class Benchmark:
    """views: (left, right) templates; more than one pair of them where images stand in different places. count: pairs a submission holds.

    write: (folder, pair, disparity, seconds, method) puts the pair's files there and returns the one with the disparity.
    read: a disparity file as the server reads it, NaN where nothing was submitted.
    """

    views: tuple[tuple[str, str], ...]
    count: int
    write: Callable[[Path, Pair, np.ndarray, float, str], Path]
    read: Callable[[Path], np.ndarray]


def _write_kitti(target: Path, disparity: np.ndarray) -> Path:
    """16-bit PNG, round(256 d). 0 means that nothing was estimated, so that the smallest value written is 1."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, np.clip(np.rint(disparity * KITTI_SCALE), 1, KITTI_MOST).astype(np.uint16))
    return target


def _read_kitti(path: Path) -> np.ndarray:
    values = read_raw(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"{path.name}: {values.dtype} {values.shape}, not 16-bit with one channel")
    return np.where(values > 0, values / np.float32(KITTI_SCALE), np.nan)


def _kitti2012(folder: Path, pair: Pair, disparity: np.ndarray, seconds: float, method: str) -> Path:
    return _write_kitti(folder / f"{pair.fields['frame']}_10.png", disparity)  # in the root, as the development kit's readme asks


def _kitti2015(folder: Path, pair: Pair, disparity: np.ndarray, seconds: float, method: str) -> Path:
    return _write_kitti(folder / "disp_0" / f"{pair.fields['frame']}_10.png", disparity)


def _middlebury(folder: Path, pair: Pair, disparity: np.ndarray, seconds: float, method: str) -> Path:
    scene = folder / pair.fields["set"] / pair.fields["scene"]
    scene.mkdir(parents=True, exist_ok=True)
    (scene / f"time{method}.txt").write_text(f"{seconds:.3f}\n")
    write_pfm(scene / f"disp0{method}.pfm", disparity)
    return scene / f"disp0{method}.pfm"


def _eth3d(folder: Path, pair: Pair, disparity: np.ndarray, seconds: float, method: str) -> Path:
    place = folder / "low_res_two_view"
    place.mkdir(exist_ok=True)
    (place / f"{pair.fields['scene']}.txt").write_text(f"runtime {seconds:.3f}\n")
    write_pfm(place / f"{pair.fields['scene']}.pfm", disparity)
    return place / f"{pair.fields['scene']}.pfm"


BENCHMARKS = {
    "kitti2012": Benchmark(
        tuple((f"testing/{images}_0/{{frame}}_10.png", f"testing/{images}_1/{{frame}}_10.png") for images in ("colored", "image")),
        195, _kitti2012, _read_kitti,
    ),
    "kitti2015": Benchmark((("testing/image_2/{frame}_10.png", "testing/image_3/{frame}_10.png"),), 200, _kitti2015, _read_kitti),
    "middeval3": Benchmark((("{set}/{scene}/im0.png", "{set}/{scene}/im1.png"),), 30, _middlebury, read_pfm),
    "eth3d": Benchmark((("two_view_{set}/{scene}/im0.png", "two_view_{set}/{scene}/im1.png"),), 47, _eth3d, read_pfm),
}  # fmt: skip


def list_pairs(name: str, root: Path, *, size: str = "H", partial: bool = False) -> list[Pair]:
    """The pairs under `root` that a submission to the benchmark holds.

    size: F, H or Q, of Middlebury's pictures. partial: fewer than the benchmark asks for are enough.
    Raises UserError for a folder that is not there, a view without the other, and another number of pairs.
    """
    benchmark = BENCHMARKS[name]
    if not root.is_dir():
        raise UserError(f"--data_root {root}: no such folder; expected {' or '.join(left for left, _ in benchmark.views)} in it")
    pairs: list[Pair] = []
    for left, right in benchmark.views:
        pairs = _pair(root, left, right, lambda fields: name != "middeval3" or fields["set"] in (f"training{size}", f"test{size}"))
        if pairs:
            break
    if len(pairs) != benchmark.count and not (partial and pairs):
        looked = " or ".join(left for left, _ in benchmark.views)
        raise UserError(
            f"{root}: found {len(pairs)} pairs (looked for {looked}), and a submission to {name} holds {benchmark.count}; "
            + ("add the others, or pass --partial for a trial" if pairs else "pass the folder that contains these")
        )
    return pairs


def _pair(root: Path, left: str, right: str, keep: Callable[[Mapping[str, str]], bool]) -> list[Pair]:
    views = [{tuple(fields.items()): path for path, fields in find(root, template).items() if keep(fields)} for template in (left, right)]
    if lonely := views[0].keys() ^ views[1].keys():
        names = [(views[0].get(fields) or views[1][fields]) for fields in lonely]
        raise UserError(f"{root}: {shorten(sorted(names), 3)}: the other view is missing")
    return [Pair(dict(fields), root / path, root / views[1][fields]) for fields, path in sorted(views[0].items())]


def write_submission(
    name: str,
    pairs: Sequence[Pair],
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    target: Path,
    method: str,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Predict every pair and write the archive `target`, which must not exist yet.

    predict: uint8 (H, W, 3) RGB, twice -> (H, W) disparity in pixels. method: what Middlebury's files are called after.
    Raises UserError for pictures that cannot be read or do not fit together, before anything is predicted, and for a prediction that the
    server would refuse; there is no archive then.
    """
    if target.suffix != ".zip" or target.exists():
        raise UserError(f"{target}: {'exists already' if target.exists() else 'is no .zip'}; pass another --output")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", method):
        raise UserError(f"--method {method}: expected letters and digits, beginning with a letter; the files are called after it")
    benchmark = BENCHMARKS[name]
    for pair in pairs:  # a broken file after hours of predicting would cost all of them
        _read(pair)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for pair in pairs:
            left, right = _read(pair)
            start = time.perf_counter()
            disparity = predict(left, right)
            seconds = time.perf_counter() - start
            _check(disparity, pair, left.shape[:2], KITTI_MOST / KITTI_SCALE if benchmark.read is _read_kitti else np.inf)
            path = benchmark.write(folder, pair, disparity, seconds, method)
            found = benchmark.read(path)
            assert found.shape == disparity.shape and np.abs(found - disparity).max(initial=0) <= 1 / KITTI_SCALE, f"{path}: read back"
            progress()
        write_atomic(target, lambda file: _zip(folder, file))


def _read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    try:
        left, right = read_image(pair.left), read_image(pair.right)
    except ValueError as error:
        raise UserError(f"{error}; restore the benchmark's file") from None
    if left.shape != right.shape:
        sizes = " and ".join(f"{view.shape[1]}x{view.shape[0]}" for view in (left, right))
        raise UserError(f"{pair.left} and {pair.right} are {sizes}; expected two views of one size, so restore the benchmark's files")
    return left, right


def _check(disparity: np.ndarray, pair: Pair, size: tuple[int, ...], most: float) -> None:
    """Of the image's size, dense, and within what the files can hold. A file of another size fails the whole upload."""
    if disparity.shape != size:
        raise UserError(f"{pair.left}: the prediction is {disparity.shape[1]}x{disparity.shape[0]}, the image {size[1]}x{size[0]}")
    if broken := int((~np.isfinite(disparity) | (disparity < 0)).sum()):
        raise UserError(f"{pair.left}: {broken} predicted values are not finite or negative; the benchmark asks for dense disparity >= 0")
    if disparity.max(initial=0) > most:
        raise UserError(f"{pair.left}: disparity {disparity.max():.0f} does not fit the benchmark's files, which end at {most:.0f}")


def _zip(folder: Path, file) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
