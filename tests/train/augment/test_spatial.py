"""Geometry changes the pair and its ground truth together: proved by warping the right image with the changed disparity."""

import numpy as np
import pytest

from train.augment import SpatialOptions, spatial, spatial_options
from train.augment.spatial import crop, flip_horizontally, flip_vertically, resize
from train.datasets import build_dataset
from train.sample import StereoSample
from utils.errors import UserError
from utils.geometry import mirror, warp_right

ALL = ("left", "right", "disparity", "valid", "disparity_right", "valid_right", "occluded")


@pytest.fixture(scope="module")
def samples():
    params = {"size": [192, 128], "noise": 0, "eye_difference": 0, "max_disparity": 40, "seed": 11}
    dataset = build_dataset("synthetic", None, params, "data")
    return [dataset.load(i) for i in range(6)]


def warp_error(sample, disparity=None):
    """Mean grey levels between the left image and the warped right one; the median, so that hidden pixels do not count."""
    warped, inside = warp_right(sample.right, sample.disparity if disparity is None else disparity)
    difference = np.abs(warped - sample.left).mean(2)[inside & sample.valid]
    return float(np.sort(difference)[: int(0.8 * difference.size)].mean())


def assert_still_a_pair(changed, limit=2.0):
    """Over several samples together, since one may be of one colour."""
    right = np.mean([warp_error(sample.check()) for sample in changed])
    assert right < limit
    for wrong in (lambda d: 0 * d, lambda d: 1.25 * d, lambda d: 0.8 * d, lambda d: d + 2, lambda d: np.maximum(d - 2, 0)):
        assert np.mean([warp_error(sample, wrong(sample.disparity)) for sample in changed]) > 1.7 * right
    return right


def test_the_samples_themselves_pass(samples):
    assert_still_a_pair(samples)


@pytest.mark.parametrize("size", [(192, 128), (288, 128), (192, 200), (120, 80), (150, 160)])
def test_scaled_pairs_are_pairs(samples, size):
    changed = [resize(sample, size) for sample in samples]
    assert all(sample.left.shape == (size[1], size[0], 3) for sample in changed)
    assert_still_a_pair(changed)


def test_cropped_pairs_are_pairs_and_know_what_the_crop_hides(samples):
    changed = [crop(sample, (60, 10), (100, 90)) for sample in samples]
    assert_still_a_pair(changed)
    for before, after in zip(samples, changed, strict=True):
        assert (after.disparity == before.disparity[10:100, 60:160]).all()
        beyond = np.arange(100) - after.disparity < 0
        assert (after.occluded == (before.occluded[10:100, 60:160] | beyond)).all() and beyond.any()


def test_mirrored_pairs_are_pairs_with_the_eyes_swapped(samples):
    changed = [flip_horizontally(sample) for sample in samples]
    right = assert_still_a_pair(changed)
    # What others do, mirroring images and keeping or mirroring the left view's disparity, is no pair.
    for wrong in (lambda sample: sample.disparity, lambda sample: mirror(sample.disparity)):
        assert np.mean([warp_error(after, wrong(before)) for before, after in zip(samples, changed, strict=True)]) > 2 * right


def test_turned_over_pairs_are_pairs(samples):
    assert_still_a_pair([flip_vertically(sample) for sample in samples])


@pytest.mark.parametrize("flip", [flip_horizontally, flip_vertically])
def test_flipping_twice_is_nothing(samples, flip):
    twice = flip(flip(samples[0]))
    for name in ALL:
        if name != "occluded" or flip is flip_vertically:
            assert (getattr(twice, name) == getattr(samples[0], name)).all(), name


def test_scaling_there_and_back(samples):
    for sample in samples:
        back = resize(resize(sample, (384, 256)), (192, 128))
        difference = np.abs(back.disparity - sample.disparity)
        assert np.mean(difference < 0.05) > 0.97 and back.valid.all()
        assert np.abs(back.left.astype(float) - sample.left).mean() < 6


def test_horizontal_flip_refuses_without_the_right_view(samples):
    alone = samples[0].replace(disparity_right=None, valid_right=None)
    with pytest.raises(ValueError, match="needs the right view's disparity"):
        flip_horizontally(alone)
    options = SpatialOptions(horizontal_flip=1, vertical_flip=0, scale_probability=0, stretch_probability=0)
    same = spatial(alone, (192, 128), np.random.default_rng(0), options)
    assert (same.left == alone.left).all() and (same.disparity == alone.disparity).all()
    swapped = spatial(samples[0], (192, 128), np.random.default_rng(0), options)
    assert (swapped.left == mirror(samples[0].right)).all()


@pytest.mark.parametrize("size", [(96, 64), (160, 120), (256, 192), (192, 128)])
def test_random_augmentation_gives_pairs_of_exactly_the_size(samples, size):
    changed = [spatial(sample, size, np.random.default_rng(seed), SpatialOptions()) for seed in range(4) for sample in samples]
    assert all(sample.disparity.shape == size[::-1] for sample in changed)
    assert_still_a_pair(changed, limit=2.5)


def test_random_augmentation_is_a_function_of_its_generator(samples):
    one, two, other = (spatial(samples[0], (96, 64), np.random.default_rng(seed), SpatialOptions()) for seed in (4, 4, 5))
    assert all((getattr(one, name) == getattr(two, name)).all() for name in ALL if getattr(one, name) is not None)
    assert (one.left != other.left).any()


def test_scale_follows_its_exponents(samples):
    options = SpatialOptions(scale=(1, 1), scale_probability=1, stretch_probability=0, horizontal_flip=0, vertical_flip=0)
    doubled = spatial(samples[0], (96, 64), np.random.default_rng(0), options)
    # the window was 48 x 32, and each of its disparities is doubled
    small = set(np.round(2 * samples[0].disparity.ravel(), 3))
    nearest = np.abs(np.sort(np.array(list(small)))[:, None] - doubled.disparity.ravel()[None, ::37]).min(0)
    assert np.median(nearest) < 0.02 and 1.9 * np.median(samples[0].disparity) < 2.1 * doubled.disparity.max()


def ramp(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    disparity = np.full((height, width), 5, np.float32)
    return StereoSample(image, image.copy(), disparity, disparity > 0, key="ramp")


def test_off_is_the_centre_and_draws_nothing():
    rng = np.random.default_rng(0)
    out = spatial(ramp(100, 60), (40, 20), rng, None).check()
    assert out.left[0, 0].tolist() == [30, 20, 0] and out.left[-1, -1].tolist() == [69, 39, 0] and (out.disparity == 5).all()
    assert rng.random() == np.random.default_rng(0).random()


def test_off_scales_a_small_sample_up_evenly_until_it_covers():
    out = spatial(ramp(100, 60), (200, 150), np.random.default_rng(0), None).check()
    # 150 / 60 = 2.5 covers; of the width 200 / 2.5 = 80 columns are used, from column 10
    assert out.disparity.shape == (150, 200) and (out.disparity == 12.5).all()
    assert out.left[75, 0, 0] == 10 and out.left[75, -1, 0] == 89


def test_sparse_ground_truth_keeps_its_values_and_its_holes():
    rng = np.random.default_rng(0)
    valid = rng.random((60, 100)) < 0.1
    disparity = np.where(valid, rng.integers(1, 20, (60, 100)), 0).astype(np.float32)
    image = np.zeros((60, 100, 3), np.uint8)
    sample = StereoSample(image, image, disparity, valid, sparse=True)
    out = resize(sample, (200, 120)).check()
    assert out.valid.sum() == valid.sum() and (np.sort(out.disparity[out.valid]) == 2 * np.sort(disparity[valid])).all()
    dense = resize(sample.replace(sparse=False), (200, 120)).check()
    assert dense.valid.sum() > 3 * valid.sum()


def test_options_are_read_from_the_configuration():
    assert spatial_options(True, "x") == SpatialOptions() and spatial_options(False, "x") is None
    assert spatial_options({"scale": [0, 0.3]}, "x").scale == (0, 0.3)
    for value, said in (
        ({"scal": [0, 1]}, r"data\.stereo_augmentation\.scal: unknown key; did you mean 'scale'"),
        ({"scale": [1, 0]}, "must not exceed"),
        ({"horizontal_flip": 1.5}, "less than or equal to 1"),
        ("yes", "expected true, false or an object"),
    ):
        with pytest.raises(UserError, match=said):
            spatial_options(value, "data.stereo_augmentation")
