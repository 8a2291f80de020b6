"""Booster: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset

CALIBRATION = """<?xml version="1.0"?><opencv_storage>
<proj_matL type_id="opencv-matrix"><rows>3</rows><cols>4</cols><dt>d</dt><data>100. 0. 2. 0. 0. 101. 0.5 0. 0. 0. 1. 0.</data></proj_matL>
<proj_matR type_id="opencv-matrix"><rows>3</rows><cols>4</cols><dt>d</dt><data>100. 0. 5. 0. 0. 101. 0.5 0. 0. 0. 1. 0.</data></proj_matR>
<baselineLR>80.</baselineLR></opencv_storage>"""


def light(name, scene="Bathroom"):
    return {
        f"train/balanced/{scene}/camera_00/{name}.png": grey(10, 4),
        f"train/balanced/{scene}/camera_02/{name}.png": grey(200, 4),
    }


def truth(scene="Bathroom"):
    """Left disparity: 1.5 seen by both eyes, 2 by the left one alone, unknown, unknown and by the left one alone."""
    return {
        f"train/balanced/{scene}/disp_00.npy": np.array([[1.5, 2, np.inf, 0]]),
        f"train/balanced/{scene}/disp_02.npy": np.array([[3, 0, 0, 1]]),
        f"train/balanced/{scene}/mask_00.png": np.array([[255, 0, 255, 0]], np.uint8),
        f"train/balanced/{scene}/calib_00-02.xml": CALIBRATION,
    }


def test_values_of_both_views_masks_and_calibration(tmp_path):
    write(tmp_path, light("im0") | truth())
    dataset = build_dataset("booster", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[1.5, 2, 0, 0]] and sample.valid.tolist() == [[True, True, False, False]]
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[3, 0, 0, 1]] and dataset.has_right_disparity
    assert sample.occluded is not None and sample.occluded.tolist() == [[False, True, False, False]]
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "Bathroom/im0"
    calibration = sample.calibration
    assert calibration is not None and (calibration.focal_px, calibration.doffs_px, calibration.size) == (100, 3, (4, 1))
    assert calibration.baseline_m == pytest.approx(0.08)


def test_every_light_is_a_sample_of_one_ground_truth(tmp_path):
    write(tmp_path, light("im0") | light("im1") | truth())
    assert keys("booster", tmp_path) == ["Bathroom/im0", "Bathroom/im1"]


def test_masks_and_calibration_may_be_absent(tmp_path):
    write(tmp_path, light("im0") | {name: content for name, content in truth().items() if name.endswith("00.npy")})
    dataset = build_dataset("booster", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.occluded is None and sample.calibration is None and sample.disparity_right is None and not dataset.has_right_disparity


@pytest.mark.parametrize("lonely", light("im0"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, light("im1") | truth() | light("im0", "Kitchen") | truth("Kitchen"))
    check_pairing("booster", tmp_path, lonely, light("im0"))
