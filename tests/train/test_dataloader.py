"""A batch is a pure function of (seed, step, slot): of nothing else."""

import itertools

import numpy as np
import pytest
import torch

from train.config import DataConfig
from train.dataloader import (
    Mixture,
    MixtureDataset,
    Source,
    TrainLoader,
    build_sources,
    collate,
    hold_back,
    limit_disparity,
    plan_batch,
    torch_seed,
)
from train.datasets import SampleError
from train.sample import StereoSample
from utils.errors import UserError


class Numbers:
    """Sample i is filled with the number i; those in `broken` cannot be read, those in `shaky` not at the first try."""

    has_right_disparity = False

    def __init__(self, length, broken=(), shaky=()):
        self.length, self.broken, self.shaky = length, broken, set(shaky)

    def __len__(self):
        return self.length

    def key(self, i):
        return str(i)

    def load(self, i):
        if i in self.broken or i in self.shaky:
            self.shaky.discard(i)
            raise SampleError(f"numbers/{i}.png: truncated")
        image = np.full((8, 8, 3), i, np.uint8)
        return StereoSample(image, image, np.full((8, 8), i, np.float32), np.ones((8, 8), bool), key=str(i))


def noisy(sample, size, rng):
    width, height = size
    return sample.replace(
        left=np.full((height, width, 3), rng.integers(256), np.uint8),
        right=np.zeros((height, width, 3), np.uint8),
        disparity=np.full((height, width), sample.disparity[0, 0], np.float32),
        valid=np.ones((height, width), bool),
    )


def mixture(*datasets, weights=None, **options):
    sources = tuple(
        Source(f"set{i}", dataset, np.arange(len(dataset)), weight, "stereo", noisy)
        for i, (dataset, weight) in enumerate(zip(datasets, weights or [1.0] * len(datasets), strict=True))
    )
    return Mixture(sources, **{"sizes": ((4, 2), (6, 4)), "seed": 7, **options})


def loader(mix, *, first_step=0, steps=4, batch=2, accumulate=1, rank=0, ranks=1, workers=0, **data):
    config = DataConfig(datasets=[{"name": "x"}], image_sizes=[(4, 2)], **data)
    return TrainLoader(
        mix, config, first_step=first_step, steps=steps, batch=batch, accumulate=accumulate, rank=rank, ranks=ranks, workers=workers
    )


def everything(mix, first_step=0, steps=4, **options):
    """Per step: the size, and (data set, key, first pixel) of every sample in order."""
    found = loader(mix, first_step=first_step, steps=steps, **options)
    seen = []
    for step in range(first_step, steps):
        batches = list(found.batches(step))
        pixels = [int(value) for batch in batches for value in batch.left[:, 0, 0, 0]]
        names = [name for batch in batches for name in zip(batch.datasets, batch.keys, strict=True)]
        seen.append((tuple(batches[0].left.shape[2:]), list(zip(names, pixels, strict=True))))
    found.close()
    return seen


MIX = mixture(Numbers(50), Numbers(100), weights=[3.0, 1.0])


def test_steps_differ_and_repeat_exactly():
    first = everything(MIX)
    assert first == everything(MIX)
    assert len({str(samples) for _, samples in first}) == 4
    assert first != everything(mixture(Numbers(50), Numbers(100), weights=[3.0, 1.0], seed=8))


def test_resuming_at_a_step_needs_nothing_but_the_step():
    assert everything(MIX, first_step=2, steps=6) == everything(MIX, steps=6)[2:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    assert everything(MIX, workers=workers) == everything(MIX)


@pytest.mark.parametrize(("ranks", "batch", "accumulate"), [(1, 6, 1), (2, 3, 1), (3, 2, 1), (1, 2, 3), (3, 1, 2), (1, 1, 6)])
def test_processes_share_one_global_batch(ranks, batch, accumulate):
    """Whoever loads it and in however many pieces, a step is the same six samples at one size."""
    whole = everything(MIX, batch=6)
    parts = [everything(MIX, rank=rank, ranks=ranks, batch=batch, accumulate=accumulate) for rank in range(ranks)]
    for step, (size, samples) in enumerate(whole):
        assert {part[step][0] for part in parts} == {size}
        micro = [[part[step][1][i * batch : (i + 1) * batch] for part in parts] for i in range(accumulate)]
        assert list(itertools.chain(*itertools.chain(*micro))) == samples


def test_weights_are_shares():
    draws = [MixtureDataset(MIX)[draw] for step in range(100) for draw in plan_batch(MIX, step, range(20), 20)]
    share = np.mean([item.source.name == "set0" for item in draws])
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)  # four standard deviations


def test_the_size_is_independent_of_the_first_sample():
    """NumPy pads short keys with zeros: without streams of their own the size of a step would be drawn from its slot 0's numbers."""
    sizes = [plan_batch(MIX, step, [0], 1)[0].size for step in range(200)]
    firsts = [np.random.default_rng(plan_batch(MIX, step, [0], 1)[0].key).integers(2) for step in range(200)]
    agree = np.mean([(size == (6, 4)) == bool(first) for size, first in zip(sizes, firsts, strict=True)])
    assert 0.35 < agree < 0.65
    assert 0.35 < np.mean([size == (4, 2) for size in sizes]) < 0.65


def test_overfitting_repeats_a_fixed_set():
    seen = everything(mixture(Numbers(50), fixed=3), batch=2, steps=6)
    samples = [sample for _, step in seen for sample in step]
    assert samples == samples[:3] * 4
    assert len({str(sample) for sample in samples}) == 3


def test_a_broken_sample_is_replaced_counted_and_named():
    mix = mixture(Numbers(4, broken={1, 2}))
    found = loader(mix, steps=10)
    keys = [key for step in range(10) for batch in found.batches(step) for key in batch.keys]
    assert len(keys) == 20 and set(keys) <= {"0", "3"}
    assert found.broken and all(line.startswith("set0: numbers/") for line in found.broken)


def test_a_passing_fault_costs_nothing():
    found = loader(mixture(Numbers(3, shaky={0, 1, 2})), steps=5)
    for step in range(5):
        list(found.batches(step))
    assert found.broken == []


def test_too_many_broken_samples_end_the_run():
    with pytest.raises(UserError, match=r"max_broken = 3.*numbers/"):
        everything(mixture(Numbers(4, broken={1, 2})), steps=100, max_broken=3)
    with pytest.raises(UserError, match="in a row"):
        list(loader(mixture(Numbers(2, broken={0, 1}))).batches(0))


def test_ground_truth_beyond_the_limit_becomes_unknown():
    sample = Numbers(10).load(9)
    assert limit_disparity(sample, 10.0) is sample
    limited = limit_disparity(sample, 9.0)
    assert not limited.valid.any() and not limited.disparity.any()


def test_a_batch_carries_uint8_until_it_is_moved():
    batch = collate([MixtureDataset(MIX)[draw] for draw in plan_batch(MIX, 0, range(3), 3)])
    assert batch.left.dtype == torch.uint8 and batch.left.shape[:2] == (3, 3)
    moved = batch.to("cpu")
    assert torch.equal(moved.left, batch.left.float() / 255) and len(moved) == 3
    assert moved.select([2, 0]).keys == [batch.keys[2], batch.keys[0]]


def test_held_back_samples_do_not_change_when_others_are_added():
    keys = [f"scene_{i}" for i in range(400)]
    rest, held = hold_back(keys, 0.1)
    assert sorted([*rest, *held]) == list(range(400)) and 20 < len(held) < 60
    more = keys[:200] + [f"new_{i}" for i in range(500)] + keys[200:]
    _, held_of_more = hold_back(more, 0.1)
    assert {keys[i] for i in held} == {more[i] for i in held_of_more} & set(keys)
    assert len(hold_back(keys[:10], 1e-9)[1]) == 1
    assert len(hold_back(keys[:9], 0.5)[1]) == 0
    assert len(hold_back(keys, 0.0)[1]) == 0


def test_sources_take_the_common_augmentation_or_their_own():
    data = DataConfig(
        datasets=[
            {"name": "a", "type": "synthetic", "params": {"size": [96, 64], "length": 20}},
            {"name": "b", "type": "synthetic", "params": {"size": [96, 64], "length": 20}, "image_augmentation": []},
        ],
        image_sizes=[(64, 32)],
        image_augmentation=["jittering"],
    )
    kept, held = build_sources(data.datasets, data, "data.datasets", 0.2)
    assert [len(k.augment.dump()[0]) for k in kept] == [1, 0]
    assert all(h.augment.dump() == ([], False) for h in held)
    assert all(len(k.indices) + len(h.indices) == 20 and not set(k.indices) & set(h.indices) for k, h in zip(kept, held, strict=True))


def test_the_networks_own_randomness_differs_per_step_and_process():
    seeds = {torch_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 240 and max(seeds) < 2**63
