"""What every step consists of, and the processes that load it. Reading and augmenting live in `datasets` and `augment`.

A batch is a pure function of (seed, step, slot): resuming needs only the step, and neither the number of processes nor of workers changes
what is trained on.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from train.config import DataConfig, DatasetEntry
from train.sample import StereoBatch, StereoSample
from utils.errors import UserError

Augment = Callable[[StereoSample, tuple[int, int], np.random.Generator], StereoSample]

# Streams of random numbers that must not meet. NumPy pads a short key with zeros, so (seed, step) alone would equal (seed, step, slot 0).
SIZE_STREAM, SAMPLE_STREAM, TORCH_STREAM = 1, 2, 3
REPLACEMENTS = 10


def rng(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but the key."""
    return np.random.default_rng(key)


def torch_seed(seed: int, step: int, rank: int) -> int:
    """Seed for what is random inside the network (dropout), per step and process, so that resuming repeats it."""
    return int(np.random.SeedSequence((TORCH_STREAM, seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Source:
    """One data set of a mixture, with which of its samples take part and what is done to them."""

    name: str
    dataset: Any
    indices: np.ndarray
    weight: float
    label_type: str
    augment: Augment


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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A sample ready for the batch, with what had to be replaced to get it."""

    sample: StereoSample
    source: Source
    broken: tuple[str, ...] = ()


class MixtureDataset(Dataset):
    """Draw -> augmented sample of exactly the drawn size. A broken file is tried again, then replaced by the next draw of the same key."""

    def __init__(self, mix: Mixture) -> None:
        self.mix = mix

    def __getitem__(self, draw: Draw) -> Loaded:
        from train.datasets import SampleError

        generator = rng(*draw.key)
        broken: list[str] = []
        for _ in range(REPLACEMENTS):
            source = self.mix.sources[generator.choice(len(self.mix.sources), p=self.mix.shares())]
            index = int(source.indices[generator.integers(len(source.indices))])
            try:
                sample = _load_twice(source.dataset, index)
            except SampleError as error:
                broken.append(f"{source.name}: {error}")
                continue
            augmented = source.augment(sample, draw.size, generator)
            return Loaded(limit_disparity(augmented, self.mix.max_disparity), source, tuple(broken))
        raise UserError(f"{REPLACEMENTS} samples in a row could not be read; the last: {broken[-1]}")


def _load_twice(dataset: Any, index: int) -> StereoSample:
    from train.datasets import SampleError

    try:
        return dataset.load(index)
    except SampleError:
        return dataset.load(index)  # network file systems fail for a moment


def limit_disparity(sample: StereoSample, max_disparity: float | None) -> StereoSample:
    """The sample with ground truth at or beyond `max_disparity` pixels marked as unknown."""
    if max_disparity is None or not (sample.disparity >= max_disparity).any():
        return sample
    valid = sample.valid & (sample.disparity < max_disparity)
    return sample.replace(valid=valid, disparity=np.where(valid, sample.disparity, np.float32(0)))


def collate(items: list[Loaded]) -> StereoBatch:
    """Samples of one size as a batch; images as uint8 (B, 3, H, W)."""

    def images(side: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(item.sample, side) for item in items])).permute(0, 3, 1, 2).contiguous()

    return StereoBatch(
        left=images("left"),
        right=images("right"),
        disparity=torch.from_numpy(np.stack([item.sample.disparity for item in items])),
        valid=torch.from_numpy(np.stack([item.sample.valid for item in items])),
        keys=[item.sample.key for item in items],
        datasets=[item.source.name for item in items],
        label_types=[item.source.label_type for item in items],
        broken=[name for item in items for name in item.broken],
    )


def start_worker(_: int) -> None:
    """One thread per worker: the workers are the parallelism."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def default_workers(processes_here: int) -> int:
    """One per core that is free for it, shared among the training processes of this machine."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // processes_here))


class TrainLoader:
    """Micro-batches of one process, step by step, loaded ahead by worker processes.

    wait_s: seconds that `batches` has spent waiting, since it was last set to 0.
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
        self.broken: list[str] = []
        self._max_broken = data.max_broken
        self._accumulate = accumulate
        self._step = first_step
        per_step = batch * accumulate * ranks

        def plan() -> Iterator[list[Draw]]:
            for step in range(first_step, steps):
                for micro in range(accumulate):
                    first = (micro * ranks + rank) * batch
                    yield plan_batch(mix, step, range(first, first + batch), per_step)

        self._loader = DataLoader(
            MixtureDataset(mix),
            batch_sampler=_Plan(plan),
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=data.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # its own, so that starting a loader draws nothing from the network's stream
        )
        self._batches: Iterator[StereoBatch] | None = iter(self._loader)  # workers start now, before there are threads not to be forked

    def batches(self, step: int) -> Iterator[StereoBatch]:
        """The micro-batches of `step`, which must be asked for in order. Raises UserError when too many samples are broken."""
        assert step == self._step, f"step {step} asked for, {self._step} is next"
        self._step += 1
        for _ in range(self._accumulate):
            start = time.perf_counter()
            assert self._batches is not None, "the loader is closed"
            batch = next(self._batches)
            self.wait_s += time.perf_counter() - start
            self.broken += batch.broken
            if len(self.broken) > self._max_broken:
                raise UserError(
                    f"{len(self.broken)} samples could not be read, more than data.max_broken = {self._max_broken}; {self.broken[-1]}"
                )
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._batches = None


class _Plan:
    """A generator function as something that torch's loader can iterate anew."""

    def __init__(self, plan: Callable[[], Iterator[list[Draw]]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._plan()


# ---- which samples ----------------------------------------------------------------------------------------------------------------------


def build_sources(
    entries: Sequence[DatasetEntry], data: DataConfig, where: str, fraction: float = 0.0
) -> tuple[list[Source], list[Source]]:
    """Open the data sets of `entries` -> (what is trained on, what is held back of each: a share `fraction`, in a stable choice).

    Raises UserError where a folder does not hold what its type expects.
    """
    from train.augment.pipeline import Augmentation
    from train.datasets import DATASETS

    kept, held = [], []
    for i, entry in enumerate(entries):
        here = f"{where}[{i}]"
        try:
            dataset = DATASETS[entry.type](entry.folder(here), **entry.params)
        except UserError as error:
            raise UserError(f"{here} '{entry.name}': {error}") from None
        image = data.image_augmentation if entry.image_augmentation is None else entry.image_augmentation
        stereo = data.stereo_augmentation if entry.stereo_augmentation is None else entry.stereo_augmentation
        still = Augmentation([], False, here)
        moving = Augmentation(image, stereo, here)
        rest, back = hold_back([dataset.key(k) for k in range(len(dataset))], fraction)
        kept.append(Source(entry.name, dataset, rest, entry.weight, entry.label_type, moving))
        held.append(Source(entry.name, dataset, back, entry.weight, entry.label_type, still))
    return kept, held


def hold_back(keys: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples that stay, ascending, and of those held back, in the order of a hash of their keys.

    The choice depends on each key alone: adding samples moves no other from one side to the other. Of ten samples or more at least one is
    held back when `fraction` is above 0; of fewer none is.
    """
    if fraction <= 0 or len(keys) < 10:
        return np.arange(len(keys)), np.arange(0)
    scores = np.array([int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / 2**48 for key in keys])
    order = scores.argsort(kind="stable")
    count = max(1, int((scores < fraction).sum()))
    return np.sort(order[count:]), order[:count]
