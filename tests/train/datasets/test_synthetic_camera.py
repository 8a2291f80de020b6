"""What lens and sensor do, by hand and by its effect; the user's own pictures; the right camera out of place."""

import cv2
import numpy as np
import pytest

from train.datasets import build_dataset
from train.datasets.synthetic import photos
from train.datasets.synthetic.camera import Faults, _noisy, _path, photograph
from train.datasets.synthetic.photos import Photos
from train.datasets.synthetic.pose import draw_pose, seen_from
from train.datasets.synthetic.render import Lens, View
from utils.errors import UserError
from utils.images import write_image

HEIGHT, WIDTH = 48, 80
FAULTS = ("reflections", "noise", "shot_noise", "eye_difference", "vignetting", "defocus", "motion_blur", "eye_blur")


def synthetic(**params):
    return build_dataset("synthetic", None, {"size": (160, 96), **params}, "data")


def view(image, disparity=8.0):
    shape = (HEIGHT, WIDTH)
    disparity = np.broadcast_to(np.float32(disparity), shape).copy()
    image = np.ascontiguousarray(np.broadcast_to(np.float32(image), (*shape, 3)))
    return View(image, disparity, np.zeros(shape, np.int16), np.zeros(shape, bool))


def pairs(image, faults, disparity=8.0, count=20):
    return [photograph(view(image, disparity), view(image, disparity), np.random.default_rng(seed), faults) for seed in range(count)]


def sharpness(image):
    return float(cv2.Laplacian(image[..., 0].astype(np.float32), cv2.CV_32F)[4:-4, 4:-4].std())


CHECKS = 255.0 * (np.indices((HEIGHT, WIDTH)).sum(0) // 4 % 2)[..., None]


def test_perfect_eyes_are_alike_and_even():
    for left, right in pairs(100, Faults()):
        assert (left == right).all() and (left == left[0, 0]).all() and 40 < left.mean() < 200


def test_exposure_brings_dark_and_bright_scenes_to_like_levels():
    for dark, bright in zip(pairs(10, Faults()), pairs(200, Faults()), strict=True):
        assert abs(float(dark[0].mean()) - float(bright[0].mean())) <= 1


def test_noise_has_its_deviation_and_falls_with_the_root_of_brightness():
    def deviation(level, noise, shot):
        image = np.full((100, 200, 3), level, np.float32)
        return float(_noisy(image, np.random.default_rng(0), noise, shot).astype(float).std())

    assert deviation(100, 5, 0) == pytest.approx(5, rel=0.03)
    assert deviation(64, 0, 8) == pytest.approx(8 * np.sqrt(64 / 255), rel=0.03)
    assert deviation(64, 3, 8) == pytest.approx(np.hypot(3, 8 * np.sqrt(64 / 255)), rel=0.03)
    assert deviation(100, 0, 0) == 0


def test_noise_is_independent_in_the_eyes_and_at_most_what_was_asked_for():
    drawn = [left.astype(float).std() for left, _ in pairs(100, Faults(noise=6))]
    assert max(drawn) < 6.3 and min(drawn) < 2 < 4 < max(drawn)
    left, right = pairs(100, Faults(noise=6), count=3)[2]
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05


def test_a_pair_with_one_fault_less_is_the_same_pair_otherwise():
    for noisy, clean in zip(pairs(100, Faults(noise=8, eye_difference=0.1)), pairs(100, Faults(eye_difference=0.1)), strict=True):
        for one, two in zip(noisy, clean, strict=True):
            assert abs(float(one.mean()) - float(two.mean())) < 0.5


def test_vignetting_darkens_corners_by_what_it_says_and_not_the_middle():
    ratios = []
    for left, _ in pairs(100, Faults(vignetting=0.5), count=40):
        corners = np.mean([left[y, x].mean() for y in (0, -1) for x in (0, -1)])
        ratios.append(corners / left[HEIGHT // 2, WIDTH // 2].mean())
    assert max(ratios) <= 1.02 and min(ratios) < 0.65 and min(ratios) > 0.3


def test_eyes_differ_by_at_most_what_was_asked_for():
    ratios = np.array([right.mean((0, 1)) / left.mean((0, 1)) for left, right in pairs(100, Faults(eye_difference=0.1), count=40)])
    assert np.abs(ratios - 1).max() < 0.55 and np.abs(ratios - 1).mean() > 0.03
    assert np.abs(ratios.max(1) - ratios.min(1)).max() > 0.01  # also in tint
    tilts = [left[:, -1].mean() - left[:, 0].mean() for left, _ in pairs(100, Faults(eye_difference=0.1), count=40)]
    assert np.abs(tilts).max() > 3


def test_defocus_blurs_what_is_not_at_the_focus():
    disparity = np.where(np.arange(WIDTH) < WIDTH // 2, 2.0, 20.0)  # the focus is on one of the halves
    halves = []
    for blurred, sharp in zip(pairs(CHECKS, Faults(defocus=3), disparity), pairs(CHECKS, Faults(), disparity), strict=True):
        halves.append([sharpness(blurred[0][:, part]) / sharpness(sharp[0][:, part]) for part in (slice(0, 40), slice(40, 80))])
    assert (np.max(halves, axis=1) > 0.97).all() and np.min(halves) < 0.5


def test_one_eye_alone_is_blurred():
    ratios = np.log([sharpness(left) / sharpness(right) for left, right in pairs(CHECKS, Faults(eye_blur=2))])
    assert ratios.max() > 0.2 and ratios.min() < -0.2
    assert np.log([sharpness(left) / sharpness(right) for left, right in pairs(CHECKS, Faults())]) == pytest.approx(0)


def test_the_path_of_a_motion_has_its_length_and_loses_no_light():
    kernel = _path(6, 0)
    assert kernel.shape == (7, 7) and kernel.sum() == pytest.approx(1)
    assert kernel[3].sum() == pytest.approx(1) and kernel[3, 1:-1] == pytest.approx(np.full(5, 1 / 6), abs=0.01)
    assert _path(6, np.pi / 2)[:, 3].sum() == pytest.approx(1)
    moved = [sharpness(left) for left, _ in pairs(CHECKS, Faults(motion_blur=8))]
    still = [sharpness(left) for left, _ in pairs(CHECKS, Faults())]
    assert 0.1 < np.mean(np.array(moved) < 0.9 * np.array(still)) < 0.6  # a share of the pairs


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "reflections"])
def test_each_fault_changes_the_pictures_and_not_the_ground_truth(fault):
    perfect = dict.fromkeys(FAULTS, 0)
    clean, faulty = synthetic(**perfect), synthetic(**perfect | {fault: 0.4 if fault in ("eye_difference", "vignetting") else 8})
    changed = 0
    for index in range(4):
        one, two = clean.load(index), faulty.load(index)
        assert (one.disparity == two.disparity).all() and (one.disparity_right == two.disparity_right).all()
        changed += np.abs(one.left.astype(int) - two.left).mean() + np.abs(one.right.astype(int) - two.right).mean()
    assert changed > 1


# Textures


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    write_image(tmp_path / "a.png", np.full((40, 60, 3), (200, 30, 30), np.uint8))
    write_image(tmp_path / "deep" / "b.jpg", np.full((30, 2000, 3), (30, 200, 30), np.uint8))
    (tmp_path / "c.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    photos._picture.cache_clear()
    return tmp_path


def test_pieces_of_the_users_pictures_are_drawn_and_broken_files_passed_over(folder):
    source = Photos(folder)
    assert [path.name for path in source.files] == ["a.png", "c.png", "b.jpg"]
    seen = set()
    for seed in range(30):
        piece = source.piece(np.random.default_rng(seed), 50, 70)
        assert piece.shape == (50, 70, 3) and piece.dtype == np.uint8
        seen.add("red" if piece[0, 0, 0] > 150 else "green")
        assert np.abs(piece.astype(int) - piece[0, 0]).max() < 8
    assert seen == {"red", "green"}


def test_pictures_are_read_when_needed_and_once(folder, monkeypatch):
    read, true_read = [], photos.read_image
    monkeypatch.setattr(photos, "read_image", lambda path: (read.append(path.name), true_read(path))[1])
    source = Photos(folder)
    assert read == ["a.png"]  # until one is found that can be read
    for seed in range(20):
        source.piece(np.random.default_rng(seed), 20, 20)
    assert sorted(read) == ["a.png", "b.jpg", "c.png"]


def test_surfaces_carry_the_users_pictures(folder):
    def red(**params):
        sample = synthetic(scenes={"abstract": 1}, reflections=0, **params).load(1)
        colour = sample.left.astype(int)
        return ((colour[..., 0] > 2 * colour[..., 1]) | (colour[..., 1] > 2 * colour[..., 0])).mean()

    assert red(textures=str(folder), textures_share=1.0) > 0.8
    assert red(textures=str(folder), textures_share=0.0) == red()
    for scene in ("room", "desk"):
        one, two = (synthetic(scenes={scene: 1}, textures=str(folder), textures_share=1.0).load(0) for _ in range(2))
        assert (one.left == two.left).all()


def test_a_folder_without_a_readable_picture_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        synthetic(textures=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no picture under .*empty"):
        synthetic(textures=str(tmp_path / "empty"))
    (tmp_path / "empty" / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 1 pictures under .* can be read"):
        synthetic(textures=str(tmp_path / "empty"))
    monkeypatch.setenv("PICTURES", str(folder))
    assert folder / "deep" / "b.jpg" in synthetic(textures="$PICTURES").photos.files


# The right camera out of place

LENS = Lens(100.0, (40.0, 24.0))
Y, X = (grid.astype(np.float32) for grid in np.mgrid[:HEIGHT, :WIDTH])
RAMP = 50 + 2 * X + 1 * Y  # bilinear interpolation is exact on it
INNER = (slice(8, -8), slice(8, -8))


@pytest.mark.parametrize(
    ("pose", "place"),
    [
        ((0, 0, 0, 0, 0, 0), lambda d: (X, Y)),
        ((0, 0, 0, 0, 0.1, 0), lambda d: (X, Y + 0.1 * d)),  # lower: things appear higher, by what disparity a tenth of a baseline gives
        ((0, 0, 0, 0.1, 0, 0), lambda d: (X + 0.1 * d, Y)),
        ((0, 0, 0, 0, 0, 0.1), lambda d: (X - (X - 40) * 0.1 * d / 100, Y - (Y - 24) * 0.1 * d / 100)),  # nearer: things appear larger
        ((0, 0, np.pi / 60, 0, 0, 0), None),
        ((0, np.arctan(0.02), 0, 0, 0, 0), None),
    ],
)
def test_the_moved_camera_sees_by_hand(pose, place):
    image = seen_from(view(RAMP[..., None], 10.0), LENS, np.array(pose, np.float32))[..., 0]
    if place is not None:
        x, y = place(10.0)
    elif pose[2]:  # rolled clockwise: what it sees along its own right lies lower in the rectified image
        cos, sin = np.cos(np.pi / 60), np.sin(np.pi / 60)
        x, y = 40 + cos * (X - 40) - sin * (Y - 24), 24 + sin * (X - 40) + cos * (Y - 24)
    else:  # turned to the right by arctan 0.02: what is in its middle lies 2 pixels to the right; 100 tan(a + arctan 0.02) elsewhere
        slope = (X - 40) / 100
        x = 40 + 100 * (slope + 0.02) / (1 - 0.02 * slope)
        y = 24 + (Y - 24) * np.sqrt(1 + 0.02**2) / (1 - 0.02 * slope)
    expected = 50 + 2 * x + y
    assert image[INNER] == pytest.approx(expected[INNER], abs=0.1)


def test_poses_keep_their_limits_and_take_every_direction():
    poses = np.array([draw_pose(np.random.default_rng(seed), 2, 0.1) for seed in range(300)])
    assert poses.dtype == np.float32 and poses.shape == (300, 6)
    turns, shifts = np.degrees(np.linalg.norm(poses[:, :3], axis=1)), np.linalg.norm(poses[:, 3:], axis=1)
    assert turns.max() <= 2 and turns.max() > 1.9 and shifts.max() <= 0.1 and shifts.max() > 0.095
    assert (np.abs(np.sign(poses).mean(0)) < 0.2).all()


def test_a_sample_with_a_pose_keeps_the_rectified_truth():
    straight, moved = synthetic(), synthetic(residual_pose=(1.0, 0.05))
    assert straight.has_right_disparity and not moved.has_right_disparity
    one, two = straight.load(3).check(), moved.load(3).check()
    assert one.pose is None and two.pose.shape == (6,) and two.pose.dtype == np.float32
    assert (one.disparity == two.disparity).all() and (one.left == two.left).all() and (one.right != two.right).any()
    assert two.disparity_right is None and two.valid_right is None
    still = synthetic(residual_pose=(0.0, 0.0)).load(3)
    assert not still.pose.any() and np.abs(still.right.astype(int) - one.right).max() <= 1
