"""Predictors measured on the images of a suite: one pass over it, on any number of processes, and the record that comes out.

Predictors are made by the caller; how a record is shown is in `measure_report`.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.datasets import SampleError
from train.predictors import SGBM, Predict
from train.scores import Scores, average, mean, score
from train.suites import Task
from utils.errors import UserError
from utils.versions import peak_memory_gib, reset_peak_memory


@dataclass
class Measured:
    """One image. position: of its task in the suite."""

    position: int
    scores: Scores
    size: tuple[int, int]
    seconds: float
    memory_gib: float


@dataclass
class Record:
    """What a predictor reached on a suite. about: what it was and how it was asked, plain values."""

    about: dict[str, Any]
    tasks: Sequence[Task]
    measured: list[Measured] = field(default_factory=list)

    @property
    def scenes(self) -> dict[str, dict[str, float]]:
        """Name -> number by label."""
        return {self.tasks[one.position].name: one.scores.values for one in self.measured}

    @property
    def datasets(self) -> dict[str, dict[str, float]]:
        """The same of every data set, averaged by its own protocol."""
        groups: dict[str, list[Measured]] = {}
        for one in self.measured:
            groups.setdefault(self.tasks[one.position].source.name, []).append(one)
        protocols = {name: self.tasks[group[0].position].protocol for name, group in groups.items()}
        return {name: average([one.scores for one in group], protocols[name]) for name, group in groups.items()}

    @property
    def mean(self) -> dict[str, float]:
        """Over the data sets: of one, its own numbers."""
        return mean(list(self.datasets.values()))

    @property
    def sparsification(self) -> dict[str, list[float]] | None:
        """The curves of `sparsification`, the mean of the images; None of a predictor that has no confidence."""
        curves = [one.scores.sparsification for one in self.measured if one.scores.sparsification is not None]
        if not curves:
            return None
        return {name: np.mean([getattr(one, name) for one in curves], axis=0).tolist() for name in ("by_confidence", "by_error")}

    @property
    def seconds(self) -> float:
        """Median per pair. The first of several is left out: it finds memory and kernels."""
        times = [one.seconds for one in self.measured]
        return float(np.median(times[1:] or times)) if times else math.nan

    @property
    def memory_gib(self) -> float:
        return max((one.memory_gib for one in self.measured), default=math.nan)

    def dump(self) -> dict[str, Any]:
        """Plain values for a JSON file; null where a mask holds no pixel or the error is infinite."""
        protocols = {task.source.name: task.protocol for task in self.tasks}
        shown: dict[str, Any] = {name: protocol.model_dump(mode="json") for name, protocol in protocols.items()}
        content = {
            **self.about,
            "protocol": next(iter(shown.values())) if len(set(map(str, shown.values()))) == 1 else shown,
            "mean": self.mean,
            "datasets": self.datasets,
            "scenes": self.scenes,
            "sparsification": self.sparsification,
            "seconds_per_pair": self.seconds,
            "memory_gib": self.memory_gib,
            "runtime": {
                self.tasks[one.position].name: {"size": one.size, "seconds": one.seconds, "memory_gib": one.memory_gib}
                for one in self.measured
            },
        }
        return _without_infinities(content)


@dataclass(frozen=True)
class Planned:
    """One pass over a suite. name: what the checkpoint is called in tables."""

    checkpoint: str
    name: str
    iterations: int | None
    cascades: int


def plan_runs(checkpoints: Sequence[str], iterations: Sequence[int], cascades: Sequence[int]) -> list[Planned]:
    """Every checkpoint with every number of iterations and cascades; what has neither (sgbm) once."""
    plans = []
    names = short_names(checkpoints)
    for checkpoint, name in zip(checkpoints, names, strict=True):
        if checkpoint == SGBM:
            plans.append(Planned(checkpoint, name, None, 1))
        else:
            plans += [Planned(checkpoint, name, i, c) for c in cascades or (1,) for i in iterations or (None,)]
    return plans


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths without what they all begin with, whole folders only."""
    parts = [Path(path).parts for path in paths]
    shared = 0
    while all(len(own) > shared + 1 for own in parts) and len({own[shared] for own in parts}) == 1:
        shared += 1
    return [Path(*own[shared:]).as_posix() for own in parts]


class Processes:
    """The processes that share the work: those of `torchrun` or `accelerate launch`, or this one alone."""

    def __init__(self) -> None:
        self._state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available())

    @property
    def rank(self) -> int:
        return 0 if self._state is None else self._state.process_index

    @property
    def count(self) -> int:
        return 1 if self._state is None else self._state.num_processes

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """What this process should compute on, where there are several."""
        return None if self._state is None else str(self._state.device)

    def gather(self, found: list[Measured]) -> list[Measured]:
        """The lists of all processes as one."""
        if self._state is None:
            return found
        from accelerate.utils import gather_object

        return gather_object(found)


def measure(
    predict: Predict,
    tasks: Sequence[Task],
    about: dict[str, Any],
    *,
    device: torch.device,
    processes: Processes | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Record:
    """Every image of the suite once, shared among processes by position; the record is complete on all of them.

    predict: sample -> what is known of it, see `predictors`. Sums are put together in the order of the suite, so that the number of
    processes changes no digit. Raises UserError for a file that cannot be read: a mean over fewer images would not be comparable.
    """
    processes = processes or Processes()
    found = []
    for position in range(processes.rank, len(tasks), processes.count):
        task = tasks[position]
        try:
            sample = task.load()
        except SampleError as error:
            raise UserError(f"{task.name}: {error}; a mean over fewer images would not be comparable, so nothing is reported") from None
        reset_peak_memory(device)
        start = time.perf_counter()
        prediction = predict(sample)
        seconds = time.perf_counter() - start
        size = (sample.disparity.shape[1], sample.disparity.shape[0])
        scores = score(prediction.disparity, sample, task.protocol, prediction.confidence, prediction.pose)
        found.append(Measured(position, scores, size, seconds, peak_memory_gib(device)))
        progress()
    return Record(about, tasks, sorted(processes.gather(found), key=lambda one: one.position))


def worst(record: Record, count: int) -> list[Task]:
    """The images with the largest EPE (of the first metric where it is not measured), worst first."""

    def badness(one: Measured) -> float:
        values = one.scores.values
        value = values.get("epe", next(iter(values.values()), math.nan))
        return -math.inf if math.isnan(value) else value

    return [record.tasks[one.position] for one in sorted(record.measured, key=badness, reverse=True)[:count]]


def _without_infinities(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
