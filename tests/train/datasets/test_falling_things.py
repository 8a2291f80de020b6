"""Falling Things: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import SampleError, build_dataset
from utils.errors import UserError


def camera(name, focal, width):
    intrinsics = {"fx": focal, "fy": focal, "cx": width / 2, "cy": 0.5, "s": 0}
    return {"name": name, "intrinsic_settings": intrinsics, "captured_image_size": {"width": width, "height": 1}}


def settings(focal=500.0, width=4):
    return {"camera_settings": [camera("left", focal, width), camera("right", focal, width)]}


def frame(name):
    """Left depth: unknown, 2 m, 0.1 mm, beyond the encoding; right depth 4 m, unknown, 6.5534 m, unknown."""
    return {
        f"{name}.left.jpg": grey(10, 4),
        f"{name}.right.jpg": grey(200, 4),
        f"{name}.left.depth.png": np.array([[0, 20000, 1, 65535]], np.uint16),
        f"{name}.right.depth.png": np.array([[40000, 0, 65534, 0]], np.uint16),
    }


MIXED, SINGLE = "mixed/kitchen_0", "single/002_master_chef_can_16k/kitchen_0"


def test_values_of_both_views_have_the_focal_length_of_the_file(tmp_path):
    write(tmp_path, frame(f"{MIXED}/000000") | {f"{MIXED}/_camera_settings.json": settings(500)})
    dataset = build_dataset("falling_things", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    # 500 px * 0.06 m = 30 px m; the usual 768.16 px would give 23 where 15 is right
    assert sample.disparity[0].tolist() == pytest.approx([0, 15, 300_000, 0]) and sample.valid.tolist() == [[False, True, True, False]]
    assert sample.disparity_right is not None and sample.disparity_right[0].tolist() == pytest.approx([7.5, 0, 30 / 6.5534, 0])
    assert sample.valid_right is not None and sample.valid_right.tolist() == [[True, False, True, False]] and dataset.has_right_disparity
    assert (sample.left == 10).all() and (sample.right == 200).all()
    assert sample.calibration is not None and (sample.calibration.focal_px, sample.calibration.baseline_m) == (500, 0.06)


def test_a_copy_of_half_the_width_has_half_the_disparity(tmp_path):
    write(tmp_path, frame(f"{MIXED}/000000") | {f"{MIXED}/_camera_settings.json": settings(500, width=8)})
    sample = build_dataset("falling_things", tmp_path, {}, "here").load(0).check()
    assert sample.disparity[0, 1] == 7.5 and sample.calibration is not None and sample.calibration.focal_px == 250


def test_each_scene_has_its_own_camera(tmp_path):
    write(tmp_path, frame(f"{MIXED}/000000") | frame(f"{SINGLE}/000000"))
    write(tmp_path, {f"{MIXED}/_camera_settings.json": settings(500), f"{SINGLE}/_camera_settings.json": settings(1000)})
    dataset = build_dataset("falling_things", tmp_path, {}, "here")
    assert [(dataset.key(i), dataset.load(i).disparity[0, 1]) for i in range(2)] == [(f"{MIXED}/000000", 15), (f"{SINGLE}/000000", 30)]
    assert keys("falling_things", tmp_path, parts=["single"]) == [f"{SINGLE}/000000"]


def test_a_scene_without_its_camera_is_refused_and_a_broken_one_is_named(tmp_path):
    write(tmp_path, frame(f"{MIXED}/000000"))
    with pytest.raises(UserError, match=r"falling_things: .*000000\.left\.jpg has no calibration"):
        build_dataset("falling_things", tmp_path, {}, "here")
    write(tmp_path, {f"{MIXED}/_camera_settings.json": "{"})
    with pytest.raises(SampleError, match=r"falling_things: mixed/kitchen_0/000000: .*_camera_settings\.json"):
        build_dataset("falling_things", tmp_path, {}, "here").load(0)


@pytest.mark.parametrize("lonely", frame(f"{MIXED}/000000"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame(f"{MIXED}/000001") | frame(f"{SINGLE}/000000"))
    write(tmp_path, {f"{MIXED}/_camera_settings.json": settings(), f"{SINGLE}/_camera_settings.json": settings()})
    check_pairing("falling_things", tmp_path, lonely, frame(f"{MIXED}/000000"))
