"""TartanAir: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset
from utils.errors import UserError

WIDTH = 640  # of the calibration: 80 px m / depth


def frame(folder, name="000000"):
    """Left depth: 2 m, 16 m, the sky, nothing; right depth 4 m all over."""
    left = np.full((1, WIDTH), 2, np.float32)
    left[0, 1:4] = 16, 10_000, np.inf
    return {
        f"{folder}/image_left/{name}_left.png": grey(10, WIDTH),
        f"{folder}/image_right/{name}_right.png": grey(200, WIDTH),
        f"{folder}/depth_left/{name}_left_depth.npy": left,
        f"{folder}/depth_right/{name}_right_depth.npy": np.full((1, WIDTH), 4, np.float32),
    }


def test_values_of_both_views_are_eighty_by_depth_and_the_sky_is_unknown(tmp_path):
    write(tmp_path, frame("ocean/Easy/P000"))
    dataset = build_dataset("tartanair", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    # as a depth, the sphere of the sky would be a surface of 0.008 px
    assert sample.disparity[0, :5].tolist() == [40, 5, 0, 0, 40] and sample.valid[0, :5].tolist() == [True, True, False, False, True]
    assert sample.disparity_right is not None and (sample.disparity_right == 20).all() and dataset.has_right_disparity
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "ocean/Easy/P000/000000"
    assert sample.calibration is not None and (sample.calibration.focal_px, sample.calibration.baseline_m) == (320, 0.25)
    far = build_dataset("tartanair", tmp_path, {"max_depth_m": 20_000}, "here").load(0)
    assert far.valid[0, 2] and far.disparity[0, 2] == pytest.approx(0.008)


def test_a_second_folder_of_the_same_name_may_be_there(tmp_path):
    write(tmp_path, frame("ocean/ocean/Hard/P001") | frame("gascola/Easy/P000"))
    assert keys("tartanair", tmp_path) == ["gascola/Easy/P000/000000", "ocean/ocean/Hard/P001/000000"]
    assert keys("tartanair", tmp_path, difficulties=["Hard"]) == ["ocean/ocean/Hard/P001/000000"]


@pytest.mark.parametrize("twice", ["", "seasonsforest_winter/"])
def test_the_bad_part_is_left_out_unless_it_is_asked_for(tmp_path, twice):
    bad, good = (f"{twice}seasonsforest_winter/{difficulty}/P000" for difficulty in ("Easy", "Hard"))
    write(tmp_path, frame(bad) | frame(good))
    assert keys("tartanair", tmp_path) == [f"{good}/000000"]
    assert keys("tartanair", tmp_path, exclude=[]) == [f"{bad}/000000", f"{good}/000000"]


def test_the_right_views_depth_may_be_absent(tmp_path):
    write(tmp_path, {name: content for name, content in frame("ocean/Easy/P000").items() if "depth_right" not in name})
    dataset = build_dataset("tartanair", tmp_path, {}, "here")
    assert not dataset.has_right_disparity and dataset.load(0).check().disparity_right is None


def test_a_folder_of_something_else_is_refused(tmp_path):
    write(tmp_path, {"ocean/Easy/P000/image_left/000000.png": grey(1, 2)})
    with pytest.raises(UserError, match=r"tartanair: no sample under .*\*\*/\*/P\*/image_left/\*_left\.png"):
        build_dataset("tartanair", tmp_path, {}, "here")


@pytest.mark.parametrize("lonely", [name for name in frame("ocean/Easy/P000") if "depth_right" not in name])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("ocean/Easy/P000", "000001") | frame("ocean/Easy/P001"))
    check_pairing("tartanair", tmp_path, lonely, frame("ocean/Easy/P000"))
