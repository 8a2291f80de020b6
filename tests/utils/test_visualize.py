"""Colours at chosen values, and pictures of broken arrays."""

import numpy as np
import pytest

from utils.visualize import ERROR_COLOURS, caption, colorize_disparity, colorize_error, tile

BLACK = [0, 0, 0]


def test_disparity_goes_from_blue_to_red_and_is_black_where_unknown():
    disparity = np.array([[0.0, 5.0, 10.0, 10.0, np.nan, np.inf]], np.float32)
    valid = np.array([[True, True, True, False, True, True]])
    rgb = colorize_disparity(disparity, valid)
    assert rgb.dtype == np.uint8 and rgb.shape == (1, 6, 3)
    far, middle, near = rgb[0, :3].astype(int)
    assert far[2] > far[0] and near[0] > near[2] and middle[1] > 200
    assert rgb[0, 3:].tolist() == [BLACK] * 3


def test_the_scale_can_be_given_and_what_is_beyond_it_keeps_the_last_colour():
    rgb = colorize_disparity(np.array([[5.0, 10.0, 20.0, -3.0, 0.0]]), max_disparity=10)
    assert (rgb[0, 1] == rgb[0, 2]).all() and (rgb[0, 3] == rgb[0, 4]).all() and (rgb[0, 0] != rgb[0, 1]).any()


@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf, -1.0])
def test_nothing_to_show_is_a_picture_too(fill):
    assert colorize_disparity(np.full((2, 3), fill)).shape == (2, 3, 3)
    assert not colorize_disparity(np.full((2, 3), fill), np.zeros((2, 3), bool)).any()


def test_error_colours_change_from_blue_to_red_above_three_pixels():
    error = np.array([[0.0, 0.1875, 0.2, 3.0, 3.1, 48.0, 49.0, np.nan, 7.0]], np.float32)
    valid = np.array([[True] * 8 + [False]])
    rgb = colorize_error(10 - error, np.full_like(error, 10), valid)
    assert rgb[0].tolist() == [*ERROR_COLOURS[[0, 0, 1, 4, 5, 8, 9, 9]].tolist(), BLACK]


def test_tiles_stand_row_by_row_in_cells_of_the_largest():
    big, small = np.full((2, 3, 3), 7, np.uint8), np.full((1, 2, 3), 9, np.uint8)
    canvas = tile([small, big, big], columns=2, gap=1)
    assert canvas.shape == (5, 7, 3)
    assert canvas[..., 0].tolist() == [
        [9, 9, 0, 0, 7, 7, 7],
        [0, 0, 0, 0, 7, 7, 7],
        [0, 0, 0, 0, 0, 0, 0],
        [7, 7, 7, 0, 0, 0, 0],
        [7, 7, 7, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("lines", [[], ["x"], ["a long line that hardly fits into a small picture"] * 6])
def test_captions_fit_any_size(lines):
    for size in ((1, 1), (8, 200), (120, 160)):
        assert caption(*size, lines).shape == (*size, 3)
