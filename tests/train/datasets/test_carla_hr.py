"""CARLA-HR: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, write
from train.datasets import build_dataset


def scene(name):
    return {
        f"trainingF/{name}/im0.png": grey(10, 4),
        f"trainingF/{name}/im1.png": grey(200, 4),
        f"trainingF/{name}/disp0GT.pfm": np.array([[1.5, np.inf, 300, np.nan]], np.float32),
        f"trainingF/{name}/disp1GT.pfm": np.array([[-2.5, np.inf, -1, 0]], np.float32),
    }


def test_values_of_both_views_are_taken_by_their_size(tmp_path):
    write(tmp_path, scene("a"))
    dataset = build_dataset("carla_hr", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[1.5, 0, 300, 0]] and sample.valid.tolist() == [[True, False, True, False]]
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[2.5, 0, 1, 0]] and dataset.has_right_disparity
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "a" and not sample.sparse


def test_the_right_view_may_be_absent(tmp_path):
    write(tmp_path, scene("a"))
    (tmp_path / "trainingF/a/disp1GT.pfm").unlink()
    dataset = build_dataset("carla_hr", tmp_path, {}, "here")
    assert not dataset.has_right_disparity and dataset.load(0).disparity_right is None


@pytest.mark.parametrize("lonely", [f"trainingF/a/{name}" for name in ("im0.png", "im1.png", "disp0GT.pfm")])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, scene("b") | scene("c"))
    check_pairing("carla_hr", tmp_path, lonely, scene("a"))
