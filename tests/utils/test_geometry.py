"""Disparity follows the width and nothing else; no value is invented across an edge; depth there and back."""

import numpy as np
import pytest

from utils.calibration import Calibration
from utils.geometry import (
    depth_to_disparity,
    depth_to_points,
    disparity_to_depth,
    left_right_agree,
    mirror,
    resize_disparity,
    resize_image,
    resize_mask,
    warp_right,
)


def ramp(height=8, width=12, slope=0.25, start=5.0):
    return (start + slope * np.arange(width, dtype=np.float32)) * np.ones((height, 1), np.float32)


def everywhere(disparity):
    return np.ones(disparity.shape, bool)


def test_width_scales_disparity_and_height_does_not():
    disparity = np.full((4, 6), 3, np.float32)
    wide, valid = resize_disparity(disparity, everywhere(disparity), (12, 4))
    assert wide.shape == (4, 12) and (wide == 6).all() and valid.all() and wide.dtype == np.float32
    tall, valid = resize_disparity(disparity, everywhere(disparity), (6, 8))
    assert tall.shape == (8, 6) and (tall == 3).all() and valid.all()


def test_ramp_is_sampled_at_pixel_centres():
    disparity = ramp()
    doubled, _ = resize_disparity(disparity, everywhere(disparity), (24, 16))
    inner = doubled[:, 1:-1]
    x = (np.arange(24) + 0.5) / 2 - 0.5  # the old place of each new centre
    assert inner == pytest.approx(2 * (5 + 0.25 * np.broadcast_to(x, (16, 24))[:, 1:-1]), abs=1e-5)
    halved, _ = resize_disparity(disparity, everywhere(disparity), (6, 4))
    assert halved == pytest.approx(0.5 * (5 + 0.25 * np.broadcast_to(2 * np.arange(6) + 0.5, (4, 6))), abs=1e-5)


def test_no_value_between_two_surfaces():
    disparity = np.full((6, 10), 4, np.float32)
    disparity[:, 5:] = 40
    for size in ((23, 11), (7, 5), (10, 17)):
        resized, valid = resize_disparity(disparity, everywhere(disparity), size)
        factor = size[0] / 10
        assert valid.all() and set(np.round(np.unique(resized / factor), 4)) == {4, 40}


def test_unknown_pixels_stay_zero_and_do_not_bleed():
    disparity = np.full((6, 10), 4, np.float32)
    valid = everywhere(disparity)
    valid[2:4, 3:6] = False
    disparity[~valid] = 0
    resized, known = resize_disparity(disparity, valid, (20, 12))
    assert (resized[known] == 8).all() and (resized[~known] == 0).all() and (~known).sum() == 2 * 2 * (~valid).sum()


def test_sparse_points_are_moved_and_never_multiplied():
    disparity = np.zeros((4, 8), np.float32)
    disparity[1, 2], disparity[1, 3], disparity[3, 7] = 10, 30, 6
    grown, known = resize_disparity(disparity, disparity > 0, (16, 8), sparse=True)
    assert known.sum() == 3 and sorted(grown[known]) == [12, 20, 60] and grown[3, 5] == 20 and grown[3, 7] == 60 and grown[7, 15] == 12
    shrunk, known = resize_disparity(disparity, disparity > 0, (4, 2), sparse=True)
    assert known.sum() == 2 and shrunk[0, 1] == 15 and shrunk[1, 3] == 3  # of 10 and 30 the nearer one stays


def test_scaling_there_and_back():
    disparity = ramp(24, 32, 0.1)
    bigger, valid = resize_disparity(disparity, everywhere(disparity), (64, 48))
    back, _ = resize_disparity(bigger, valid, (32, 24))
    assert back[1:-1, 1:-1] == pytest.approx(disparity[1:-1, 1:-1], abs=1e-4)


def test_masks_and_images_share_the_pixel_centres():
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    assert (resize_mask(mask, (8, 8)) == np.kron(mask, np.ones((2, 2))).astype(bool)).all()
    image = np.arange(0, 96, 4, dtype=np.uint8).reshape(1, 24, 1).repeat(3, 2).repeat(4, 0)
    assert resize_image(image, (24, 4)) is image
    assert (resize_image(image, (12, 2))[0, :, 0] == np.arange(12) * 8 + 2).all()


def test_warp_takes_the_right_image_at_x_minus_disparity():
    right = np.tile(np.arange(10, dtype=np.float32) * 10, (2, 1))
    warped, inside = warp_right(right, np.full((2, 10), 2.25, np.float32))
    assert (inside == (np.arange(10) >= 2.25)).all()
    assert warped[inside] == pytest.approx(np.tile((np.arange(3, 10) - 2.25) * 10, 2))
    colour, _ = warp_right(np.dstack([right] * 3), np.full((2, 10), 2.25, np.float32))
    assert (colour == warped[..., None]).all()


def test_mirror_twice_is_nothing():
    array = np.random.default_rng(0).integers(0, 9, (3, 4, 3), np.uint8)
    assert (mirror(array)[:, 0] == array[:, -1]).all() and (mirror(mirror(array)) == array).all()


def test_depth_by_hand_and_back():
    disparity = np.array([[20.0, 0.0, 5.0]], np.float32)
    depth = disparity_to_depth(disparity, focal_px=1000, baseline_m=0.1, doffs=30)  # 100 / (d + 30)
    assert depth.dtype == np.float32 and depth == pytest.approx(np.array([[2, 0, 100 / 35]]))
    assert depth_to_disparity(depth, 1000, 0.1, 30) == pytest.approx(disparity, abs=1e-4)
    assert (depth_to_disparity(np.array([[np.inf, np.nan, -1.0]]), 1000, 0.1) == 0).all()


def test_points_by_hand():
    calibration = Calibration(focal_px=100, focal_y_px=50, baseline_m=0.1, size=(3, 2), centre=(1, 0))
    points = depth_to_points(np.array([[2, 2, 0], [4, 4, 4]], np.float32), calibration)
    assert points.dtype == np.float32 and points.shape == (2, 3, 3)
    assert points[0] == pytest.approx(np.array([[-0.02, 0, 2], [0, 0, 2], [0, 0, 0]]))
    assert points[1] == pytest.approx(np.array([[-0.04, 0.08, 4], [0, 0.08, 4], [0.04, 0.08, 4]]))


def test_without_a_principal_point_it_is_the_middle():
    points = depth_to_points(np.ones((3, 5), np.float32), Calibration(focal_px=10, baseline_m=0.1, size=(5, 3)))
    assert points[1, 2] == pytest.approx([0, 0, 1]) and points[0, 0] == pytest.approx([-0.2, -0.1, 1])


def test_left_and_right_agree_where_both_eyes_see():
    """A near bar (disparity 3) before a far wall (1): left of the bar the wall is hidden from the right eye, and so is the first column."""
    left = np.full((1, 10), 1, np.float32)
    left[0, 5:7] = 3
    right = np.full((1, 10), 1, np.float32)
    right[0, 2:4] = 3
    agree = left_right_agree(left, right)
    assert agree[0].tolist() == [False, True, True, False, False, True, True, True, True, True]
    assert not left_right_agree(left + 0.6, right - 0.6)[0, 8] and left_right_agree(left + 0.4, right, 0.5)[0, 8]
