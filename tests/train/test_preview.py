"""Previews are files with safe names that exist whatever the samples hold."""

import numpy as np
import pytest
import torch

from train.preview import safe_name, save_previews
from train.sample import StereoBatch
from utils.images import read_image


def batch_of(keys, dtype=torch.uint8, height=48, width=64):
    size = len(keys)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (size, 3, height, width), generator=generator, dtype=torch.uint8)
    image = image if dtype == torch.uint8 else image.float() / 255
    disparity = 30 * torch.rand(size, height, width, generator=generator)
    return StereoBatch(image, image.flip(-1), disparity, disparity > 3, keys, ["made up"] * size, ["stereo"] * size)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_preview_shows_the_pair_the_truth_the_prediction_and_the_error(tmp_path, dtype):
    batch = batch_of(["a", "b", "c"], dtype)
    paths = save_previews(tmp_path / "vis" / "step_00000010", batch, batch.disparity, max_samples=2)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "vis/step_00000010/00_made_up_a.png",
        "vis/step_00000010/01_made_up_b.png",
    ]
    picture = read_image(paths[0])
    assert picture.shape == (48 * 2 + 2, 64 * 3 + 4, 3)
    left, right = (batch.left[0].permute(1, 2, 0), batch.right[0].permute(1, 2, 0))
    scale = 1 if dtype == torch.uint8 else 255
    assert np.array_equal(picture[:48, :64], (left * scale).round().byte().numpy())
    assert np.array_equal(picture[:48, 66:130], (right * scale).round().byte().numpy())
    truth, prediction = picture[50:, :64], picture[50:, 66:130]
    valid = batch.valid[0].numpy()
    assert np.array_equal(truth[valid], prediction[valid]) and not truth[~valid].any()  # one scale of colours
    assert (picture[50:, 132:][valid] == [49, 54, 149]).all()  # no error
    assert picture[:48, 132:].any()  # the numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -5.0, 1e30])
@pytest.mark.parametrize("any_valid", [False, True])
def test_broken_predictions_and_empty_ground_truth_are_drawn_all_the_same(tmp_path, value, any_valid):
    batch = batch_of(["a"])
    if not any_valid:
        batch.valid[:] = False
        batch.disparity[:] = 0
    (path,) = save_previews(tmp_path, batch, [np.full((48, 64), value, np.float32)])
    assert read_image(path).shape == (98, 196, 3)


def test_keys_cannot_leave_the_folder(tmp_path):
    keys = ["../../etc/passwd", "a/b\\c:d*?", "", "..", "ü", "x" * 300, "/"]
    batch = batch_of(keys)
    paths = save_previews(tmp_path / "vis", batch, batch.disparity)
    assert len(set(paths)) == len(keys)
    assert all(path.parent == tmp_path / "vis" and len(path.name) < 200 for path in paths)
    assert [safe_name(key) for key in keys[:5]] == ["etc_passwd", "a_b_c_d", "unnamed", "unnamed", "unnamed"]
