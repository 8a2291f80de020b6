"""Colour jitter by hand, alike and unalike, and what a wrong list is told."""

import pickle

import numpy as np
import pytest

from train.augment import IMAGE_AUGMENTATIONS, build_image_augmentations
from train.augment.photometric import adjust_colour, jittering
from train.sample import StereoSample
from utils.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SAME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "gamma": 1.0, "hue": 0.0}


def changed(image, pivot=100.0, **changes):
    return adjust_colour(np.array(image, np.uint8).reshape(1, -1, 3), pivot=pivot, **{**SAME, **changes})[0]


def test_each_change_by_hand():
    pixel = [50, 100, 200]
    assert changed(pixel).tolist() == [pixel]
    assert changed(pixel, brightness=1.2).tolist() == [[60, 120, 240]]
    assert changed(pixel, contrast=0.5).tolist() == [[75, 100, 150]]
    assert changed(pixel, gamma=2).tolist() == [[10, 39, 157]]  # 255 (v / 255)^2
    grey = 0.299 * 50 + 0.587 * 100 + 0.114 * 200
    assert changed(pixel, saturation=0)[0] == pytest.approx([grey] * 3, abs=1)
    assert changed(pixel, saturation=1.2)[0] == pytest.approx(grey + 1.2 * (np.array(pixel) - grey), abs=1)


def test_hue_turns_colours_and_leaves_greys():
    assert np.abs(changed([[80, 80, 80], [255, 255, 255]], hue=0.2).astype(int) - [[80] * 3, [255] * 3]).max() <= 1
    red, green, blue = changed([180, 60, 60], hue=1 / 3)[0].astype(int)
    assert max(red, green, blue) != red and abs(red - 60) < 70
    there = adjust_colour(IMAGE // 2 + 64, pivot=0, **{**SAME, "hue": 0.05})
    back = adjust_colour(there, pivot=0, **{**SAME, "hue": -0.05})
    assert np.abs(back.astype(int) - (IMAGE // 2 + 64)).max() <= 2


def test_eyes_change_alike_unless_asked_otherwise():
    alike = [jittering(IMAGE, IMAGE, np.random.default_rng(seed), asymmetric_probability=0.0) for seed in range(5)]
    assert all((left == right).all() for left, right in alike) and any((left != IMAGE).any() for left, _ in alike)
    own = [jittering(IMAGE, IMAGE, np.random.default_rng(seed), asymmetric_probability=1.0) for seed in range(5)]
    assert all((left != right).any() for left, right in own)
    shares = [bool((a != b).any()) for a, b in (jittering(IMAGE, IMAGE, np.random.default_rng(seed)) for seed in range(200))]
    assert 0.1 < np.mean(shares) < 0.3


def test_alike_means_the_same_function_even_when_the_eyes_differ():
    left, right = jittering(IMAGE, IMAGE[:, ::-1] // 3, np.random.default_rng(0), contrast=(0.5, 0.5), asymmetric_probability=0.0)
    both, _ = jittering(IMAGE, IMAGE, np.random.default_rng(0), contrast=(0.5, 0.5), asymmetric_probability=0.0)
    assert (left == both).all() and left.shape == right.shape and right.dtype == np.uint8


def test_input_is_not_written_to_and_windows_of_arrays_are_taken():
    before = IMAGE.copy()
    whole, _ = jittering(IMAGE, IMAGE, np.random.default_rng(1), contrast=(1, 1), asymmetric_probability=0)
    window, _ = jittering(IMAGE[3:9, 5:20], IMAGE[3:9, 5:20], np.random.default_rng(1), contrast=(1, 1), asymmetric_probability=0)
    assert (before == IMAGE).all() and (window == whole[3:9, 5:20]).all()


def sample():
    disparity = np.full(IMAGE.shape[:2], 3, np.float32)
    return StereoSample(IMAGE, IMAGE.copy(), disparity, disparity > 0, key="made")


def test_a_list_of_names_and_objects_becomes_one_function():
    steps = build_image_augmentations(
        ["jittering", {"name": "jittering", "hue": [0, 0], "asymmetric_probability": 1}], "data.image_augmentation"
    )
    out = steps(sample(), np.random.default_rng(3)).check()
    again = pickle.loads(pickle.dumps(steps))(sample(), np.random.default_rng(3))
    assert (out.left == again.left).all() and (out.left != IMAGE).any() and (out.left != out.right).any()
    assert (out.disparity == 3).all() and out.key == "made"
    assert (build_image_augmentations([], "x")(sample(), np.random.default_rng(0)).left == IMAGE).all()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("jitering", r"data\.image_augmentation\[0\]: unknown image augmentation 'jitering'; did you mean 'jittering'"),
        ({"name": "jittering", "hues": [0, 0]}, r"image_augmentation\[0\]\.hues: unknown key; did you mean 'hue'"),
        ({"name": "jittering", "gamma": [2, 1]}, r"gamma.*must not exceed the second"),
        ({"name": "jittering", "asymmetric_probability": 2}, "less than or equal to 1"),
        ({"nam": "jittering"}, "no 'name'"),
    ],
)
def test_wrong_entries_are_refused_when_built(entry, said):
    with pytest.raises(UserError, match=said):
        build_image_augmentations([entry], "data.image_augmentation")


def test_every_augmentation_keeps_size_and_type():
    for name in IMAGE_AUGMENTATIONS:
        for image in IMAGE_AUGMENTATIONS[name](IMAGE, IMAGE, np.random.default_rng(0)):
            assert image.shape == IMAGE.shape and image.dtype == np.uint8
