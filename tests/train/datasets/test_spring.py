"""Spring: a layout of a few pixels with values by hand. HDF5 is played by NPZ files; the reader itself has its own test."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, npz, write
from train.datasets import SampleError, build_dataset
from utils.errors import UserError


@pytest.fixture(autouse=True)
def _h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=lambda path, mode: np.load(path)))


def truth(values):
    """The file's bytes; the values lie at every second place of every second row."""
    stored = np.full((2 * len(values), 2 * len(values[0])), 77, np.float32)
    stored[::2, ::2] = values
    return npz(disparity=stored)


def frame(scene, number="0001"):
    return {
        f"train/{scene}/frame_left/frame_left_{number}.png": grey(10, 3),
        f"train/{scene}/frame_right/frame_right_{number}.png": grey(200, 3),
        f"train/{scene}/disp1_left/disp1_left_{number}.dsp5": truth([[1.5, np.nan, 600]]),
        f"train/{scene}/disp1_right/disp1_right_{number}.dsp5": truth([[2, 3, 0]]),
    }


def test_values_of_both_views_have_the_size_of_the_images(tmp_path):
    write(tmp_path, frame("0001"))
    dataset = build_dataset("spring", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[1.5, 0, 600]] and sample.valid.tolist() == [[True, False, True]] and dataset.has_right_disparity
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[2, 3, 0]]
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "0001/0001" and sample.calibration is None


def test_the_calibration_is_that_of_the_frame(tmp_path):
    write(tmp_path, frame("0001", "0002") | {"train/0001/cam_data/intrinsics.txt": "1280 1280 960 540\n1920 1920 960 540\n"})
    calibration = build_dataset("spring", tmp_path, {}, "here").load(0).calibration
    assert calibration is not None and (calibration.baseline_m, calibration.size) == (0.065, (3, 1))
    assert calibration.focal_px == pytest.approx(3)  # 1920 px at a width of 1920


def test_ground_truth_of_another_frame_rate_is_not_taken_for_this_one(tmp_path):
    write(tmp_path, frame("0001"))
    (tmp_path / "train/0001/disp1_left/disp1_left_0001.dsp5").write_bytes(truth([[1, 2]]))
    with pytest.raises(SampleError, match="spring: 0001/0001: sizes differ: left 3x1, right 3x1, disparity 2x1"):
        build_dataset("spring", tmp_path, {}, "here").load(0)


def test_without_the_package_no_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="spring: needs a package that is not installed; pip install h5py, or uv run --extra spring"):
        build_dataset("spring", tmp_path, {}, "here")


@pytest.mark.parametrize(
    "lonely", ["frame_left/frame_left_0001.png", "frame_right/frame_right_0001.png", "disp1_left/disp1_left_0001.dsp5"]
)
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("0001", "0002") | frame("0002"))
    check_pairing("spring", tmp_path, f"train/0001/{lonely}", frame("0001"))
