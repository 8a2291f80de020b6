"""Pseudo-labels: found in unpacked zip files whatever these are called, pictures brought to their size."""

import numpy as np
import pytest

from train.datasets import SampleError, build_dataset
from train.datasets.readers import encode_fsd
from utils.errors import UserError
from utils.images import write_image

DISPARITY = np.array([[0, 1.5], [300, 0.001]], np.float32)


def make(root, name, zip_name, size=4):
    """Pictures of `size`, the left one 10 and the right one 11, and labels of 2 by 2."""
    for place in ("left", "right", f"disparity/{zip_name}"):
        (root / place).mkdir(parents=True, exist_ok=True)
    write_image(root / "disparity" / zip_name / f"{name}.png", encode_fsd(DISPARITY))
    for value, side in enumerate(("left", "right")):
        write_image(root / side / f"{name}.png", np.full((size, size, 3), 10 + value, np.uint8))


def test_labels_in_any_folder_find_their_pictures_which_come_to_their_size(tmp_path):
    make(tmp_path, "abc_frame_000001", "0000000")
    make(tmp_path, "abc_frame_000002", "", size=2)
    dataset = build_dataset("ffs_stereo4d", tmp_path, {}, "here")
    assert [dataset.key(i) for i in range(len(dataset))] == ["abc_frame_000001", "abc_frame_000002"]
    for i in range(2):
        sample = dataset.load(i).check()
        assert (sample.disparity == DISPARITY).all() and (sample.left == 10).all() and (sample.right == 11).all()


def test_labels_without_pictures_stop_unless_allowed(tmp_path):
    make(tmp_path, "abc_frame_000001", "0000000")
    make(tmp_path, "gone_frame_000001", "0000000")
    (tmp_path / "left/gone_frame_000001.png").unlink()
    with pytest.raises(UserError, match=r"disparity/0000000/gone_frame_000001\.png has no left"):
        build_dataset("ffs_stereo4d", tmp_path, {}, "here")
    assert len(build_dataset("ffs_stereo4d", tmp_path, {"allow_unpaired": True}, "here")) == 1


def test_pictures_of_another_shape_are_refused(tmp_path):
    make(tmp_path, "abc_frame_000001", "0000000")
    for side in ("left", "right"):
        write_image(tmp_path / side / "abc_frame_000001.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(SampleError, match="sizes differ: left 6x4, right 6x4, disparity 2x2"):
        build_dataset("ffs_stereo4d", tmp_path, {}, "here").load(0)
