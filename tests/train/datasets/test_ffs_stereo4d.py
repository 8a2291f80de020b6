"""Pseudo-labels: found in unpacked zip files whatever these are called, pictures brought to their size."""

import numpy as np
import pytest

from tests.layouts import grey, keys, write
from train.datasets import SampleError, build_dataset
from train.datasets.readers import encode_fsd
from utils.errors import UserError

DISPARITY = np.array([[0, 1.5], [300, 0.001]], np.float32)


def frame(name, folder="0000000", size=4):
    """Pictures of `size`, the left one 10 and the right one 200, and labels of 2 by 2."""
    pictures = {f"left/{name}.png": grey(10, size, size), f"right/{name}.png": grey(200, size, size)}
    return pictures | {f"disparity/{folder}/{name}.png": encode_fsd(DISPARITY)}


def test_labels_in_any_folder_find_their_pictures_which_come_to_their_size(tmp_path):
    write(tmp_path, frame("abc_frame_000001") | frame("abc_frame_000002", ".", size=2))
    dataset = build_dataset("ffs_stereo4d", tmp_path, {}, "here")
    assert keys("ffs_stereo4d", tmp_path) == ["abc_frame_000001", "abc_frame_000002"]
    for i in range(2):
        sample = dataset.load(i).check()
        assert (sample.disparity == DISPARITY).all() and (sample.left == 10).all() and (sample.right == 200).all()


def test_labels_without_pictures_stop_unless_allowed(tmp_path):
    write(tmp_path, frame("abc_frame_000001") | frame("gone_frame_000001"))
    (tmp_path / "left/gone_frame_000001.png").unlink()
    with pytest.raises(UserError, match=r"disparity/0000000/gone_frame_000001\.png has no left"):
        build_dataset("ffs_stereo4d", tmp_path, {}, "here")
    assert keys("ffs_stereo4d", tmp_path, allow_unpaired=True) == ["abc_frame_000001"]


def test_pictures_of_another_shape_are_refused(tmp_path):
    write(tmp_path, frame("abc_frame_000001") | {f"{side}/abc_frame_000001.png": grey(0, 6, 4) for side in ("left", "right")})
    with pytest.raises(SampleError, match="sizes differ: left 6x4, right 6x4, disparity 2x2"):
        build_dataset("ffs_stereo4d", tmp_path, {}, "here").load(0)
