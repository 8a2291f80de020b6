"""A batch is a pure function of (seed, step, slot): of nothing else."""

import itertools
import os
import signal
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from core.inference import Estimate
from tests.fsd_layout import write_pair
from train.augment.pipeline import Augmentation
from train.config import DataConfig, ValidationConfig
from train.dataloader import Mixture, MixtureDataset, TrainLoader, collate, limit_disparity, plan_batch, torch_seed
from train.datasets import SampleError, build_dataset
from train.datasets.readers import encode_fsd
from train.evaluation import ValidationSet, validate
from train.metrics import MetricSums
from train.sample import StereoSample
from train.sources import Source
from utils.errors import UserError
from utils.images import write_image


class Numbers:
    """Sample i is filled with the number i; those in `broken` cannot be read, those in `shaky` not at the first try."""

    has_right_disparity = has_pose = False

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


def mixture(*datasets, weights=None, augment=noisy, **options):
    sources = tuple(
        Source(f"set{i}", dataset, np.arange(len(dataset)), weight, "stereo", augment)
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


def test_resuming_at_any_step_needs_nothing_but_the_step():
    whole = everything(MIX, steps=6)
    for first in range(6):
        assert everything(MIX, first_step=first, steps=6) == whole[first:]
    assert everything(MIX, first_step=3, steps=6, batch=1, accumulate=2) == whole[3:]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    assert everything(MIX, workers=workers) == everything(MIX)


def test_a_sample_that_comes_again_is_augmented_anew_and_alike_by_any_worker():
    """Workers that are seeded by their number, or anew in every pass over the data, repeat the same augmentations for ever."""
    augment = Augmentation(["jittering"], True, "here")
    mix = mixture(build_dataset("synthetic", None, {"size": (96, 64), "length": 1}, "here"), augment=augment, sizes=((64, 32),))

    def pictures(workers):
        found = loader(mix, steps=6, batch=2, workers=workers)
        return [image.numpy().tobytes() for step in range(6) for batch in found.batches(step) for image in batch.left]

    one = pictures(0)
    assert len(set(one)) == len(one) == 12
    assert pictures(3) == one


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


def test_a_broken_sample_is_replaced_counted_and_named_once(caplog):
    mix = mixture(Numbers(4, broken={1, 2}))
    found = loader(mix, steps=30)
    keys = [key for step in range(30) for batch in found.batches(step) for key in batch.keys]
    assert len(keys) == 60 and set(keys) <= {"0", "3"}
    assert found.broken == {"set0/1": "numbers/1.png: truncated", "set0/2": "numbers/2.png: truncated"}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("cannot be read" in line and "numbers/" in line for line in lines)


def test_a_passing_fault_costs_nothing():
    found = loader(mixture(Numbers(3, shaky={0, 1, 2})), steps=5)
    for step in range(5):
        list(found.batches(step))
    assert not found.broken


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_samples_end_the_run_with_their_list(workers, caplog):
    with pytest.raises(UserError, match=r"4 samples cannot be read, more than data.max_broken = 3: set0/\d") as error:
        everything(mixture(Numbers(10, broken=set(range(1, 10, 2)))), steps=100, max_broken=3, workers=workers)
    assert "\n" not in str(error.value)
    assert caplog.records[-1].getMessage().count("truncated") == 4
    with pytest.raises(UserError, match="in a row") as error:  # also out of a worker as one line, without its traceback
        list(loader(mixture(Numbers(2, broken={0, 1})), workers=workers).batches(0))
    assert "\n" not in str(error.value)


def test_a_validation_sample_that_cannot_be_read_is_one_line():
    """It is not replaced: a number over other samples would be another number."""
    source = Source("held", Numbers(3, broken={1}, shaky={0}), np.arange(3), 1.0, "stereo", noisy)
    held = ValidationSet([source], ValidationConfig(), None)
    assert held.load(0).key == "0"
    with pytest.raises(UserError, match=r"validation: sample held/1 cannot be read; .*numbers/1\.png: truncated$"):
        held.load(1)


def test_a_validation_sample_that_breaks_during_the_run_is_left_out_counted_and_named(caplog):
    source = Source("held", Numbers(3, broken={2}), np.arange(3), 1.0, "stereo", noisy)
    held = ValidationSet([source], ValidationConfig(), None)
    zeros = {"rank": 0, "ranks": 1, "reduce": lambda sums: sums}
    with pytest.raises(UserError, match="held/2"):
        validate(held, lambda sample: Estimate(0 * sample.disparity), **zeros)
    found = validate(held, lambda sample: Estimate(0 * sample.disparity), **zeros, strict=False)
    assert (found["epe"], found["missing"]) == (0.5, 1)  # of the samples 0 and 1
    assert "sample held/2 cannot be read; mend or remove it: numbers/2.png: truncated; left out until then" in caplog.text
    source.dataset.broken.clear()
    assert "missing" not in validate(held, lambda sample: Estimate(0 * sample.disparity), **zeros, strict=False)


def test_files_that_break_during_the_run_are_replaced(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 48, 3), np.uint8) for _ in range(2)]
    good = [f"good_{i}" for i in range(5)]
    for name in (*good, "truncated", "empty", "deleted", "sizes", "truth"):
        write_pair(tmp_path, name, *pictures, np.full((32, 48), 3.0))
    dataset = build_dataset("fsd", tmp_path, {}, "here")
    left, right = tmp_path / "left" / "rgb", tmp_path / "right" / "rgb"
    (left / "truncated.png").write_bytes((left / "truncated.png").read_bytes()[:2000])
    (right / "empty.png").write_bytes(b"")
    (right / "deleted.png").unlink()
    write_image(right / "sizes.png", pictures[1][:, :40])
    (tmp_path / "left" / "disparity" / "truth.png").write_bytes(b"\x89PNG nothing")
    found = loader(mixture(dataset, augment=Augmentation([], True, "here"), sizes=((32, 32),)), steps=40, workers=2)
    keys = {key for step in range(40) for batch in found.batches(step) for key in batch.keys}
    assert keys == set(good)
    assert found.broken.keys() == {f"set0/{name}" for name in ("truncated", "empty", "deleted", "sizes", "truth")}
    assert "cut off" in found.broken["set0/truncated"] and "right" in found.broken["set0/empty"] and "48x32" in found.broken["set0/sizes"]


def test_grey_deep_transparent_and_cmyk_images_make_a_batch(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    truth = tmp_path / "left" / "disparity"
    for folder in (truth, tmp_path / "left" / "rgb", tmp_path / "right" / "rgb"):
        folder.mkdir(parents=True)
    for side in ("left", "right"):
        folder = tmp_path / side / "rgb"
        write_image(folder / "grey.png", picture[..., 0])
        cv2.imwrite(str(folder / "deep.png"), picture.astype(np.uint16) * 257)
        Image.fromarray(np.dstack([picture, picture[..., :1]])).save(folder / "alpha.png")
        Image.fromarray(picture).convert("CMYK").save(folder / "cmyk.jpg")
    for name in ("grey", "deep", "alpha", "cmyk"):
        write_image(truth / f"{name}.png", encode_fsd(np.full((32, 48), 3.0)))
    found = loader(mixture(build_dataset("fsd", tmp_path, {}, "here"), augment=Augmentation(["jittering"], True, "x")), steps=20)
    batches = [batch for step in range(20) for batch in found.batches(step)]
    assert {key for batch in batches for key in batch.keys} == {"grey", "deep", "alpha", "cmyk"} and not found.broken
    assert all(batch.left.dtype == torch.uint8 and batch.left.shape[1] == 3 for batch in batches)


class Deadly(Numbers):
    """The process that loads sample 3 is killed, so many times as there are files in a folder."""

    def __init__(self, folder, deaths):
        super().__init__(8)
        self.lives = [folder / str(i) for i in range(deaths)]
        for life in self.lives:
            life.touch()

    def load(self, i):
        for life in self.lives:
            if i == 3 and life.exists():
                life.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().load(i)


@pytest.fixture
def impatient(monkeypatch):
    """torch looks after its workers every five seconds; here every tenth of one."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def test_a_killed_worker_is_replaced_and_nothing_changes(tmp_path, impatient, caplog):
    mix = mixture(Deadly(tmp_path, deaths=1))
    seen = everything(mix, steps=12, workers=2)
    assert not list(tmp_path.iterdir()), "no worker died"
    assert seen == everything(mixture(Numbers(8)), steps=12)
    assert sum("restart 1" in record.getMessage() for record in caplog.records) == 1


def test_a_death_does_not_interrupt_what_the_process_is_doing(impatient):
    """torch's own handler raises wherever the main thread happens to be, in the middle of an update as well."""
    found = loader(MIX, steps=8, workers=1)
    keys = [batch.keys for batch in found.batches(0)]
    os.kill(found._batches._workers[0].pid, signal.SIGKILL)
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    keys += [batch.keys for step in range(1, 8) for batch in found.batches(step)]
    assert found.restarts == 1
    assert keys == [[name[1] for name, _ in samples] for _, samples in everything(MIX, steps=8)]


def test_workers_that_die_again_and_again_end_the_run(tmp_path, impatient):
    with pytest.raises(UserError, match=r"DataLoader worker .*lower data.workers") as error:
        everything(mixture(Deadly(tmp_path, deaths=50)), steps=12, workers=1)
    assert "\n" not in str(error.value)


def test_training_metrics_are_kept_per_data_set():
    mix = mixture(Numbers(3), Numbers(5), sizes=((4, 2),))
    sums = MetricSums([source.name for source in mix.sources], ["epe"])
    found = loader(mix, steps=8, batch=4)
    seen = {"set0": [], "set1": []}
    for step in range(8):
        for batch in found.batches(step):
            sums.add(torch.zeros_like(batch.disparity), batch.disparity, batch.valid, batch.datasets)
            for name, key in zip(batch.datasets, batch.keys, strict=True):
                seen[name].append(int(key))  # sample i has disparity i everywhere, so i is the error of 0
    means = sums.reduce()
    assert means["set0/epe"] == pytest.approx(np.mean(seen["set0"])) and means["set1/epe"] == pytest.approx(np.mean(seen["set1"]))


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


def test_the_networks_own_randomness_differs_per_step_and_process():
    seeds = {torch_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 240 and max(seeds) < 2**63
