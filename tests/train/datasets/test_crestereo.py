"""CREStereo: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset
from utils.errors import UserError


def frame(name, code=80):
    """Codes of the left disparity 0, 80, 33, and of the right one 0, 64, 1."""
    return {
        f"{name}_left.jpg": grey(10, 3),
        f"{name}_right.jpg": grey(200, 3),
        f"{name}_left.disp.png": np.array([[0, code, 33]], np.uint16),
        f"{name}_right.disp.png": np.array([[0, 64, 1]], np.uint16),
    }


def test_values_of_both_views_are_thirty_seconds(tmp_path):
    write(tmp_path, frame("tree/0001"))
    dataset = build_dataset("crestereo", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[0, 2.5, 1.03125]] and sample.valid.tolist() == [[False, True, True]] and not sample.sparse
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[0, 2, 0.03125]] and dataset.has_right_disparity
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "tree/0001"


def test_parts_are_chosen(tmp_path):
    write(tmp_path, frame("tree/0001") | frame("hole/0001"))
    assert keys("crestereo", tmp_path) == ["hole/0001", "tree/0001"] and keys("crestereo", tmp_path, parts=["tree"]) == ["tree/0001"]
    with pytest.raises(UserError, match="crestereo: no part 'shapenet' under"):
        build_dataset("crestereo", tmp_path, {"parts": ["tree", "shapenet"]}, "here")
    with pytest.raises(UserError, match=r"here\.parts\[0\]"):
        build_dataset("crestereo", tmp_path, {"parts": ["trees"]}, "here")


@pytest.mark.parametrize("lonely", frame("tree/0000"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("tree/0001") | frame("tree/0002"))
    check_pairing("crestereo", tmp_path, lonely, frame("tree/0000"))
