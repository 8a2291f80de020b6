"""The layout of FoundationStereo's data set, and of users' own pairs: three folders, files of one name. Decoding is in `readers`.

    <path>/**/left/rgb/0000.jpg   <path>/**/right/rgb/0000.jpg   <path>/**/left/disparity/0000.png

directly under the path or in scene folders at any depth (`<scene>/dataset/data/left/rgb/...` as published).
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from train.datasets.base import DATASETS, SampleError
from train.datasets.readers import read_fsd_disparity
from train.sample import StereoSample
from utils.errors import UserError
from utils.images import read_image

IMAGES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
SIDES = {"left/rgb": IMAGES, "right/rgb": IMAGES, "left/disparity": (".png", ".PNG")}
LAY_OUT = (
    "put pairs there as left/rgb/0000.jpg, right/rgb/0000.jpg and left/disparity/0000.png (one name for the three, png or jpg images; "
    "scene folders at any depth may hold them), or start with --config quickstart.json, which needs no data"
)


@DATASETS.register("fsd")
class FSD:
    """Pairs under `path`. Valid where 0 < disparity (< `max_disparity`); the data set has no right-view disparity.

    max_disparity: larger ground truth counts as unknown, in pixels of the stored image.
    allow_unpaired: leave files out that lack a partner, instead of stopping.
    """

    has_right_disparity = False

    def __init__(
        self, path: Path | None, *, max_disparity: Annotated[float, Field(gt=0)] | None = None, allow_unpaired: bool = False
    ) -> None:
        if path is None:
            raise UserError(f"fsd: no path given; name a folder, {LAY_OUT}")
        if not path.is_dir():
            found = "is a file, not a folder" if path.exists() else "no such folder"
            raise UserError(f"fsd: {_shown(path)}: {found}; {LAY_OUT}")
        self.path = path
        self.max_disparity = max_disparity
        self._list(_data_folders(path), allow_unpaired)

    def _list(self, folders: list[str], allow_unpaired: bool) -> None:
        listings = [_list_folder(self.path / folder) for folder in folders]
        complete = [sorted(set.intersection(*(set(names) for names in listing.values()))) for listing in listings]
        unpaired = [
            f"{_join(folder, name)} lacks {' and '.join(side for side in SIDES if name not in listing[side])}"
            for folder, listing, names in zip(folders, listings, complete, strict=True)
            for name in sorted(set().union(*listing.values()).difference(names))
        ]
        pairs = sum(map(len, complete))
        if unpaired and not (allow_unpaired and pairs):
            more = f" and {len(unpaired) - 3} more" if len(unpaired) > 3 else ""
            raise UserError(
                f"fsd: {_shown(self.path)}: {len(unpaired)} unpaired beside {pairs} complete pairs: {'; '.join(unpaired[:3])}{more}; "
                "the three files of a pair must have one name; add the missing ones"
                + (" or set allow_unpaired to true to leave these out" if pairs else "")
            )
        if not pairs:
            raise UserError(
                f"fsd: no pair under {_shown(self.path)} (looked for left/rgb/*.{{jpg,jpeg,png}} directly and in */dataset/data/... "
                f"and other folders at any depth); {LAY_OUT}"
            )
        # Arrays and not lists of strings: a million of those would cost each worker process a copy.
        self._folders = folders
        self._folder = np.repeat(np.arange(len(folders), dtype=np.int32), [len(names) for names in complete])
        self._name = np.array([name for names in complete for name in names])
        self._suffix = {
            side: np.array(
                [suffixes.index(listing[side][name]) for listing, names in zip(listings, complete, strict=True) for name in names], np.uint8
            )
            for side, suffixes in SIDES.items()
        }

    def __len__(self) -> int:
        return len(self._name)

    def key(self, i: int) -> str:
        """The file's name without its ending, after the folders between `path` and `left`: `scene_1/dataset/data/0000`."""
        return _join(self._folders[self._folder[i]], str(self._name[i]))

    def files(self, i: int) -> list[Path]:
        """Left image, right image, disparity."""
        folder = self.path / self._folders[self._folder[i]]
        return [folder / side / f"{self._name[i]}{suffixes[self._suffix[side][i]]}" for side, suffixes in SIDES.items()]

    def load(self, i: int) -> StereoSample:
        files = self.files(i)
        try:
            left, right = read_image(files[0]), read_image(files[1])
            disparity, valid = read_fsd_disparity(files[2])
        except (OSError, ValueError) as error:
            raise SampleError(f"fsd: {self.key(i)}: {error}") from error
        if not left.shape[:2] == right.shape[:2] == disparity.shape:
            sizes = ", ".join(f"{p} is {a.shape[1]}x{a.shape[0]}" for p, a in zip(files, (left, right, disparity), strict=True))
            raise SampleError(f"fsd: {self.key(i)}: sizes differ: {sizes}")
        if self.max_disparity is not None:
            valid &= disparity < self.max_disparity
            disparity[~valid] = 0
        return StereoSample(left=left, right=right, disparity=disparity, valid=valid, key=self.key(i))


def _data_folders(path: Path) -> list[str]:
    """Folders that hold `left/rgb` or one of the other two, relative to `path` with `/` between the parts, sorted; "" is `path` itself."""
    found: list[str] = []
    waiting = [""]
    files_only: set[str] = set()
    seen = {os.path.realpath(path)}
    while waiting:
        folder = waiting.pop()
        inside = _subfolders(path / folder, seen)
        sides = [side for side in SIDES if side.split("/")[0] in inside and (path / folder / side).is_dir()]
        if sides:
            found.append(folder)
        files_only.update(_join(folder, side) for side in sides)
        waiting += [inner for name in inside if (inner := _join(folder, name)) not in files_only]
    return sorted(found)


def _subfolders(folder: Path, seen: set[str]) -> list[str]:
    """Names of the folders in `folder`; a link is followed unless it leads to where we have been."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target in seen:
                    continue
                seen.add(target)
            names.append(entry.name)
    return names


def _list_folder(folder: Path) -> dict[str, dict[str, str]]:
    """For each side the file names without ending, and their endings. No file is touched: a million entries take seconds."""
    return {side: _names(folder / side, suffixes) for side, suffixes in SIDES.items()}


def _names(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    if not folder.is_dir():
        return names
    with os.scandir(folder) as entries:
        for entry in entries:
            name, suffix = os.path.splitext(entry.name)
            if suffix not in suffixes or name.startswith("."):
                continue
            if name in names:
                raise UserError(f"fsd: {folder}: two images called {name} ({names[name]} and {suffix}); remove one of them")
            names[name] = suffix
    return names


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _shown(path: Path) -> str:
    """A relative path with `./`, so that it reads as a folder in the middle of a sentence."""
    return str(path) if path.is_absolute() or path.parts[:1] == ("..",) else f"./{path.as_posix()}"
