"""What is in a data set, and what is wrong with it, before anything is trained on it. How it is shown is in `inspection_report`."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from train.augment.spatial import flip_horizontally
from train.datasets import SampleError
from train.sample import StereoSample
from train.sources import Source
from train.warp_check import AS_GIVEN, check_pair
from utils.errors import shorten

BINS = 32
FEW_VALID = 0.01  # of the pixels; laser ground truth covers 15 to 35 %
MANY_BEYOND = 0.2  # of the valid pixels at or beyond the network's range
MAJORITY = 0.5  # of the judged pairs: above it a reading is a finding about the data set, below it about single pairs
MOST_HASHED = 100_000  # files whose sizes are compared in search of duplicates


@dataclass
class Examined:
    """One pair, looked at. problem: why it could not be read; reading: what fits best; right: the same of the right view's ground truth,
    which horizontal flips train on."""

    key: str
    problem: str = ""
    reading: str | None = None
    right: str | None = None
    size: tuple[int, int] = (0, 0)
    valid: float = 0.0
    beyond: float = 0.0
    lowest: float = np.nan
    highest: float = np.nan
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))


@dataclass
class Inspected:
    """A data set. flags: what a user should mend, a line each; none when all is well."""

    name: str
    kind: str
    total: int
    examined: list[Examined]
    edges: np.ndarray
    flags: list[str] = field(default_factory=list)

    @property
    def readable(self) -> list[Examined]:
        return [pair for pair in self.examined if not pair.problem]

    @property
    def readings(self) -> Counter[str]:
        """How many pairs fit which reading of the ground truth best."""
        return Counter(pair.reading or "too little texture" for pair in self.readable)

    @property
    def histogram(self) -> np.ndarray:
        """Shares of the valid pixels between `edges`; the last bin holds all beyond."""
        counts = np.sum([pair.counts for pair in self.examined], axis=0, dtype=np.int64)
        return counts / max(counts.sum(), 1)


def inspect_source(source: Source, *, samples: int, max_disparity: float, progress: Callable[[], object] = lambda: None) -> Inspected:
    """Look at up to `samples` pairs, spread evenly over the data set.

    max_disparity: pixels; the range of the histogram and what `beyond` is measured against. progress: called after every pair.
    """
    edges = np.linspace(0, max_disparity, BINS)
    chosen = source.indices[np.unique(np.linspace(0, len(source.indices) - 1, min(samples, len(source.indices))).astype(int))]

    def look(index: int) -> Examined:
        found = _examine(source, int(index), edges)
        progress()
        return found

    with ThreadPoolExecutor() as pool:  # decoding and filters release the interpreter
        examined = list(pool.map(look, chosen))
    inspected = Inspected(
        source.name, getattr(source.dataset, "kind", type(source.dataset).__name__.lower()), len(source.indices), examined, edges
    )
    inspected.flags = list(_flags(inspected))
    return inspected


def _examine(source: Source, index: int, edges: np.ndarray) -> Examined:
    try:
        sample = source.dataset.load(index)
    except SampleError as error:
        return Examined(source.dataset.key(index), problem=str(error))
    known = sample.disparity[sample.valid]
    counts, _ = np.histogram(np.minimum(known, edges[-1]), bins=[*edges, np.inf])
    return Examined(
        sample.key,
        reading=check_pair(sample).reading,
        right=None if sample.disparity_right is None else check_pair(flip_horizontally(sample)).reading,
        size=(sample.disparity.shape[1], sample.disparity.shape[0]),
        valid=float(sample.valid.mean()),
        beyond=float((known >= edges[-1]).mean()) if known.size else 0.0,
        lowest=float(known.min(initial=np.inf)) if known.size else np.nan,
        highest=float(known.max(initial=0)) if known.size else np.nan,
        counts=counts,
    )


def _flags(found: Inspected) -> Iterable[str]:
    broken = [pair for pair in found.examined if pair.problem]
    if broken:
        yield f"{len(broken)} of {len(found.examined)} pairs cannot be read: {shorten([pair.problem for pair in broken], 3)}"
    pairs = found.readable
    empty = [pair.key for pair in pairs if pair.valid < FEW_VALID]
    if empty:
        yield (
            f"{len(empty)} of {len(pairs)} pairs have ground truth on less than {100 * FEW_VALID:g} % of their pixels: "
            f"{shorten(empty, 4)}; disparity of the wrong sign counts as unknown, as does what the encoding marks so: look at these two"
        )
    yield from _misread([(pair.key, pair.reading) for pair in pairs])
    yield from (f"right view: {line}" for line in _misread([(pair.key, pair.right) for pair in pairs]))
    far = [pair for pair in pairs if pair.beyond > MANY_BEYOND]
    if far:
        worst = max(pair.highest for pair in far)
        yield (
            f"{len(far)} of {len(pairs)} pairs have more than {100 * MANY_BEYOND:g} % of their ground truth at or beyond "
            f"{found.edges[-1]:g} px, up to {worst:.0f} px, which is not trained on: "
            + (
                "no image is that wide, so look at the unit (scale, format; with depth the focal length and the baseline in metres)"
                if all(pair.highest > pair.size[0] for pair in far)
                else "raise model.max_disp and data.max_disparity, or use smaller images"
            )
        )


def _misread(readings: Sequence[tuple[str, str | None]]) -> Iterable[str]:
    """readings: of pairs by their keys, None of those that cannot be judged."""
    judged = [(key, reading) for key, reading in readings if reading is not None]
    for reading, count in Counter(reading for _, reading in judged).most_common():
        if reading == AS_GIVEN:
            continue
        keys = shorten([key for key, its in judged if its == reading], 4)
        what = "the ground truth does not explain the images" if reading == "unrelated" else f"{reading}, by what the images show"
        whole = "the data set" if count > MAJORITY * len(judged) else "single pairs"
        yield f"{what}: {count} of {len(judged)} pairs ({whole}): {keys}"


def find_duplicates(sources: Sequence[Source]) -> list[str]:
    """Left images with the same bytes, of one data set or of two, a line for each group. Only files of one size are read."""
    by_size: dict[int, list[tuple[str, Path]]] = {}
    looked_at = 0
    for source in sources:
        for index in source.indices:
            files = source.dataset.files(int(index))
            looked_at += 1
            if not files or looked_at > MOST_HASHED or not os.access(files[0], os.R_OK):
                continue
            by_size.setdefault(files[0].stat().st_size, []).append((f"{source.name}/{source.dataset.key(int(index))}", files[0]))
    groups: dict[bytes, list[str]] = {}
    for same_size in by_size.values():
        if len({path for _, path in same_size}) > 1:
            for name, path in same_size:
                groups.setdefault(hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), []).append(name)
    return [f"the same picture more than once: {shorten(names, 4)}" for names in groups.values() if len(names) > 1]


def find_leaks(trained: Sequence[Source], measured: Sequence[Source]) -> list[str]:
    """A line for each data set of the validation whose left images are trained on as well."""
    seen = {file: source.name for source in trained for index in source.indices for file in source.dataset.files(int(index))[:1]}
    lines = []
    for source in measured:
        both = [name for index in source.indices for file in source.dataset.files(int(index))[:1] if (name := seen.get(file))]
        if both:
            lines.append(
                f"{source.name}: {len(both)} of {len(source.indices)} pairs of the validation are trained on as well, in '{both[0]}'; "
                "name another part of it, or other pairs"
            )
    return lines


def augmented(source: Source, count: int, size: tuple[int, int], seed: int) -> list[StereoSample]:
    """Samples as training would get them, at `size` (width, height); broken ones are left out."""
    found = []
    for number, index in enumerate(source.indices[:: max(1, len(source.indices) // max(count, 1))][:count]):
        try:
            sample = source.dataset.load(int(index))
        except SampleError:
            continue
        found.append(source.augment(sample, size, np.random.default_rng([seed, number])))
    return found
