"""Which samples take part in a run, and what is done to each: data sets opened, cut to a list or a part, cached, augmented.

What a step draws from them is in `dataloader`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.augment.pipeline import Augmentation
from train.config import DataConfig, DatasetEntry, RunConfig, expand
from train.datasets import StereoDataset, build_dataset
from train.datasets.cache import MEND, Cached
from train.losses import Objective
from train.sample import StereoSample
from utils.errors import UserError
from utils.files import inside

Augment = Callable[[StereoSample, tuple[int, int], np.random.Generator], StereoSample]
Part = Literal["all", "train", "val"]


@dataclass(frozen=True)
class Source:
    """One data set of a mixture, with which of its samples take part and what is done to them."""

    name: str
    dataset: StereoDataset
    indices: np.ndarray
    weight: float
    label_type: str
    augment: Augment


def open_sources(config: RunConfig) -> tuple[list[Source], list[Source]]:
    """The data sets of a run -> (what is trained on, what is measured on). Raises UserError as `build_sources` does."""
    data, validation = config.data, config.validation
    if validation.every == 0:
        return build_sources(data.datasets, data, "data.datasets", validation.fraction, part="all")[0], []
    if not validation.datasets:
        return build_sources(data.datasets, data, "data.datasets", validation.fraction)
    kept, _ = build_sources(data.datasets, data, "data.datasets", validation.fraction, part="all")
    plain = data.model_copy(update={"image_augmentation": [], "stereo_augmentation": False, "cache": None})
    held, _ = build_sources(validation.datasets, plain, "validation.datasets", validation.fraction, part="all")
    return kept, held


def build_sources(
    entries: Sequence[DatasetEntry], data: DataConfig, where: str, fraction: float = 0.0, part: Part = "train", cached: bool = True
) -> tuple[list[Source], list[Source]]:
    """Open the data sets of `entries` -> (the part of each that takes part, what is held back of each).

    fraction: share held back of entries that do not name their own. part: of those that do not name one; something is held back of
    `train` only. cached: through the cache, where one is configured; else always from the files.
    Raises UserError where a folder does not hold what its type expects, and for an entry without a sample.
    """
    kept, held = [], []
    for i, entry in enumerate(entries):
        here = f"{where}[{i}]"
        try:
            folder = entry.folder(here, data.root)
            dataset = build_dataset(entry.type, folder, entry.params, "params")
            chosen, back = select_samples(dataset, folder, entry, fraction, part)
        except UserError as error:
            raise UserError(f"{here} '{entry.name}': {error}") from None
        image = data.image_augmentation if entry.image_augmentation is None else entry.image_augmentation
        stereo = data.stereo_augmentation if entry.stereo_augmentation is None else entry.stereo_augmentation
        cache, read = data.cache_of(entry), dataset
        if cached and cache is not None and cache.enabled:
            read = Cached(
                dataset, entry.type, folder, entry.params, root=cache.folder(f"{here}.cache"), size=cache.size, require=cache.require
            )
        kept.append(Source(entry.name, read, chosen, entry.share, entry.label_type, Augmentation(image, stereo, here)))
        still = Augmentation([], False, here)  # what is measured is whole, plain, and as it is stored
        held.append(Source(entry.name, dataset, back, entry.share, entry.label_type, still))
    return kept, held


def check_caches(sources: Sequence[Source]) -> None:
    """Raises UserError for a required cache that lacks samples, before a run begins and not when one of them is drawn."""
    for source in sources:
        if isinstance(source.dataset, Cached) and source.dataset.require:
            missing = source.dataset.missing(source.indices)
            if missing:
                raise UserError(
                    f"data set '{source.name}': the cache {source.dataset.folder} lacks {len(missing)} of {len(source.indices)} samples, "
                    f"the first '{source.dataset.key(missing[0])}'; {MEND}"
                )


def check_poses(sources: Sequence[Source], objective: Objective) -> None:
    """Raises UserError for a loss of poses that no data set of its label type has: it would be 0 for ever."""
    for label, name, weight in objective.needing("pose"):
        if weight and not any(source.dataset.has_pose for source in sources if source.label_type == label):
            raise UserError(
                f"loss.{label}.{name}: no data set of label type '{label}' has poses; give a synthetic one residual_pose or remove the loss"
            )


def select_samples(
    dataset: StereoDataset, folder: Path | None, entry: DatasetEntry, fraction: float, part: Part
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples that the entry asks for, and of those held back from it (of the part `train` only).

    Raises UserError for a list that names what is not there, and where nothing is left.
    """
    if entry.part is not None or entry.val_fraction is not None:
        part = entry.part or "train"
    fraction = fraction if entry.val_fraction is None else entry.val_fraction
    keys = [dataset.key(k) for k in range(len(dataset))]
    listed = np.arange(len(keys)) if entry.list_file is None else read_list(entry.list_file, folder, keys)
    rest, back = (listed[found] for found in hold_back([keys[k] for k in listed], fraction))
    chosen = {"all": listed, "train": rest, "val": back}[part]
    if not len(chosen):
        raise UserError(
            f"part '{part}' holds none of {len(listed)} samples (a share of {fraction:g} is held back, none of fewer than 10); "
            "name another val_fraction, or another part"
        )
    if entry.max_samples is not None and len(chosen) > entry.max_samples:
        chosen = np.sort(chosen[scores([keys[k] for k in chosen]).argsort(kind="stable")[: entry.max_samples]])
    return chosen, back if part == "train" else np.arange(0)


def read_list(name: str, folder: Path | None, keys: Sequence[str]) -> np.ndarray:
    """Indices, ascending, of the keys that stand in a text file, one a line; empty lines are passed over.

    name: relative to the data set's folder, which it may not leave, or absolute; `$VARIABLE` and `~` are for paths outside.
    """
    path = Path(expand(name, "list_file"))
    if not path.is_absolute():
        if folder is None:
            raise UserError(
                f"list_file: {name}: a relative path starts at the data set's folder, and this one has none; pass an absolute one"
            )
        path = inside(folder, str(path), "list_file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UserError(f"list_file: {path}: cannot be read ({reason}); expected keys of samples, one a line") from None
    places = {key: k for k, key in enumerate(keys)}
    for number, line in enumerate(lines, 1):
        if line and line not in places:
            raise UserError(f"list_file: {path}, line {number}: no sample is called '{line}'; keys look like '{keys[0]}'")
    found = sorted({places[line] for line in lines if line})
    if not found:
        raise UserError(f"list_file: {path}: is empty; expected keys of samples, one a line, such as '{keys[0]}'")
    return np.array(found)


def hold_back(keys: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples that stay, ascending, and of those held back, in the order of a hash of their keys.

    The choice depends on each key alone: adding samples moves no other from one side to the other. Of ten samples or more at least one is
    held back when `fraction` is above 0; of fewer none is.
    """
    if fraction <= 0 or len(keys) < 10:
        return np.arange(len(keys)), np.arange(0)
    found = scores(keys)
    order = found.argsort(kind="stable")
    count = max(1, int((found < fraction).sum()))
    return np.sort(order[count:]), order[:count]


def scores(keys: Sequence[str]) -> np.ndarray:
    """A number in [0, 1) for each key, of which it is a hash."""
    return np.array(
        [int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=6).digest(), "big") / 2**48 for key in keys]
    )
