"""The cache gives the same samples as the files, whatever happens to either."""

import errno
import json
import multiprocessing
import os
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tests.fsd_layout import write_pair
from train.augment.pipeline import Augmentation
from train.cache_build import build_cache
from train.dataloader import Mixture, MixtureDataset, plan_batch
from train.datasets import SampleError, build_dataset, cache
from train.datasets.cache import Cached, CacheMiss
from train.sample import StereoSample
from train.sources import Source, check_caches
from utils.calibration import Calibration
from utils.errors import UserError

ARRAYS = ("left", "right", "disparity", "valid", "disparity_right", "valid_right", "occluded", "pose")


class Made:
    """Samples that hold everything a sample can; `loads` counts how often one was made."""

    has_right_disparity = has_pose = True

    def __init__(self, files=()):
        self.loads, self._files = 0, list(files)

    def __len__(self):
        return 4

    def key(self, i):
        return f"scene/{i}"

    def files(self, i):
        return self._files

    def load(self, i):
        self.loads += 1
        rng = np.random.default_rng(i)
        left, right = (rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(2))
        valid, valid_right = (rng.random((20, 30)) < 0.8 for _ in range(2))
        disparity, disparity_right = (np.where(mask, rng.uniform(0, 9, (20, 30)), 0).astype(np.float32) for mask in (valid, valid_right))
        calibration = Calibration(focal_px=50.0, baseline_m=0.1, size=(30, 20), doffs_px=2.0, centre=(14.5, 9.5))
        occluded = valid & (rng.random((20, 30)) < 0.1)
        return StereoSample(
            left,
            right,
            disparity,
            valid,
            disparity_right,
            valid_right,
            occluded,
            sparse=i % 2 == 1,
            calibration=calibration,
            pose=rng.random(6, np.float32),
            key=self.key(i),
        )


def cached(root, dataset=None, *, size=None, require=False, path=None, **params):
    return Cached(dataset or Made(), "made", path, params, root=root, size=size, require=require)


def source(dataset, name="set"):
    return Source(name, dataset, np.arange(len(dataset)), 1.0, "stereo", Augmentation(["jittering"], True, "here"))


def assert_same(first, second):
    for name in ARRAYS:
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and np.array_equal(a, b))), name
    assert (first.sparse, first.calibration, first.key) == (second.sparse, second.calibration, second.key)


@pytest.mark.parametrize("i", range(4))
def test_what_was_stored_is_what_was_loaded(tmp_path, i):
    made = Made()
    both = cached(tmp_path, made)
    first, second = both.load(i), both.load(i)
    assert made.loads == 1
    assert_same(first, Made().load(i))
    assert_same(second, first)
    second.check()
    second.left[0, 0], second.valid[0, 0] = 7, False  # writable, as a sample from files is


def test_disparity_and_calibration_follow_the_width(tmp_path):
    left = np.full((20, 40, 3), 9, np.uint8)
    everywhere = np.ones((20, 40), bool)
    sample = StereoSample(left, left, np.full((20, 40), 8.0, np.float32), everywhere, calibration=Calibration(100.0, 0.5, (40, 20)))
    made = Made()
    made.load = lambda i: sample
    for found in [cached(tmp_path, made, size=(10, 10)).load(0) for _ in range(2)]:
        assert found.left.shape == (10, 10, 3) and (found.disparity == 2.0).all() and found.valid.all()
        assert found.calibration == Calibration(25.0, 0.5, (10, 10), focal_y_px=50.0)


def test_sparse_ground_truth_is_not_interpolated(tmp_path):
    found = cached(tmp_path, size=(15, 20)).load(1)
    assert found.sparse and set(found.disparity[found.valid]) <= set(Made().load(1).disparity.ravel() / 2)


def test_a_batch_is_the_same_with_and_without_a_cache(tmp_path):
    def samples(dataset):
        mix = MixtureDataset(Mixture((source(dataset),), ((16, 8),), seed=3))
        return [mix[draw].sample for draw in plan_batch(mix.mix, 5, range(8), 8)]

    for _ in range(2):
        for ours, theirs in zip(samples(cached(tmp_path)), samples(Made()), strict=True):
            assert_same(ours, theirs)


def test_other_settings_and_other_folders_are_other_entries(tmp_path):
    caches = [
        cached(tmp_path),
        cached(tmp_path, size=(15, 10)),
        cached(tmp_path, path=tmp_path / "a"),
        cached(tmp_path, path=tmp_path / "b"),
        cached(tmp_path, scale=2),
        Cached(Made(), "other", None, {}, root=tmp_path, size=None),
    ]
    assert len({one.folder for one in caches}) == len(caches)
    caches[1].load(0)
    assert json.loads((caches[1].folder / "settings.json").read_text())["size"] == [15, 10]


def test_entries_are_npz_files_that_anyone_can_read(tmp_path):
    both = cached(tmp_path)
    both.load(2)
    with np.load(both.entry(2)) as file:
        assert np.array_equal(file["left"], Made().load(2).left)
        assert json.loads(file["about"].tobytes())["key"] == "scene/2"
    assert all(member.compress_type == zipfile.ZIP_STORED for member in zipfile.ZipFile(both.entry(2)).infolist())


@pytest.mark.parametrize("damage", ["cut off", "flipped", "empty", "text", "other zip"])
def test_a_damaged_entry_is_rebuilt(tmp_path, damage):
    made = Made()
    both = cached(tmp_path, made)
    both.load(0)
    path = both.entry(0)
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    elif damage == "other zip":
        np.savez(path, left=np.zeros(3))
    else:
        path.write_bytes(b"" if damage == "empty" else b"no archive")
    assert_same(both.load(0), Made().load(0))
    assert made.loads == 2
    assert_same(both.load(0), Made().load(0))
    assert made.loads == 2


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_an_entry_of_changed_source_files_is_not_used(tmp_path, change):
    file = tmp_path / "left.png"
    file.write_bytes(b"old")
    made = Made([file])
    both = cached(tmp_path / "cache", made)
    both.load(0)
    assert made.loads == 1
    if change == "size":
        file.write_bytes(b"longer")
    elif change == "time":
        os.utime(file, ns=(1, 1))
    else:
        file.unlink()
        with pytest.raises(SampleError, match=r"scene/0: .*left\.png"):
            both.load(0)
        return
    both.load(0)
    both.load(0)
    assert made.loads == 2


def test_a_full_disk_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    both = cached(tmp_path)
    monkeypatch.setattr(cache, "write_atomic", full)
    for i in (0, 1, 0):
        assert_same(both.load(i), Made().load(i))
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]


def test_a_required_cache_refuses_what_it_lacks(tmp_path):
    filled = cached(tmp_path)
    filled.load(1)
    strict = cached(tmp_path, require=True)
    assert_same(strict.load(1), Made().load(1))
    with pytest.raises(UserError, match=r"lacks 'scene/0'; run scripts/build_cache.py"):
        strict.load(0)
    with pytest.raises(UserError, match=r"data set 'set': the cache .* lacks 3 of 4 samples, the first 'scene/0'"):
        check_caches([source(strict)])
    check_caches([source(filled)])
    build_cache(source(filled), workers=0)
    check_caches([source(strict)])
    strict.entry(0).write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged.*run scripts/build_cache.py"):
        strict.load(0)


# ---- filling it ahead -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abcdef":
        write_pair(tmp_path / "data", name, *rng.integers(0, 256, (2, 16, 24, 3), np.uint8), rng.uniform(1, 9, (16, 24)))
    return tmp_path / "data"


def of_pairs(pairs, **options):
    dataset = build_dataset("fsd", pairs, {}, "here")
    return Cached(dataset, "fsd", pairs, {}, root=pairs.parent / "cache", size=(12, 8), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_build_stores_everything_once_and_says_how_much(pairs, workers):
    both = of_pairs(pairs)
    done = []
    built = build_cache(source(both), workers=workers, progress=lambda: done.append(1))
    assert (built.stored, built.present, built.broken, len(done)) == (6, 0, [], 6)
    assert built.bytes == sum(path.stat().st_size for path in both.folder.glob("*/*.npz"))
    again = build_cache(source(both), workers=workers)
    assert (again.stored, again.present, again.bytes) == (0, 6, built.bytes)
    for i in range(6):
        assert_same(both.read(i), of_pairs(pairs).load(i))


def test_a_stopped_build_goes_on(pairs):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(source(of_pairs(pairs)), workers=0, progress=stop)
    built = build_cache(source(of_pairs(pairs)), workers=0)
    assert (built.present, built.stored) == (1, 5)


def test_verification_finds_what_sizes_and_times_do_not_show(pairs):
    both = of_pairs(pairs)
    build_cache(source(both), workers=0)
    file = both.files(2)[0]
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    flipped = bytearray(both.entry(4).read_bytes())
    flipped[len(flipped) // 3] ^= 1
    both.entry(4).write_bytes(flipped)
    assert build_cache(source(both), workers=0).stored == 0
    assert build_cache(source(both), workers=0, verify=True).stored == 2
    assert build_cache(source(both), workers=0, verify=True).present == 6


def test_what_cannot_be_read_is_listed_and_the_rest_is_stored(pairs):
    (pairs / "left" / "rgb" / "c.png").write_bytes(b"")
    built = build_cache(source(of_pairs(pairs)), workers=2)
    assert built.stored == 5 and len(built.broken) == 1 and "c.png: the file is empty" in built.broken[0]
    with pytest.raises(CacheMiss, match="lacks 'c'"):
        of_pairs(pairs).read(2)


def test_a_folder_that_cannot_be_written_is_one_line(pairs):
    (pairs.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache .*cannot be written"):
        build_cache(source(of_pairs(pairs)), workers=0)


def test_a_killed_process_is_one_line_and_what_was_stored_stays(tmp_path, monkeypatch):
    class Deadly(Made):
        def load(self, i):
            if i == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().load(i)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))  # how often torch looks after its workers
    with pytest.raises(UserError, match=r"DataLoader worker .* run again with fewer --workers") as error:
        build_cache(source(cached(tmp_path, Deadly())), workers=1)
    assert "\n" not in str(error.value)
    assert build_cache(source(cached(tmp_path)), workers=0).present >= 1


def test_builds_at_the_same_time_share_a_cache(pairs):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=build_cache, args=(source(of_pairs(pairs)),), kwargs={"workers": 0}) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert build_cache(source(of_pairs(pairs)), workers=0, verify=True).present == 6
    assert not list((pairs.parent / "cache").rglob("*.tmp"))
