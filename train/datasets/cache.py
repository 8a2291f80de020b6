"""Decoded and resized samples on a fast disk: a data set in front of another one. What is not there is read, stored and used.

    <root>/<type>-<hash of the settings>/settings.json      type, folder, parameters, size and VERSION, for people
    <root>/<type>-<hash of the settings>/3f/3fa2....npz     one sample, named by a hash of its key

Other settings are another folder, so nothing is used that was made otherwise. An entry knows its source files: their sizes and times of
change are compared whenever it is used, which costs one call each; their SHA-256, which costs reading them, when a build verifies. Any
number of runs may share a cache: an entry is published by renaming, and who comes second writes the same. Filling it ahead is done in
`train.cache_build`.

Entries are uncompressed: at 640 x 480 one is 3.1 MB and read in 1.4 ms; deflated 2.6 MB and 14 ms, with images as PNG 2.3 MB and 18 ms.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from train.augment.spatial import resize
from train.datasets.base import SampleError, StereoDataset
from train.datasets.readers import UNREADABLE
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.errors import UserError
from utils.files import sha256, write_atomic

log = logging.getLogger("stereofoundry")

VERSION = 2  # of what is stored: to be raised when a reader, the renderer or the way of resizing gives other numbers
STORED, MASKS = ("left", "right", "disparity", "disparity_right", "pose"), ("valid", "valid_right", "occluded")
DAMAGE = (*UNREADABLE, OSError, KeyError, TypeError)
MEND = "run scripts/build_cache.py with this configuration, or set cache.require to false"


class Cached:
    """The samples of `dataset` at `size` (width, height), or as they are stored, out of `root` where they are there.

    type, path, params: what `dataset` was built from. require: raise UserError for what is not there, and read no source file.
    """

    def __init__(
        self,
        dataset: StereoDataset,
        type: str,
        path: Path | None,
        params: Mapping[str, Any],
        *,
        root: Path,
        size: tuple[int, int] | None,
        require: bool = False,
    ) -> None:
        self.dataset, self.size, self.require = dataset, size, require
        self.has_right_disparity, self.has_pose = dataset.has_right_disparity, dataset.has_pose
        folder = None if path is None else str(path.resolve())
        settings = {"type": type, "path": folder, "params": dict(params), "size": size, "version": VERSION}
        self._settings = json.dumps(settings, indent=2, sort_keys=True, default=str)
        self.folder = root / f"{type}-{_digest(self._settings)}"
        self._writable = True

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, i: int) -> str:
        return self.dataset.key(i)

    def files(self, i: int) -> list[Path]:
        return self.dataset.files(i)

    def load(self, i: int) -> StereoSample:
        """Raises `SampleError` as the data set does, and UserError where the cache is required and cannot serve."""
        try:
            return self.read(i)
        except CacheMiss as miss:
            if self.require:
                raise UserError(f"the cache {miss}; {MEND}") from None
        sources = self._sources(i)
        sample = self._convert(self.dataset.load(i))
        if self._writable:
            try:
                self.write(i, sample, sources)
            except OSError as error:
                self._writable = False  # a full disk is no reason to end a run
                log.warning("cache %s: cannot be written (%s); samples are read from their files from now on", self.folder, error.strerror)
        return sample

    # ---- entries ----

    def entry(self, i: int) -> Path:
        """Where sample `i` is stored."""
        name = _digest(self.key(i))
        return self.folder / name[:2] / f"{name}.npz"

    def read(self, i: int) -> StereoSample:
        """Sample `i` out of the cache. Raises `CacheMiss` where it is not there, damaged, or of other source files."""
        with self._open(i) as (about, file):
            return _unpack(about, {name: file[name] for name in file.files if name != "about"}).replace(key=self.key(i))

    def check(self, i: int, *, content: bool) -> None:
        """Raises `CacheMiss` where `read` would, but for damage inside. content: there as well, and where source files differ inside."""
        with self._open(i) as (about, file):
            if not content:
                return
            for name in file.files:
                file[name]  # which compares its checksum
            if [source["sha256"] for source in about["sources"]] != [sha256(path) for path in self.files(i)]:
                raise CacheMiss(f"{self.folder} has '{self.key(i)}' of other source files: their content differs")

    @contextmanager
    def _open(self, i: int) -> Iterator[tuple[dict[str, Any], Any]]:
        path = self.entry(i)
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                self._compare(i, about["sources"])
                yield about, file
        except FileNotFoundError:
            raise CacheMiss(f"{self.folder} lacks '{self.key(i)}'") from None
        except DAMAGE as error:
            raise CacheMiss(f"{path}, entry of '{self.key(i)}', is damaged ({error})") from None

    def build(self, i: int) -> None:
        """Read sample `i` from its files and store it. Raises `SampleError`, or OSError where the cache cannot be written."""
        sources = self._sources(i)
        self.write(i, self._convert(self.dataset.load(i)), sources)

    def write(self, i: int, sample: StereoSample, sources: Sequence[Mapping[str, Any]]) -> None:
        if not (self.folder / "settings.json").exists():
            write_atomic(self.folder / "settings.json", self._settings)
        about = {
            "key": self.key(i),
            "sources": list(sources),
            "size": sample.disparity.shape[::-1],
            "sparse": sample.sparse,
            "calibration": None if sample.calibration is None else asdict(sample.calibration),
        }
        arrays = {name: array for name in STORED if (array := getattr(sample, name)) is not None}
        arrays |= {name: np.packbits(mask) for name in MASKS if (mask := getattr(sample, name)) is not None}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        write_atomic(self.entry(i), lambda file: np.savez(file, **arrays))

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Those of `indices` that no entry is there for, by listing the cache; no entry is opened."""
        there = {path.name for path in self.folder.glob("??/*.npz")}
        return [int(i) for i in indices if self.entry(int(i)).name not in there]

    def _convert(self, sample: StereoSample) -> StereoSample:
        size = self.size
        if size is None:
            return sample
        calibration = None if sample.calibration is None else sample.calibration.scaled(size)
        return resize(sample, size).replace(calibration=calibration)

    def _sources(self, i: int) -> list[dict[str, Any]]:
        """The files of sample `i` as they are now. Taken before they are decoded, so that one that changes meanwhile is out of date."""
        try:
            return [{**_stamp(file), "sha256": sha256(file)} for file in self.files(i)]
        except OSError as error:
            raise SampleError(f"{self.key(i)}: {error}") from error

    def _compare(self, i: int, sources: Sequence[Mapping[str, Any]]) -> None:
        try:
            now = [_stamp(file) for file in self.files(i)]
        except OSError:
            now = None
        if now != [{name: value for name, value in source.items() if name != "sha256"} for source in sources]:
            raise CacheMiss(f"{self.folder} has '{self.key(i)}' of other source files: sizes or times of change differ")


class CacheMiss(Exception):
    """Why the cache cannot serve a sample."""


def _stamp(file: Path) -> dict[str, Any]:
    found = os.stat(file)
    return {"name": file.name, "bytes": found.st_size, "changed_ns": found.st_mtime_ns}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _unpack(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> StereoSample:
    width, height = about["size"]
    masks = {
        name: np.unpackbits(array, count=width * height).reshape(height, width).view(bool)
        for name, array in arrays.items()
        if name in MASKS
    }
    calibration = about["calibration"]
    if calibration is not None:
        pairs = {name: tuple(value) if isinstance(value, list) else value for name, value in calibration.items()}
        calibration = Calibration(**pairs)
    return StereoSample(**{**arrays, **masks}, sparse=about["sparse"], calibration=calibration)
