"""Geometry changes the pair and its ground truth together: proved by warping the right image with the changed disparity."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from train.augment import SpatialOptions, spatial, spatial_options
from train.augment.spatial import TURNED_OVER, crop, flip_horizontally, flip_vertically, misalign, resize, shift_rows, tilt_rows
from train.datasets import build_dataset
from train.datasets.synthetic.pose import seen_from
from train.datasets.synthetic.render import Lens, View
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.errors import UserError
from utils.geometry import mirror, warp_right

ALIGNED = SpatialOptions(y_jitter_probability=0)
ALL = ("left", "right", "disparity", "valid", "disparity_right", "valid_right", "occluded")


@pytest.fixture(scope="module")
def samples():
    faults = ("reflections", "noise", "shot_noise", "eye_difference", "vignetting", "defocus", "motion_blur", "eye_blur")
    params = {"size": [192, 128], "max_disparity": 40, "seed": 11, "scenes": {"abstract": 1}, **dict.fromkeys(faults, 0)}
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
    options = SpatialOptions(horizontal_flip=1, vertical_flip=0, scale_probability=0, stretch_probability=0, y_jitter_probability=0)
    same = spatial(alone, (192, 128), np.random.default_rng(0), options)
    assert (same.left == alone.left).all() and (same.disparity == alone.disparity).all()
    swapped = spatial(samples[0], (192, 128), np.random.default_rng(0), options)
    assert (swapped.left == mirror(samples[0].right)).all()


@pytest.mark.parametrize("size", [(96, 64), (160, 120), (256, 192), (192, 128)])
def test_random_augmentation_gives_pairs_of_exactly_the_size(samples, size):
    changed = [spatial(sample, size, np.random.default_rng(seed), ALIGNED) for seed in range(4) for sample in samples]
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


@pytest.mark.parametrize(("rows", "tilt_deg"), [(1.5, 0), (-2.25, 0), (0, 1), (0.75, -1.5)])
def test_misaligned_pairs_are_pairs_once_the_rows_are_put_back(samples, rows, tilt_deg):
    """By a rotation of the whole image, columns would stay wrong; with the eyes mistaken, putting back would move them further apart."""
    changed = [misalign(sample, rows, tilt_deg) for sample in samples]
    slope = np.tan(np.radians(tilt_deg))

    def put_back(sample, factor=1.0):
        return sample.replace(right=tilt_rows(sample.right, -factor * rows, -factor * slope))

    error = assert_still_a_pair([put_back(sample) for sample in changed])
    for factor in (-1, 0, 0.5, 1.5, 2):
        assert np.mean([warp_error(put_back(sample, factor)) for sample in changed]) > 1.15 * error, factor
    for before, after in zip(samples, changed, strict=True):
        assert after.left is before.left and after.disparity is before.disparity and after.valid is before.valid
        assert after.disparity_right is None and after.valid_right is None  # of pixels that have left their rows


def test_rows_move_by_hand():
    before = slope_down(60, 40)
    down = misalign(before, 2, 0)
    assert (down.right[2:] == before.right[:-2]).all() and (down.right[:2] == before.right[0]).all() and (down.left == before.left).all()
    assert (misalign(before, -3, 0).right[:-3] == before.right[3:]).all()
    half = misalign(before, 0.5, 0).right[3:-3, :, 0].astype(int)
    assert (half == 4 * np.arange(3, 37)[:, None] - 2).all()
    tilted = misalign(before, 0.5, 2).right[5:-5, :, :2].astype(float)
    x, y = np.meshgrid(np.arange(60), np.arange(5, 35))
    assert np.abs(tilted[..., 0] - 4 * (y - 0.5 - np.tan(np.radians(2)) * (x - 29.5))).max() < 0.7  # 1/32 row, and a rounded grey level
    assert (tilted[..., 1] == 3 * x).all()  # no column moves
    assert misalign(before, 0, 0) is before


@pytest.mark.parametrize("rows", [0.3, -0.5, 1, 1.7, -2, -15.6])
def test_the_fast_shift_is_the_tilt_without_a_slope(rows):
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    difference = np.abs(shift_rows(image, rows).astype(int) - tilt_rows(image, rows, 0.0))
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_rows_that_leave_the_image_are_occluded(samples):
    for rows, lost in ((2, [126, 127]), (-1.5, [0, 1])):
        after = misalign(samples[0], rows, 0)
        gained = after.occluded & ~samples[0].occluded
        assert set(np.nonzero(gained)[0]) == set(lost) and (after.occluded[lost] == 1).all()
    tilted = misalign(samples[0].replace(occluded=np.zeros((128, 192), bool)), 0, 1)
    match = np.arange(192) - samples[0].disparity
    y = np.arange(128)[:, None] + np.tan(np.radians(1)) * (match - 95.5)
    expected = (match < 0) | (y < 0) | (y > 127)
    assert np.mean(tilted.occluded == expected) > 0.9999 and expected[0, :90].any() and expected[-1, 150:].any()


def moved_rows(seed, **options):
    """By how much the left and the right image of one sample, without scale and flips, lie too low, in rows."""
    still = {"scale_probability": 0, "stretch_probability": 0, "horizontal_flip": 0, "vertical_flip": 0}
    out = spatial(slope_down(60, 40), (60, 40), np.random.default_rng(seed), SpatialOptions(**still, **options))
    return tuple(float((np.arange(10, 30)[:, None] - eye[10:30, :, 0] / 4).mean()) for eye in (out.left, out.right))


def test_y_jitter_moves_the_right_eye_by_fractions_of_rows_within_its_limit():
    found = np.array([moved_rows(seed) for seed in range(100)])
    assert (found[:, 0] == 0).all()
    assert np.abs(found[:, 1]).max() <= 2.05 and found[:, 1].min() < -1.7 and found[:, 1].max() > 1.7 and abs(found[:, 1].mean()) < 0.35
    assert np.mean(np.abs(found[:, 1] - np.rint(found[:, 1])) > 0.1) > 0.6
    assert np.mean([moved_rows(seed, y_jitter_probability=0.3)[1] != 0 for seed in range(100)]) == pytest.approx(0.3, abs=0.12)
    assert all(moved_rows(seed, y_jitter_probability=0) == (0, 0) for seed in range(5))


def test_y_jitter_changes_the_right_eye_and_nothing_else(samples):
    for seed in range(6):
        jittered, aligned = (spatial(samples[0], (96, 64), np.random.default_rng(seed), options) for options in (SpatialOptions(), ALIGNED))
        assert all((getattr(jittered, name) == getattr(aligned, name)).all() for name in ("left", "disparity", "valid"))
        assert (jittered.right != aligned.right).any()


def test_the_eye_that_is_the_right_one_after_the_flip_is_moved(samples):
    flips = {"horizontal_flip": 1, "scale_probability": 0, "stretch_probability": 0, "vertical_flip": 0}
    options = SpatialOptions(**flips, y_jitter=8, rotation_deg=1, rotation_probability=1)
    out = spatial(samples[0], (192, 128), np.random.default_rng(0), options)
    assert (out.left == mirror(samples[0].right)).all() and (out.right != mirror(samples[0].left)).mean() > 0.5


def test_rotation_is_off_unless_asked_for_and_tilts_within_its_limit():
    def tilt(seed, **options):
        still = {"scale_probability": 0, "stretch_probability": 0, "horizontal_flip": 0, "vertical_flip": 0, "y_jitter_probability": 0}
        out = spatial(slope_down(60, 40), (60, 40), np.random.default_rng(seed), SpatialOptions(**still, **options))
        rows = 20 - out.right[20, :, 0] / 4
        return np.degrees(np.arctan(np.polyfit(np.arange(60), rows, 1)[0]))

    assert all(tilt(seed) == 0 for seed in range(5))
    found = [tilt(seed, rotation_probability=1, rotation_deg=2) for seed in range(60)]
    assert np.abs(found).max() < 2.1 and min(found) < -1.5 and max(found) > 1.5


def test_no_calibration_outlives_a_change_of_geometry(samples):
    sample = samples[0].replace(calibration=Calibration(focal_px=100, baseline_m=0.1, size=(192, 128)))
    for changed in (
        crop(sample, (3, 4), (100, 90)),
        resize(sample, (96, 64)),
        flip_horizontally(sample),
        flip_vertically(sample),
        misalign(sample, 1, 0),
        spatial(sample, (96, 64), np.random.default_rng(0), None),
        spatial(sample, (96, 64), np.random.default_rng(0), SpatialOptions()),
    ):
        assert changed.calibration is None


def slope_down(width, height):
    """Every row is 4 grey levels brighter in red than the one above it, every column 3 levels in green."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = 4 * np.arange(height)[:, None], 3 * np.arange(width)
    disparity = np.full((height, width), 5, np.float32)
    return StereoSample(image, image.copy(), disparity, disparity > 0, key="slope")


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
        ({"scale": [0, 50]}, "less than or equal to 4"),
        ({"horizontal_flip": 1.5}, "less than or equal to 1"),
        ({"stretch": -1}, "greater than or equal to 0"),
        ({"y_jitter": -1}, "greater than or equal to 0"),
        ({"y_jitter_probability": 2}, "less than or equal to 1"),
        ({"rotation_deg": 90}, "less than or equal to 2"),
        ({"rotation": 1}, "did you mean 'rotation_deg'"),
        ("yes", "expected true, false or an object"),
    ):
        with pytest.raises(UserError, match=said):
            spatial_options(value, "data.stereo_augmentation")


# ---- what becomes of a pose -------------------------------------------------------------------------------------------------------------

POSE = np.array([0.01, -0.02, 0.03, 0.02, -0.05, 0.04], np.float32)
LENS, SIZE, INNER = Lens(120.0, (70.0, 45.0)), (160, 120), (slice(12, -12), slice(12, -12))


def wall(lens, disparity, size):
    """A smooth picture on a wall, as the rectified right camera sees it; a function of direction."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    u, v = (x - lens.centre[0]) / lens.focal, (y - lens.centre[1]) / lens.focal
    image = 128 + 50 * np.sin(6 * u + 1) * np.cos(5 * v) + 40 * np.sin(4 * v + 2 * u)
    return View(image[..., None].repeat(3, 2).astype(np.float32), np.full(size[::-1], disparity, np.float32), None, None)


def difference(first, second):
    return np.abs(first - second)[INNER].max()


def test_scaled_and_cropped_pictures_are_those_that_a_camera_of_another_lens_sees_from_the_same_pose():
    image = seen_from(wall(LENS, 12.0, SIZE), LENS, POSE)
    cropped, doubled = Lens(120.0, (40.0, 25.0)), Lens(240.0, (140.5, 90.5))  # places are of pixel centres
    assert difference(image[20:100, 30:140], seen_from(wall(cropped, 12.0, (110, 80)), cropped, POSE)) < 0.5
    scaled = cv2.resize(image, (320, 240), interpolation=cv2.INTER_CUBIC)
    assert difference(scaled, seen_from(wall(doubled, 24.0, (320, 240)), doubled, POSE)) < 0.5


def test_a_picture_turned_over_is_seen_from_the_pose_with_other_signs():
    image, straight = seen_from(wall(LENS, 12.0, SIZE), LENS, POSE)[::-1], wall(LENS, 12.0, SIZE)
    below, mirrored = Lens(120.0, (70.0, 74.0)), replace(straight, image=straight.image[::-1].copy())
    assert difference(image, seen_from(mirrored, below, POSE * TURNED_OVER)) < 0.5
    for number in range(6):  # every sign counts
        wrong = POSE * TURNED_OVER
        wrong[number] *= -1
        assert difference(image, seen_from(mirrored, below, wrong)) > 0.6, number


def test_what_happens_to_the_label(samples):
    plain = samples[0].replace(pose=POSE, disparity_right=None, valid_right=None)
    for change in (lambda s: crop(s, (10, 5), (100, 90)), lambda s: resize(s, (96, 128))):
        assert (change(plain).pose == POSE).all()
    assert (flip_vertically(plain).pose == POSE * TURNED_OVER).all() and (flip_vertically(flip_vertically(plain)).pose == POSE).all()
    for moving, words in ((lambda s: flip_horizontally(s), "of the left camera"), (lambda s: misalign(s, 1, 0), "cannot be moved")):
        with pytest.raises(ValueError, match=words):
            moving(samples[0].replace(pose=POSE))


def test_no_augmentation_leaves_a_wrong_label(samples):
    """With everything on: of a sample with a pose, no eyes are exchanged and no rows are moved beside what the pose says."""
    always = SpatialOptions(
        scale_probability=0, stretch_probability=0, horizontal_flip=1, vertical_flip=0, y_jitter=8, rotation_deg=2, rotation_probability=1
    )
    sample = samples[0].replace(pose=POSE)
    found = spatial(sample, (192, 128), np.random.default_rng(0), always)
    assert (found.left == sample.left).all() and (found.right == sample.right).all() and (found.pose == POSE).all()
    moved = spatial(samples[0], (192, 128), np.random.default_rng(0), always)
    assert (moved.left == mirror(sample.right)).all() and moved.pose is None
    turned = spatial(sample, (192, 128), np.random.default_rng(0), always.model_copy(update={"vertical_flip": 1.0}))
    assert (turned.right == sample.right[::-1]).all() and (turned.pose == POSE * TURNED_OVER).all()
    assert (spatial(sample, (96, 64), np.random.default_rng(0), None).pose == POSE).all()
