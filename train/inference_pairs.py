"""Pairs to infer from, as people have them: two files, folders or patterns, side-by-side pictures, videos. Which belong together, and in
which order they come; what is computed of them is in `inference`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from train.datasets.layout import find, from_glob
from utils.errors import UserError, shorten
from utils.images import read_image
from utils.video import VideoReader, is_video

FIELDS = re.compile(r"[*{]")  # what makes a path a pattern
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp"})
EYES = frozenset({"left", "right", "l", "r"})  # pieces of names that say which eye, and nothing else


@dataclass(frozen=True, eq=False)
class Pair:
    """uint8 (H, W, 3) RGB views of one size. name: a relative path for what is written of it, "" for the only pair there is.

    source: path of the left view. calibration: path of its file, where one was asked for.
    """

    name: str
    left: np.ndarray
    right: np.ndarray
    source: str
    calibration: Path | None = None


class Pairs(Protocol):
    """Pairs in their order, read one by one. Raises UserError for one that cannot be read, or whose sizes differ.

    fps: frames per second of a video, None for pictures. len: how many are expected, 0 where that is not known.
    names: of the pairs that are expected. inputs: every file that is read; calibrations: those among them that are one.
    """

    fps: float | None
    names: list[str]
    inputs: list[Path]
    calibrations: list[Path]

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Pair]: ...


def open_pairs(
    left: str | None = None, right: str | None = None, *, side_by_side: str | None = None, calibration: str | None = None
) -> Pairs:
    """left, right: both a file, a folder, a pattern such as `scenes/*/im0.png`, or a video; side_by_side: one of these, with the left view
    in the left half. calibration: a file for all, or a pattern with the same wildcards.

    Folders and patterns are paired by the names of their files, or by what the wildcards stand for, never by position. Raises UserError
    where something is missing or has no partner.
    """
    if side_by_side is not None:
        if left is not None or right is not None:
            raise UserError("--side_by_side: holds both views, so --left and --right do not go with it; leave them out")
        views = ["--side_by_side"], [side_by_side]
    elif left is None or right is None:
        missing = "--right" if right is None else "--left"
        raise UserError(f"{missing}: not given; pass --left and --right (files, folders, patterns, videos), or --side_by_side")
    else:
        views = ["--left", "--right"], [left, right]
    specs = [str(Path(spec).expanduser()) for spec in views[1]]
    videos = [is_video(Path(spec)) for spec in specs]
    if any(videos):
        if not all(videos) or any(FIELDS.search(spec) for spec in specs):
            raise UserError(f"{' and '.join(specs)}: expected two videos, or no video at all; one pair of videos at a time")
        if len(specs) == 2:
            _refuse_same(Path(specs[0]), Path(specs[1]))
        return VideoPairs([Path(spec) for spec in specs], _one_calibration(calibration))
    tables = [list_files(spec, option) for option, spec in zip(*views, strict=True)]
    if len(tables) == 2:
        tables = _matched(tables, specs)
        for name, file in tables[0].items():
            _refuse_same(file, tables[1][name])
    names = sorted(tables[0])
    return PicturePairs(names, [[table[name] for table in tables] for name in names], _calibrations(calibration, names))


class PicturePairs:
    """Of picture files: `files` holds the left and the right one of each name, or the one that shows both."""

    fps = None

    def __init__(self, names: list[str], files: list[list[Path]], calibrations: list[Path | None]) -> None:
        self._rows = list(zip(names, files, calibrations, strict=True))
        self.names, self.calibrations = names, [path for path in dict.fromkeys(calibrations) if path is not None]
        self.inputs = [*(file for row in files for file in row), *self.calibrations]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Pair]:
        for name, files, calibration in self._rows:
            views = [_read(file) for file in files]
            left, right = views if len(views) == 2 else halves(views[0], files[0])
            yield _pair(name, left, right, files, calibration)


class VideoPairs:
    """Of two videos, or of one that shows both views. Frames are paired in their order; a video that ends before the other is an error."""

    def __init__(self, files: list[Path], calibration: Path | None) -> None:
        self._files, self._calibration = files, calibration
        readers = [VideoReader(file) for file in files]
        self.fps = readers[0].fps
        counts = [reader.frames for reader in readers]
        for reader in readers:
            reader.close()
        self._expected = min(counts)
        self.names = [_frame(i) for i in range(max(1, self._expected))]
        self.calibrations = [] if calibration is None else [calibration]
        self.inputs = [*files, *self.calibrations]
        if len(counts) == 2 and all(counts) and counts[0] != counts[1]:
            raise UserError(
                f"{files[0]} has {counts[0]} frames, {files[1]} {counts[1]}; expected videos of the same length, recorded in step; cut the "
                "longer one to the other's frames"
            )

    def __len__(self) -> int:
        return self._expected

    def __iter__(self) -> Iterator[Pair]:
        readers = [VideoReader(file) for file in self._files]
        try:
            streams = [iter(reader) for reader in readers]
            count = 0
            while True:
                views = [next(stream, None) for stream in streams]
                if any(view is None for view in views):
                    break
                left, right = views if len(views) == 2 else halves(views[0], self._files[0])
                yield _pair(_frame(count), left, right, self._files, self._calibration)
                count += 1
            ended = self._files[next(i for i, view in enumerate(views) if view is None)]
            if count < self._expected - 1 or any(view is not None for view in views):  # some files count a frame that no decoder gives
                raise UserError(
                    f"{ended}: ended after {count} frames, expected {self._expected or 'more'}; the file is cut off or damaged, and what "
                    "was found up to here is kept"
                )
        finally:
            for reader in readers:
                reader.close()


def list_files(spec: str, option: str) -> dict[str, Path]:
    """Name -> picture: of a file "", of a folder the paths below it without suffix, of a pattern what its wildcards stand for."""
    path = Path(spec)
    if path.is_file():
        return {"": path}
    if path.is_dir():
        root, template = path, "{folder:**}/{name}.{suffix}"
    elif FIELDS.search(spec):
        fixed = next(i for i, part in enumerate(path.parts) if FIELDS.search(part))
        root, template = Path(*path.parts[:fixed]), _template("/".join(path.parts[fixed:]), option)
    else:
        raise UserError(f"{option} {spec}: no such file or folder; expected a picture, a folder, a pattern (in quotes), or a video")
    found: dict[str, Path] = {}
    for file, fields in (find(root, template) if root.is_dir() else {}).items():
        if path.is_dir() and Path(file).suffix.lower() not in PICTURES:
            continue
        name = "/".join(value for field, value in fields.items() if field != "suffix" and value)
        if name in found:
            raise UserError(f"{option} {spec}: {found[name]} and {root / file} are two files for '{name}'; remove one of them")
        found[name] = root / file
    if not found:
        raise UserError(f"{option} {spec}: no picture found; expected files such as 0000.png below {root}")
    return found


def halves(image: np.ndarray, where: object) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of a side-by-side picture. Raises UserError where its width is odd."""
    width = image.shape[1]
    if width % 2:
        raise UserError(f"{where}: {width} pixels wide; a side-by-side picture has two halves of the same width")
    return np.ascontiguousarray(image[:, : width // 2]), np.ascontiguousarray(image[:, width // 2 :])


def _template(pattern: str, option: str) -> str:
    try:
        return from_glob(pattern)
    except UserError as error:
        raise UserError(f"{option}: {error}") from None


def _matched(tables: list[dict[str, Path]], specs: list[str]) -> list[dict[str, Path]]:
    """Both tables under the same names, those of the left one where only the word for the eye differs. UserError for what is left over."""
    left, right = tables
    if left.keys() != right.keys():
        ours, theirs = ({_without_eye(name): name for name in table} for table in tables)
        if ours.keys() == theirs.keys() and len(ours) == len(left) and len(theirs) == len(right):
            return [{name: left[ours[name]] for name in ours}, {name: right[theirs[name]] for name in ours}]
        lonely = [f"{left[name]} has no right view" for name in sorted(left.keys() - right.keys())]
        lonely += [f"{right[name]} has no left view" for name in sorted(right.keys() - left.keys())]
        raise UserError(
            f"{specs[0]} ({len(left)} files) and {specs[1]} ({len(right)}) do not pair: {shorten(lonely, 3)}; give both views of a pair "
            "the same name, or pass patterns whose wildcards stand for the same"
        )
    return tables


def _frame(number: int) -> str:
    """What a pair of a video is called."""
    return f"{number:06d}"


def _refuse_same(left: Path, right: Path) -> None:
    if left.exists() and right.exists() and left.samefile(right):
        raise UserError(
            f"--left and --right: {left} would be both views of a pair; pass the other eye's file as --right, or of a folder with both "
            "eyes patterns such as '*_left.png' and '*_right.png'"
        )


def _without_eye(name: str) -> str:
    """`a/0001_left` and `a/0001_right` are both `a/0001`."""
    parts = [[piece for piece in re.split(r"[_\-. ]", part) if piece.lower() not in EYES] for part in name.split("/")]
    return "/".join("_".join(pieces) for pieces in parts if pieces)


def _one_calibration(calibration: str | None) -> Path | None:
    return None if calibration is None else Path(calibration).expanduser()


def _calibrations(calibration: str | None, names: list[str]) -> list[Path | None]:
    path = _one_calibration(calibration)
    if path is None or path.is_file() or not FIELDS.search(str(path)):
        return [path] * len(names)
    found = list_files(str(path), "--calibration")
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"--calibration {calibration}: none for {shorten(missing, 3)}; expected the wildcards of --left, and a file for each pair"
        )
    return [found[name] for name in names]


def _read(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def _pair(name: str, left: np.ndarray, right: np.ndarray, files: list[Path], calibration: Path | None) -> Pair:
    if left.shape != right.shape:
        sizes = " and ".join(f"{view.shape[1]} x {view.shape[0]}" for view in (left, right))
        raise UserError(f"{' and '.join(map(str, files))}: {sizes}; the views of a pair have one size")
    return Pair(name, left, right, str(files[0]), calibration)
