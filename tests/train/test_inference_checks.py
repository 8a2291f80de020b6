"""Pairs that are wrong are named, and those that are right pass."""

import cv2
import numpy as np
import pytest

from train.inference_checks import check_range, check_views, feature_offsets
from utils.images import read_image


def scene(height=200, width=300, shift=8, seed=0):
    """A picture of blocks, seen by both eyes at one depth."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 10, (width + 20) // 10, 3), np.uint8)
    wide = cv2.resize(blocks, (width + 20, height), interpolation=cv2.INTER_NEAREST)
    return wide[:, :width].copy(), wide[:, shift : shift + width].copy()


def moved(image, rows=0.0, degrees=0.0):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    matrix[1, 2] += rows
    return cv2.warpAffine(image, matrix, (width, height))


def test_features_are_found_where_they_are():
    rows, columns = feature_offsets(*scene())
    assert len(rows) > 100 and np.median(np.abs(rows)) == 0 and abs(np.median(columns) - 8) < 1


def test_a_pair_of_one_pixel_passes():
    assert check_views(*scene(200, 300)) == {}
    for height, width in ((1, 1), (1, 40), (40, 1)):
        assert check_views(*np.zeros((2, height, width, 3), np.uint8)) == {}


def test_a_good_pair_passes():
    assert check_views(*scene()) == {}


def test_rows_that_do_not_agree():
    left, right = scene()
    for wrong in (moved(right, rows=2), moved(right, degrees=1.5)):
        found = check_views(left, wrong)
        assert found.keys() == {"rows"} and "looks unrectified" in found["rows"]


def test_swapped_eyes():
    left, right = scene()
    assert check_views(right, left).keys() == {"swapped"}


def test_without_features_nothing_is_said():
    grey = np.full((100, 120, 3), 128, np.uint8)
    assert check_views(grey, grey) == {}
    assert check_views(grey[:3, :3], grey[:3, :3]) == {}


def test_a_range_that_is_reached():
    disparity = np.full((10, 10), 20, np.float32)
    assert check_range(disparity, 64) == {} == check_range(disparity + 1000, None)
    disparity[:1, :3] = 63
    assert "3 % of the disparities reach the network's range of 64 px" in check_range(disparity, 64)["range"]


@pytest.mark.data
def test_real_pairs_pass_and_their_broken_copies_do_not(shared):
    for folder in sorted((shared / "data/real").iterdir()):
        if folder.is_dir():
            left, right = read_image(folder / "left.png"), read_image(folder / "right.png")
            assert check_views(left, right) == {}, folder.name
            assert check_views(left, moved(right, rows=2)).keys() == {"rows"}, folder.name
            assert check_views(right, left).keys() == {"swapped"}, folder.name
