"""Lists of augmentations from the configuration: their order, what each keeps, and what a wrong list is told."""

import pickle

import numpy as np
import pytest

from train.augment import IMAGE_AUGMENTATIONS, build_image_augmentations
from train.augment.pipeline import Augmentation
from train.sample import StereoSample
from utils.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


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


def test_the_names_are_those_that_users_of_other_trainers_know():
    assert set(IMAGE_AUGMENTATIONS) == {
        "jittering", "blurring", "gaussian_noise", "shot_noise", "jpeg_loss", "eraser", "occlusion",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(IMAGE_AUGMENTATIONS))
def test_every_augmentation_of_images_changes_these_and_nothing_else(name):
    steps = build_image_augmentations([{"name": name, "probability": 1}], "here")
    before = sample()
    outs = [steps(before, np.random.default_rng(seed)).check() for seed in range(5)]
    assert all((out.disparity == before.disparity).all() and (out.valid == before.valid).all() for out in outs)
    assert any((out.right != IMAGE).any() for out in outs) and (before.left == IMAGE).all() and (before.right == IMAGE).all()
    again = [steps(before, np.random.default_rng(seed)) for seed in range(5)]
    assert all((a.left == b.left).all() and (a.right == b.right).all() for a, b in zip(outs, again, strict=True))
    assert any((outs[0].right != out.right).any() for out in outs[1:])


@pytest.mark.parametrize("name", list(IMAGE_AUGMENTATIONS))
def test_probability_is_that_of_acting(name):
    """Torchvision's erasing skips with its probability."""
    steps = build_image_augmentations([{"name": name, "probability": 0}], "here")
    out = steps(sample(), np.random.default_rng(0))
    assert (out.left == IMAGE).all() and (out.right == IMAGE).all()


def test_geometry_comes_first_and_colour_sees_the_crop_only(monkeypatch):
    seen = []

    def spy(sample, rng):
        seen.append(sample.left.shape)
        return sample

    monkeypatch.setitem(IMAGE_AUGMENTATIONS._entries, "spy", spy)
    out = Augmentation(["spy", "jittering"], True, "here")(sample(), (16, 8), np.random.default_rng(0)).check()
    assert seen == [(8, 16, 3)] and out.left.shape == (8, 16, 3)


def test_what_is_dumped_builds_the_same():
    made = Augmentation(list(IMAGE_AUGMENTATIONS), {"y_jitter": 1}, "here")
    image, stereo = made.dump()
    assert {entry["name"] for entry in image} == set(IMAGE_AUGMENTATIONS) and stereo["y_jitter"] == 1
    again = Augmentation(image, stereo, "here")
    assert again.dump() == (image, stereo)
    one, two = (a(sample(), (16, 8), np.random.default_rng(7)) for a in (made, again))
    assert (one.left == two.left).all() and (one.right == two.right).all()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("jitering", r"data\.image_augmentation\[0\]: unknown image augmentation 'jitering'; did you mean 'jittering'"),
        ({"name": "jittering", "hues": [0, 0]}, r"image_augmentation\[0\]\.hues: unknown key; did you mean 'hue'"),
        ({"name": "jittering", "gamma": [2, 1]}, r"gamma.*must not exceed the second"),
        ({"name": "jittering", "asymmetric_probability": 2}, "less than or equal to 1"),
        ({"nam": "jittering"}, "no 'name'"),
        ({"name": "blurring", "scale": [0, 1]}, r"scale\[0\].*greater than 0"),
        ({"name": "blurring", "scale": [0.5, 2]}, r"scale\[1\].*less than or equal to 1"),
        ({"name": "gaussian_noise", "sigma": [-1, 2]}, r"sigma\[0\].*greater than or equal to 0"),
        ({"name": "gaussian_noise", "sigma": 3}, r"sigma.*tuple"),
        ({"name": "shot_noise", "photons": [1, 100]}, r"photons\[0\].*greater than or equal to 20"),
        ({"name": "jpeg_loss", "quality": [20.5, 99]}, r"quality\[0\].*integer"),
        ({"name": "jpeg_loss", "quality": [20, 101]}, r"quality\[1\].*less than or equal to 100"),
        ({"name": "eraser", "size": [99, 50]}, r"size.*must not exceed the second"),
        ({"name": "eraser", "size": [0, 50]}, r"size\[0\].*greater than or equal to 1"),
        ({"name": "occlusion", "patches": [1, 2, 3]}, r"patches"),
        ({"name": "occlusion", "probability": -0.1}, r"probability.*greater than or equal to 0"),
    ],
)
def test_wrong_entries_are_refused_in_one_line_when_built(entry, said):
    with pytest.raises(UserError, match=said) as caught:
        build_image_augmentations([entry], "data.image_augmentation")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("data.image_augmentation[0]")
