"""Colour jitter by hand, alike and unalike."""

import numpy as np
import pytest

from train.augment.photometric import adjust_colour, jittering
from train.sample import StereoSample

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SAME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "gamma": 1.0, "hue": 0.0}


def changed(image, pivot=100.0, **changes):
    return adjust_colour(np.array(image, np.uint8).reshape(1, -1, 3), pivot=pivot, **{**SAME, **changes})[0]


def jittered(left, right, seed, **params):
    disparity = np.zeros(left.shape[:2], np.float32)
    out = jittering(StereoSample(left, right, disparity, disparity > 0), np.random.default_rng(seed), **params).check()
    return out.left, out.right


def test_each_change_by_hand():
    pixel = [50, 100, 200]
    assert changed(pixel).tolist() == [pixel]
    assert changed(pixel, brightness=1.2).tolist() == [[60, 120, 240]]
    assert changed(pixel, contrast=0.5).tolist() == [[75, 100, 150]]
    assert changed(pixel, gamma=2).tolist() == [[10, 39, 157]]  # 255 (v / 255)^2
    grey = 0.299 * 50 + 0.587 * 100 + 0.114 * 200
    assert changed(pixel, saturation=0)[0] == pytest.approx([grey] * 3, abs=1)
    assert changed(pixel, saturation=1.2)[0] == pytest.approx(grey + 1.2 * (np.array(pixel) - grey), abs=1)


def test_what_leaves_the_range_is_cut_off_and_does_not_wrap():
    assert changed([10, 200, 250], brightness=2).tolist() == [[20, 255, 255]]
    assert changed([10, 200, 250], contrast=3).tolist() == [[0, 255, 255]]
    assert changed([255, 0, 0], saturation=2).tolist() == [[255, 0, 0]]


def test_hue_turns_colours_and_leaves_greys():
    assert np.abs(changed([[80, 80, 80], [255, 255, 255]], hue=0.2).astype(int) - [[80] * 3, [255] * 3]).max() <= 1
    red, green, blue = changed([180, 60, 60], hue=1 / 3)[0].astype(int)
    assert max(red, green, blue) != red and abs(red - 60) < 70
    there = adjust_colour(IMAGE // 2 + 64, pivot=0, **{**SAME, "hue": 0.05})
    back = adjust_colour(there, pivot=0, **{**SAME, "hue": -0.05})
    assert np.abs(back.astype(int) - (IMAGE // 2 + 64)).max() <= 2


def test_ranges_without_width_are_the_change_itself():
    nothing = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "gamma": (1, 1), "hue": (0, 0)}
    assert all((eye == IMAGE).all() for eye in jittered(IMAGE, IMAGE, 0, **nothing))
    darker = jittered(IMAGE, IMAGE, 0, **{**nothing, "brightness": (0.5, 0.5)})
    assert all((eye == np.rint(IMAGE / 2)).all() for eye in darker)


def test_eyes_change_alike_unless_asked_otherwise():
    alike = [jittered(IMAGE, IMAGE, seed, asymmetric_probability=0.0) for seed in range(5)]
    assert all((left == right).all() for left, right in alike) and any((left != IMAGE).any() for left, _ in alike)
    own = [jittered(IMAGE, IMAGE, seed, asymmetric_probability=1.0) for seed in range(5)]
    assert all((left != right).any() for left, right in own)
    shares = [bool((a != b).any()) for a, b in (jittered(IMAGE, IMAGE, seed) for seed in range(200))]
    assert 0.1 < np.mean(shares) < 0.3


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "gamma", "hue"])
def test_each_change_is_drawn_for_each_eye(name):
    """Torchvision draws one gamma before it asks whether the eyes differ."""
    still = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "gamma": (1, 1), "hue": (0, 0)}
    ranges = still | {name: (-0.4, 0.4) if name == "hue" else (0.5, 1.5)}
    assert all((left != right).any() for left, right in (jittered(IMAGE, IMAGE, s, asymmetric_probability=1.0, **ranges) for s in range(5)))


def test_alike_means_the_same_function_even_when_the_eyes_differ():
    left, right = jittered(IMAGE, IMAGE[:, ::-1] // 3, 0, contrast=(0.5, 0.5), asymmetric_probability=0.0)
    both, _ = jittered(IMAGE, IMAGE, 0, contrast=(0.5, 0.5), asymmetric_probability=0.0)
    assert (left == both).all() and left.shape == right.shape and right.dtype == np.uint8


def test_input_is_not_written_to_and_windows_of_arrays_are_taken():
    before = IMAGE.copy()
    whole, _ = jittered(IMAGE, IMAGE, 1, contrast=(1, 1), asymmetric_probability=0)
    window, _ = jittered(IMAGE[3:9, 5:20], IMAGE[3:9, 5:20], 1, contrast=(1, 1), asymmetric_probability=0)
    assert (before == IMAGE).all() and (window == whole[3:9, 5:20]).all()
