"""Measuring a network on fixed samples while it trains. The samples are whole images (or centred crops), never augmented, and go through
`infer`, the same path that people use; what is measured is in `metrics`.
"""

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from core.inference import Estimate
from train.config import ValidationConfig
from train.dataloader import limit_disparity, load_twice
from train.datasets import SampleError
from train.metrics import POSE_MSE, VALIDATED, MetricSums
from train.sample import StereoSample
from train.sources import Source
from utils.errors import UserError, did_you_mean

log = logging.getLogger("stereofoundry")

BINS_PER_PX = 16


class ValidationSet:
    """The first `max_samples` held samples of every source, shared among processes by position."""

    def __init__(self, sources: Sequence[Source], config: ValidationConfig, max_disparity: float | None) -> None:
        self.items = [(source, int(index)) for source in sources for index in source.indices[: config.max_samples]]
        self._size = config.size
        self._max_disparity = max_disparity
        self.metrics = VALIDATED
        if config.best is not None and len(self):
            dataset, _, metric = config.best.rpartition("/")
            if dataset and dataset not in self.counts():
                raise UserError(f"validation.best: no held samples of '{dataset}'{did_you_mean(dataset, self.counts())}")
            self.metrics = tuple(dict.fromkeys((*VALIDATED, *({metric} - {POSE_MSE}))))

    def __len__(self) -> int:
        return len(self.items)

    def load(self, position: int) -> StereoSample:
        """Raises UserError for a file that cannot be read: a number over fewer samples would not be comparable."""
        source, index = self.items[position]
        try:
            sample = load_twice(source.dataset, index)
        except SampleError as error:
            raise UserError(
                f"validation: sample {source.name}/{source.dataset.key(index)} cannot be read; mend or remove it: {error}"
            ) from None
        if self._size is not None:
            sample = source.augment(sample, self._size, np.random.default_rng(0))
        return limit_disparity(sample, self._max_disparity)

    def load_if_there(self, position: int) -> StereoSample | None:
        """None, and a warning, for a file that cannot be read any more: days into a run that is no reason to end it."""
        try:
            return self.load(position)
        except UserError as error:
            log.warning("%s; left out until then", error)
            return None

    def name(self, position: int) -> str:
        """Of its data set."""
        return self.items[position][0].name

    def counts(self) -> dict[str, int]:
        """Samples per data set."""
        names = [source.name for source, _ in self.items]
        return {name: names.count(name) for name in dict.fromkeys(names)}


def validate(
    held: ValidationSet,
    predict: Callable[[StereoSample], Estimate],
    *,
    rank: int,
    ranks: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    strict: bool = True,
) -> dict[str, float]:
    """Metrics over the validation samples, all pooled over pixels, overall and as `<data set>/<metric>`; `pose_mse` where poses were found
    and are known.

    reduce: sums a float64 tensor over the processes; all of them call this together.
    strict: raise UserError for a sample that cannot be read; otherwise the numbers are of the others, and `missing` says of how many not.
    """
    sums, poses = MetricSums(list(held.counts()), held.metrics), MetricSums(list(held.counts()), ["mse"])
    missing = 0
    for position in range(rank, len(held), ranks):
        sample, name = held.load(position) if strict else held.load_if_there(position), [held.name(position)]
        if sample is None:
            missing += 1
            continue
        found = predict(sample)
        sums.add(*(torch.from_numpy(part)[None] for part in (found.disparity, sample.disparity, sample.valid)), name)
        if found.pose is not None and sample.pose is not None:
            pair = (torch.from_numpy(pose)[None, None] for pose in (found.pose, sample.pose))
            poses.add(*pair, torch.ones(1, 1, 6, dtype=torch.bool), name)
    errors = {f"{label.removesuffix('mse')}{POSE_MSE}": value for label, value in poses.reduce(reduce).items() if not math.isnan(value)}
    if not strict and (count := int(reduce(torch.tensor(missing, dtype=torch.float64)))):
        errors["missing"] = count
    return sums.reduce(reduce) | errors


def constant_epe(held: ValidationSet) -> float:
    """EPE in pixels of the best constant disparity, the median of all valid ground truth: what a network that sees nothing reaches.

    Computed from a histogram with bins of 1/16 px, so it is right to 1/16 px.
    """
    counts = np.zeros(1, np.int64)
    for position in range(len(held)):
        sample = held.load(position)
        found = np.bincount((sample.disparity[sample.valid] * BINS_PER_PX).astype(np.int64), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    if not counts.sum():
        return float("nan")
    centres = (np.arange(len(counts)) + 0.5) / BINS_PER_PX
    median = centres[np.searchsorted(counts.cumsum(), counts.sum() / 2)]
    return float((counts * np.abs(centres - median)).sum() / counts.sum())


def constant_pose_mse(held: ValidationSet) -> float:
    """`pose_mse` of the best constant pose, the mean of all that are known: what a network that sees nothing reaches."""
    poses = [sample.pose for position in range(len(held)) if (sample := held.load(position)).pose is not None]
    return float(np.var(poses, axis=0, dtype=np.float64).mean())
