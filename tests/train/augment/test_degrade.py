"""Lost sharpness, grain and compression: values by hand, and that nothing moves."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from train.augment import build_image_augmentations
from train.augment.degrade import ENLARGING, add_noise, coarsen, compress, gaussian_table, shot_table
from train.sample import StereoSample


def picture(height=48, width=64):
    small = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def applied(seed, name, image=None, **params):
    """Both eyes after the augmentation, of a pair of the same image twice."""
    image = picture() if image is None else image
    disparity = np.zeros(image.shape[:2], np.float32)
    steps = build_image_augmentations([{"name": name, **params}], "here")
    out = steps(StereoSample(image, image, disparity, disparity > 0), np.random.default_rng(seed)).check()
    return out.left, out.right


def flat(grey, height=200, width=200):
    return np.full((height, width, 3), grey, np.uint8)


def test_columns_as_narrow_as_a_pixel_become_their_mean():
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    for enlarging in ENLARGING:
        assert (coarsen(stripes, 0.5, enlarging) == 100).all()
        assert (coarsen(stripes, 1.0, enlarging) == stripes).all()
        assert (coarsen(flat(37, 9, 7), 0.3, enlarging) == 37).all()
        assert coarsen(stripes, 0.01, enlarging).shape == stripes.shape


@pytest.mark.parametrize("enlarging", ENLARGING)
@pytest.mark.parametrize("scale", [0.3, 0.55, 0.7, 0.9])
def test_blurring_moves_nothing(enlarging, scale):
    """OpenCV's INTER_NEAREST moves this ramp by 0.4 pixels, which would be 0.4 pixels of disparity when one eye is blurred."""
    ramp = np.broadcast_to((6 * np.arange(40, dtype=np.uint8))[None, :, None], (40, 40, 3)).copy()
    for image in (ramp, ramp.transpose(1, 0, 2).copy()):
        moved = (coarsen(image, scale, enlarging).astype(float) - image)[8:-8, 8:-8] / 6
        assert abs(moved.mean()) < 0.08 and np.abs(moved).max() < 0.2  # a grey level is a sixth of a pixel
    nearest = cv2.resize(cv2.resize(ramp, (28, 28), interpolation=cv2.INTER_AREA), (40, 40), interpolation=cv2.INTER_NEAREST)
    assert abs((nearest.astype(float) - ramp)[8:-8, 8:-8].mean() / 6) > 0.3


def test_gaussian_table_by_hand():
    table = gaussian_table(10)
    # a normal distribution has 84.13 % of its values below one deviation: column 0.8413 * 256 - 0.5
    assert table[100, 215] == 110 and table[100, 40] == 90 and abs(int(table[100, 127]) - 100) <= 1
    assert table[0, 40] == 0 and table[255, 215] == 255
    assert (gaussian_table(0) == np.arange(256)[:, None]).all()


@pytest.mark.parametrize("sigma", [1.5, 5, 20])
def test_gaussian_noise_has_its_deviation_at_every_grey(sigma):
    for grey in (100, 150):
        noisy = add_noise(flat(grey), gaussian_table(sigma), np.random.default_rng(0)).astype(float)
        assert noisy.mean() == pytest.approx(grey, abs=0.03 * sigma) and noisy.std() == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.03)


@pytest.mark.parametrize("photons", [100, 1000, 10000])
def test_shot_noise_grows_as_the_root_of_the_light(photons):
    for grey in (5, 20, 60, 128):
        noisy = add_noise(flat(grey), shot_table(photons), np.random.default_rng(0)).astype(float)
        deviation = np.sqrt(grey * 255 / photons)  # of grey * photons / 255 photons, each 255 / photons grey levels
        assert noisy.mean() == pytest.approx(grey, abs=0.3) and noisy.std() == pytest.approx(
            np.hypot(deviation, 12**-0.5), rel=0.05, abs=0.1
        )
    assert (add_noise(flat(0), shot_table(photons), np.random.default_rng(0)) == 0).all()


def test_photons_are_whole():
    assert (shot_table(51) % 5 == 0).all()  # 51 photons at 255: 5 grey levels each


def test_grain_is_of_every_eye_channel_and_pixel_by_itself():
    left, right = applied(0, "gaussian_noise", flat(128), sigma=(5, 5), probability=1)
    grains = [eye[..., c].astype(float) - 128 for eye in (left, right) for c in range(3)]
    related = np.corrcoef(
        [grain.ravel() for grain in grains] + [np.roll(grain, 1, axis).ravel() for grain in grains[:1] for axis in (0, 1)]
    )
    assert np.abs(related - np.eye(len(related))).max() < 0.03


def test_strength_is_shared_unless_asked_otherwise():
    def ratios(asymmetric):
        pairs = (
            applied(s, "gaussian_noise", flat(128), sigma=(1, 20), probability=1, asymmetric_probability=asymmetric) for s in range(20)
        )
        return np.array([left.std() / right.std() for left, right in pairs])

    assert np.abs(ratios(0) - 1).max() < 0.03 and np.median(np.abs(np.log(ratios(1)))) > 0.2


@pytest.mark.parametrize("name", ["blurring", "jpeg_loss"])
def test_without_grain_alike_is_the_same_for_both_eyes(name):
    alike = [applied(seed, name, asymmetric_probability=0, probability=1) for seed in range(5)]
    assert all((left == right).all() for left, right in alike) and all((left != picture()).any() for left, _ in alike)
    own = [applied(seed, name, asymmetric_probability=1, probability=1) for seed in range(5)]
    assert sum((left != right).any() for left, right in own) >= 4


def test_an_eye_by_itself_has_a_chance_of_its_own():
    pairs = [applied(seed, "blurring", scale=(0.5, 0.5), probability=0.5, asymmetric_probability=1) for seed in range(200)]
    touched = np.array([[bool((eye != picture()).any()) for eye in pair] for pair in pairs])
    assert all(0.15 < np.mean((touched == which).all(1)) < 0.35 for which in ([0, 0], [0, 1], [1, 0], [1, 1]))


def test_compression_is_that_of_other_programs():
    """Colours in the other order are compressed, too, but with the wrong weights: the difference is ten times as large."""
    image = picture()
    for quality in (20, 60, 95):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        other = np.array(Image.open(file)).astype(int)
        ours = np.abs(compress(image, quality) - other).mean()
        assert ours < 0.5 and np.abs(compress(image[..., ::-1], quality)[..., ::-1] - other).mean() > 4 * ours
    errors = [np.abs(compress(image, quality).astype(int) - image).mean() for quality in (10, 40, 80, 100)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[2]
    assert (compress(flat(128, 16, 16), 50) == 128).all()


def test_quality_includes_both_limits():
    image = picture()
    made = {quality: compress(image, quality).tobytes() for quality in (30, 31)}
    drawn = {applied(seed, "jpeg_loss", quality=(30, 31), probability=1)[0].tobytes() for seed in range(20)}
    assert drawn == set(made.values())
