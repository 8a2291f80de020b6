"""Semi-global matching on a pair whose disparity is known, and the filling of holes by hand."""

import numpy as np
import pytest

from train.baselines import fill_from_left, sgbm
from utils.errors import UserError


def test_holes_take_the_nearest_value_on_their_left_and_at_the_start_on_their_right():
    disparity = np.array([[-1, 3, -1, -1, 5], [-1, -1, -1, -1, -1]], np.float32)
    assert fill_from_left(disparity, disparity >= 0).tolist() == [[3, 3, 3, 3, 5], [0, 0, 0, 0, 0]]


def test_a_shifted_texture_is_found_to_a_sixteenth_of_a_pixel():
    texture = np.random.default_rng(0).integers(0, 256, (60, 140, 3), np.uint8)
    left, right = texture[:, :120], texture[:, 12:132]
    found = sgbm(left, right, 12)  # 13 values, so the search needs 16
    assert found.shape == (60, 120) and found.dtype == np.float32
    assert (np.abs(found[:, 20:] - 12) <= 1 / 16).mean() > 0.99 and (found >= 0).all()


def test_a_pair_too_narrow_to_search_in_is_refused():
    pair = np.zeros((2, 4, 19, 3), np.uint8)
    assert sgbm(*pair).shape == (4, 19)
    with pytest.raises(UserError, match=r"the images are 18 x 4 \(width x height\), narrower than 19"):
        sgbm(*pair[:, :, :18])


def test_the_range_is_that_of_the_scene():
    texture = np.random.default_rng(0).integers(0, 256, (40, 200, 3), np.uint8)
    left, right = texture[:, :160], texture[:, 20:180]
    assert np.median(sgbm(left, right, 20)) == 20
    assert np.median(sgbm(left, right, 10)) != 20  # 16 candidates end at 15
