"""What every step consists of, and the processes that load it. Which samples there are is in `sources`.

A batch is a pure function of (seed, step, slot): resuming needs only the step, and neither the number of processes nor of workers changes
what is trained on.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from train.config import DataConfig
from train.datasets import SampleError, StereoDataset
from train.sample import StereoBatch, StereoSample
from train.signals import ignore_stop_signals
from train.sources import Source
from utils.errors import UserError, shorten

log = logging.getLogger("stereofoundry")

# Streams of random numbers that must not meet. NumPy pads a short key with zeros, so (seed, step) alone would equal (seed, step, slot 0).
SIZE_STREAM, SAMPLE_STREAM, TORCH_STREAM = 1, 2, 3
REPLACEMENTS = 10
MOST_RESTARTS = 10


def rng(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but the key."""
    return np.random.default_rng(key)


def torch_seed(seed: int, step: int, rank: int) -> int:
    """Seed for what is random inside the network (dropout), per step and process, so that resuming repeats it."""
    return int(np.random.SeedSequence((TORCH_STREAM, seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Mixture:
    """Weighted sources, and everything that decides what a step draws from them.

    sizes: (width, height) of the crops. fixed: draw the same this many samples for ever (overfitting), 0 for an endless stream.
    """

    sources: tuple[Source, ...]
    sizes: tuple[tuple[int, int], ...]
    seed: int
    max_disparity: float | None = None
    fixed: int = 0

    def shares(self) -> np.ndarray:
        weights = np.array([source.weight for source in self.sources], np.float64)
        return weights / weights.sum()


@dataclass(frozen=True, slots=True)
class Draw:
    """What one slot of a step holds: the key of its generator and the size of its crop. Everything else follows from these."""

    key: tuple[int, ...]
    size: tuple[int, int]


def plan_batch(mix: Mixture, step: int, slots: Sequence[int], per_step: int) -> list[Draw]:
    """What `step` consists of, for these slots of the global batch of `per_step` samples. No state."""
    if mix.fixed:
        slots = [(step * per_step + slot) % mix.fixed for slot in slots]
        step = 0
    size = mix.sizes[rng(SIZE_STREAM, mix.seed, step).integers(len(mix.sizes))]
    return [Draw((SAMPLE_STREAM, mix.seed, step, slot), size) for slot in slots]


@dataclass(frozen=True)
class Plan:
    """The draws of one process, micro-batch by micro-batch, as something that torch's loader can iterate anew.

    batch: samples of a micro-batch; accumulate: of these a step. first, end: micro-batches, counted from the first one of step 0.
    """

    mix: Mixture
    batch: int
    accumulate: int
    rank: int
    ranks: int
    first: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.first)

    def __iter__(self) -> Iterator[list[Draw]]:
        per_step = self.batch * self.accumulate * self.ranks
        for micro in range(self.first, self.end):
            step, part = divmod(micro, self.accumulate)
            slot = (part * self.ranks + self.rank) * self.batch
            yield plan_batch(self.mix, step, range(slot, slot + self.batch), per_step)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A sample ready for the batch, with what had to be replaced to get it: name of the sample -> what is wrong with it."""

    sample: StereoSample
    source: Source
    broken: dict[str, str] = field(default_factory=dict)


class MixtureDataset(Dataset):
    """Draw -> augmented sample of exactly the drawn size. A broken file is tried again, then replaced by the next draw of the same key."""

    def __init__(self, mix: Mixture) -> None:
        self.mix = mix

    def __getitem__(self, draw: Draw) -> Loaded:
        generator = rng(*draw.key)
        broken: dict[str, str] = {}
        for _ in range(REPLACEMENTS):
            source = self.mix.sources[generator.choice(len(self.mix.sources), p=self.mix.shares())]
            index = int(source.indices[generator.integers(len(source.indices))])
            try:
                sample = load_twice(source.dataset, index)
            except SampleError as error:
                broken[f"{source.name}/{source.dataset.key(index)}"] = str(error)
                continue
            augmented = source.augment(sample, draw.size, generator)
            return Loaded(limit_disparity(augmented, self.mix.max_disparity), source, broken)
        name, problem = broken.popitem()
        raise UserError(f"{REPLACEMENTS} samples in a row could not be read; the last, {name}: {problem}")


def load_twice(dataset: StereoDataset, index: int) -> StereoSample:
    """Sample `index`, with a second try. Raises `SampleError` as the data set does."""
    try:
        return dataset.load(index)
    except SampleError:
        return dataset.load(index)  # network file systems fail for a moment


class BatchDataset(Dataset):
    """The draws of a micro-batch -> the batch. A UserError is returned: raised in a worker, it would arrive as text with a traceback."""

    def __init__(self, mix: Mixture) -> None:
        self._samples = MixtureDataset(mix)

    def __getitem__(self, draws: list[Draw]) -> StereoBatch | UserError:
        try:
            return collate([self._samples[draw] for draw in draws])
        except UserError as error:
            return error


def limit_disparity(sample: StereoSample, max_disparity: float | None) -> StereoSample:
    """The sample with ground truth at or beyond `max_disparity` pixels marked as unknown."""
    if max_disparity is None or not (sample.disparity >= max_disparity).any():
        return sample
    valid = sample.valid & (sample.disparity < max_disparity)
    return sample.replace(valid=valid, disparity=np.where(valid, sample.disparity, np.float32(0)))


def collate(items: list[Loaded]) -> StereoBatch:
    """Samples of one size as a batch; images as uint8 (B, 3, H, W)."""

    def images(side: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([cv2.split(getattr(item.sample, side)) for item in items]))  # ten times as fast as permuting

    return StereoBatch(
        left=images("left"),
        right=images("right"),
        disparity=torch.from_numpy(np.stack([item.sample.disparity for item in items])),
        valid=torch.from_numpy(np.stack([item.sample.valid for item in items])),
        keys=[item.sample.key for item in items],
        datasets=[item.source.name for item in items],
        label_types=[item.source.label_type for item in items],
        broken={name: problem for item in items for name, problem in item.broken.items()},
        pose=collate_poses([item.sample.pose for item in items]),
    )


def collate_poses(poses: Sequence[np.ndarray | None]) -> torch.Tensor | None:
    """(B, 6), NaN for a sample without one; None where none has one."""
    if all(pose is None for pose in poses):
        return None
    return torch.from_numpy(np.stack([np.full(6, np.nan, np.float32) if pose is None else pose for pose in poses]))


def start_worker(_: int) -> None:
    """One thread per worker: the workers are the parallelism. When they end is said by the process that they load for."""
    ignore_stop_signals()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def default_workers(processes_here: int) -> int:
    """One per core that is free for it, shared among the training processes of this machine."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // processes_here))


class TrainLoader:
    """Micro-batches of one process, step by step, loaded ahead by worker processes.

    wait_s: seconds that `batches` has spent waiting, since it was last set to 0.
    broken: samples that could not be read, and what is wrong with each. restarts: how often the workers had to be started anew.
    """

    def __init__(
        self,
        mix: Mixture,
        data: DataConfig,
        *,
        first_step: int,
        steps: int,
        batch: int,
        accumulate: int,
        rank: int,
        ranks: int,
        workers: int,
    ) -> None:
        self.wait_s = 0.0
        self.broken: dict[str, str] = {}
        self.restarts = 0
        self.workers = workers
        self._data, self._accumulate = data, accumulate
        self._plan = Plan(mix, batch, accumulate, rank, ranks, first_step * accumulate, steps * accumulate)
        self._micro = first_step * accumulate  # the next micro-batch, counted from the first of step 0
        self._restarted_at = -1
        self._batches: Iterator[StereoBatch | UserError] | None = self._start()  # now, before there are threads not to be forked

    def _start(self) -> Iterator[StereoBatch | UserError]:
        loader = DataLoader(
            BatchDataset(self._plan.mix),
            batch_size=None,  # what the plan gives is a whole batch already
            sampler=replace(self._plan, first=self._micro),
            num_workers=self.workers,
            prefetch_factor=self._data.prefetch if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # its own, so that starting a loader draws nothing from the network's stream
        )
        with quiet_signals():
            return iter(loader)

    def batches(self, step: int) -> Iterator[StereoBatch]:
        """The micro-batches of `step`, which must be asked for in order.

        Raises UserError when too many samples are broken, and when the system kills the workers again and again.
        """
        assert step * self._accumulate == self._micro, f"step {step} asked for, {self._micro / self._accumulate:g} is next"
        for _ in range(self._accumulate):
            start = time.perf_counter()
            batch = self._next()
            self._micro += 1
            self.wait_s += time.perf_counter() - start
            self._count(batch.broken)
            yield batch

    def _next(self) -> StereoBatch:
        assert self._batches is not None, "the loader is closed"
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            self._restart(str(error).splitlines()[0])
            return self._next()
        if isinstance(batch, UserError):
            raise batch
        return batch

    def _restart(self, reason: str) -> None:
        """New workers, which go on at the batch that is missing. Not for ever, and not twice at one batch, which would end alike again."""
        if self._restarted_at == self._micro or self.restarts == MOST_RESTARTS:
            raise UserError(
                f"{reason}, {self.restarts + 1} times now; most often the memory is too small: lower data.workers or data.prefetch, "
                "or set data.workers to 0 to see which sample it is"
            )
        self._restarted_at = self._micro
        self.restarts += 1
        log.warning("%s; its batches are loaded again (restart %d of at most %d)", reason, self.restarts, MOST_RESTARTS)
        self.close()
        self._batches = self._start()

    def _count(self, broken: dict[str, str]) -> None:
        """Name each sample once, however often it is drawn."""
        new = {name: problem for name, problem in broken.items() if name not in self.broken}
        self.broken |= new
        for name, problem in new.items():
            log.warning("sample %s cannot be read and is replaced by another: %s", name, problem)
        if len(self.broken) > self._data.max_broken:
            log.error("samples that cannot be read:\n%s", "\n".join(f"  {name}: {problem}" for name, problem in self.broken.items()))
            raise UserError(
                f"{len(self.broken)} samples cannot be read, more than data.max_broken = {self._data.max_broken}: {shorten(self.broken)}; "
                f"the last: {self.broken[list(self.broken)[-1]]}"
            )

    def close(self) -> None:
        """End the workers. Torch asks them to, and gives each five seconds before a signal that they ignore."""
        workers = getattr(self._batches, "_workers", [])
        self._batches = None
        for worker in workers:
            if worker.is_alive():
                worker.kill()


@contextmanager
def quiet_signals() -> Iterator[None]:
    """Undo torch's signal handler: it raises in the middle of whatever this process does when a worker dies. Where the next batch is
    waited for, the death is found as well, within seconds, and can be mended there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
