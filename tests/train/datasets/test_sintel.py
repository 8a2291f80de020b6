"""Sintel stereo: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset


def frame(name, render="clean"):
    """Left disparity 400.5, 2, 3, 4 and unknown; the second is occluded, the third out of the right image."""
    return {
        f"training/{render}_left/{name}.png": grey(10, 5),
        f"training/{render}_right/{name}.png": grey(200, 5),
        f"training/disparities/{name}.png": np.array([[[100, 32, 0], [0, 128, 0], [0, 192, 0], [1, 0, 0], [0, 0, 0]]], np.uint8),
        f"training/occlusions/{name}.png": np.array([[0, 255, 0, 0, 0]], np.uint8),
        f"training/outofframe/{name}.png": np.array([[0, 0, 255, 0, 0]], np.uint8),
    }


def test_values_beyond_256_do_not_wrap(tmp_path):
    write(tmp_path, frame("alley_1/frame_0001"))
    dataset = build_dataset("sintel", tmp_path, {"truth": "occ"}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[400.5, 2, 3, 4, 0]] and sample.valid.tolist() == [[True, True, True, True, False]]
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "clean/alley_1/frame_0001"
    assert not dataset.has_right_disparity and sample.disparity_right is None


def test_what_the_right_eye_misses_is_occluded_or_out_of_its_frame(tmp_path):
    write(tmp_path, frame("alley_1/frame_0001"))
    for truth, disparity in (("occ", [400.5, 2, 3, 4, 0]), ("noc", [400.5, 0, 0, 4, 0])):
        sample = build_dataset("sintel", tmp_path, {"truth": truth}, "here").load(0).check()
        assert sample.disparity[0].tolist() == disparity and sample.occluded is not None
        assert sample.occluded.tolist() == [[False, True, True, False, False]]
    assert build_dataset("sintel", tmp_path, {}, "here").load(0).valid.sum() == 2  # noc is what is not asked for


def test_both_renders_share_one_ground_truth(tmp_path):
    write(tmp_path, frame("alley_1/frame_0001") | frame("alley_1/frame_0001", "final"))
    assert keys("sintel", tmp_path) == ["clean/alley_1/frame_0001"]
    assert keys("sintel", tmp_path, render="both") == ["clean/alley_1/frame_0001", "final/alley_1/frame_0001"]
    assert (build_dataset("sintel", tmp_path, {"render": "final"}, "here").load(0).valid.sum()) == 2


@pytest.mark.parametrize("lonely", [f"training/{folder}/a/frame_0000.png" for folder in ("clean_left", "clean_right")])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("a/frame_0001") | frame("b/frame_0000"))
    check_pairing("sintel", tmp_path, lonely, frame("a/frame_0000"))
