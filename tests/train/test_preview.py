"""Previews are files with safe names that exist whatever the samples hold."""

import numpy as np
import pytest

from train.preview import safe_name, save_previews
from train.sample import StereoSample
from utils.images import read_image


def sample_of(key="a", height=48, width=64):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    disparity = rng.uniform(0, 30, (height, width)).astype(np.float32)
    valid = disparity > 3
    return StereoSample(left, right, np.where(valid, disparity, np.float32(0)), valid, key=key)


def test_a_preview_shows_the_pair_the_truth_the_prediction_and_the_error(tmp_path):
    samples = [("made up", sample_of("a")), ("kitti", sample_of("b", 32, 40))]
    paths = save_previews(tmp_path / "vis" / "step_00000010", samples, lambda sample: sample.disparity)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "vis/step_00000010/00_made_up_a.png",
        "vis/step_00000010/01_kitti_b.png",
    ]
    picture, sample = read_image(paths[0]), samples[0][1]
    assert picture.shape == (48 * 2 + 2, 64 * 3 + 4, 3)
    assert np.array_equal(picture[:48, :64], sample.left) and np.array_equal(picture[:48, 66:130], sample.right)
    truth, prediction, valid = picture[50:, :64], picture[50:, 66:130], sample.valid
    assert np.array_equal(truth[valid], prediction[valid]) and not truth[~valid].any()  # one scale of colours
    assert (picture[50:, 132:][valid] == [49, 54, 149]).all()  # no error
    assert picture[:48, 132:].any()  # the numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -5.0, 1e30])
@pytest.mark.parametrize("any_valid", [False, True])
def test_broken_predictions_and_empty_ground_truth_are_drawn_all_the_same(tmp_path, value, any_valid):
    sample = sample_of()
    if not any_valid:
        sample = sample.replace(valid=np.zeros_like(sample.valid), disparity=np.zeros_like(sample.disparity))
    (path,) = save_previews(tmp_path, [("x", sample)], lambda sample: np.full(sample.disparity.shape, value, np.float32))
    assert read_image(path).shape == (98, 196, 3)


def test_keys_cannot_leave_the_folder(tmp_path):
    keys = ["../../etc/passwd", "a/b\\c:d*?", "", "..", "ü", "x" * 300, "/"]
    paths = save_previews(tmp_path / "vis", [("../x", sample_of(key)) for key in keys], lambda sample: sample.disparity)
    assert len(set(paths)) == len(keys)
    assert all(path.parent == tmp_path / "vis" and len(path.name) < 200 and path.is_file() for path in paths)
    assert [safe_name(key) for key in keys[:5]] == ["etc_passwd", "a_b_c_d", "unnamed", "unnamed", "unnamed"]


def test_a_disk_that_takes_no_pictures_stops_nothing(tmp_path, caplog):
    (tmp_path / "vis").write_text("a file where the folder should be")
    assert save_previews(tmp_path / "vis" / "step", [("x", sample_of())], lambda sample: sample.disparity) == []
    assert "pictures cannot be written" in caplog.text
