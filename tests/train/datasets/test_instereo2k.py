"""InStereo2K: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset


def scene(name):
    """Codes of the left disparity 0, 1024, 250, and of the right one 100, 0, 1."""
    return {
        f"{name}/left.png": grey(10, 3),
        f"{name}/right.png": grey(200, 3),
        f"{name}/left_disp.png": np.array([[0, 1024, 250]], np.uint16),
        f"{name}/right_disp.png": np.array([[100, 0, 1]], np.uint16),
    }


def test_values_of_both_views_are_hundredths(tmp_path):
    write(tmp_path, scene("train/part1/000001"))
    dataset = build_dataset("instereo2k", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity[0].tolist() == pytest.approx([0, 10.24, 2.5]) and sample.valid.tolist() == [[False, True, True]]
    assert sample.disparity_right is not None and sample.disparity_right[0].tolist() == pytest.approx([1, 0, 0.01])
    assert dataset.has_right_disparity and (sample.left == 10).all() and (sample.right == 200).all()


def test_parts_lie_a_folder_deeper_than_the_test_scenes(tmp_path):
    write(tmp_path, scene("train/part1/000001") | scene("train/part2/000001") | scene("part3/000002") | scene("test/000001"))
    assert keys("instereo2k", tmp_path) == ["part3/000002", "train/part1/000001", "train/part2/000001"]
    assert keys("instereo2k", tmp_path, split="test") == ["test/000001"]
    assert len(keys("instereo2k", tmp_path, split="all")) == 4


@pytest.mark.parametrize("lonely", scene("train/part1/000000"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, scene("train/part1/000001") | scene("train/part2/000000"))
    check_pairing("instereo2k", tmp_path, lonely, scene("train/part1/000000"))
