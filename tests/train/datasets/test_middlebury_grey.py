"""Middlebury 2001 to 2006: what a grey level stands for, by hand and on the original files."""

import numpy as np
import pytest

from tests.layouts import check_pairing, keys, write
from train.datasets import SampleError, build_dataset
from utils.errors import UserError

LEVELS = np.array([[0, 48, 96, 255]], np.uint8)


def scene(folder, left, right, *truth):
    """Two pictures, all 10 and all 200, and ground truth of 0, 48, 96 and 255 levels for each further name."""
    shape = LEVELS.shape if left.endswith("pgm") else (*LEVELS.shape, 3)
    pictures = {f"{folder}/{left}": np.full(shape, 10, np.uint8), f"{folder}/{right}": np.full(shape, 200, np.uint8)}
    return pictures | {f"{folder}/{name}": LEVELS for name in truth}


def check(sample, levels):
    sample.check()
    assert sample.disparity == pytest.approx(LEVELS / levels) and sample.valid.tolist() == [[False, True, True, True]]
    assert (sample.left == 10).all() and (sample.right == 200).all() and not sample.sparse
    if sample.disparity_right is not None:
        assert sample.disparity_right == pytest.approx(LEVELS / levels)


def test_2001_has_eight_levels_a_pixel_and_tsukuba_sixteen(tmp_path):
    write(tmp_path, scene("venus", "im2.ppm", "im6.ppm", "disp2.pgm", "disp6.pgm"))
    write(tmp_path, scene("map", "im0.pgm", "im1.pgm", "disp0.pgm", "disp1.pgm"))
    write(tmp_path, scene("tsukuba", "scene1.row3.col3.ppm", "scene1.row3.col4.ppm", "truedisp.row3.col3.pgm"))
    dataset = build_dataset("middlebury2001", tmp_path, {}, "here")
    assert keys("middlebury2001", tmp_path) == ["map", "tsukuba", "venus"] and dataset.has_right_disparity
    for i, levels in enumerate((8, 16, 8)):
        check(dataset.load(i), levels)
        assert (dataset.load(i).disparity_right is None) == (i == 1)


def test_2003_is_told_by_the_ending_of_the_folder(tmp_path):
    for ending in ("", "H", "F"):
        write(tmp_path, scene(f"teddy{ending}", "im2.png", "im6.png", "disp2.png", "disp6.png"))
    for size, ending, levels in (("quarter", "", 4), ("half", "H", 2), ("full", "F", 1)):
        dataset = build_dataset("middlebury2003", tmp_path, {"size": size}, "here")
        assert len(dataset) == 1 and dataset.key(0) == f"teddy{ending}"
        check(dataset.load(0), levels)


@pytest.mark.parametrize("kind", ["middlebury2005", "middlebury2006"])
def test_2005_and_2006_are_told_by_the_folder_of_the_size(tmp_path, kind):
    for size, folder, levels in (("full", "FullSize", 1), ("half", "HalfSize", 2), ("third", "ThirdSize", 3)):
        write(tmp_path, scene(f"{folder}/Aloe", "view1.png", "view5.png", "disp1.png", "disp5.png") | {f"{folder}/Aloe/dmin.txt": "270\n"})
        dataset = build_dataset(kind, tmp_path, {"size": size}, "here")
        assert len(dataset) == 1 and dataset.key(0) == f"{folder}/Aloe"
        sample = dataset.load(0)
        check(sample, levels)
        calibration = sample.calibration
        assert calibration is not None and calibration.doffs_px == 270 / levels and calibration.size == (4, 1)
        depth_m = calibration.focal_px * calibration.baseline_m / (sample.disparity[0, 3] + calibration.doffs_px)
        assert depth_m == pytest.approx(3740 * 0.16 / (255 + 270))  # the same point at every size


def test_2006_without_its_offset_has_no_calibration_and_exposures_share_their_ground_truth(tmp_path):
    write(tmp_path, scene("ThirdSize/Aloe", "view1.png", "view5.png", "disp1.png"))
    for exposure in (0, 2):
        write(tmp_path, scene(f"ThirdSize/Aloe/Illum3/Exp{exposure}", "view1.png", "view5.png"))
    assert build_dataset("middlebury2006", tmp_path, {}, "here").load(0).calibration is None
    dataset = build_dataset("middlebury2006", tmp_path, {"exposures": True}, "here")
    assert keys("middlebury2006", tmp_path, exposures=True) == [f"ThirdSize/Aloe/Illum3/Exp{exposure}" for exposure in (0, 2)]
    check(dataset.load(1), 3)
    write(tmp_path, {"ThirdSize/Aloe/dmin.txt": "unknown"})
    with pytest.raises(SampleError, match=r"dmin\.txt: expected one number"):
        build_dataset("middlebury2006", tmp_path, {}, "here").load(0)


@pytest.mark.parametrize("lonely", ["im2.png", "im6.png", "disp2.png"])
@pytest.mark.parametrize("kind", ["middlebury2001", "middlebury2003"])
def test_files_are_paired_by_their_names(tmp_path, kind, lonely):
    names = ("im2.png", "im6.png", "disp2.png", "disp6.png")
    write(tmp_path, scene("b", *names) | scene("c", *names))
    check_pairing(kind, tmp_path, f"a/{lonely}", scene("a", *names))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("middlebury2001", r"\*/im2\.\*"), ("middlebury2003", r"\*/im2\.\*"), ("middlebury2006", r"ThirdSize/\*/view1\.png")],
)
def test_an_empty_folder_is_told_what_was_expected(tmp_path, kind, expected):
    for path in (tmp_path, tmp_path / "none", None):
        with pytest.raises(UserError, match=rf"{kind}: .*{expected}"):
            build_dataset(kind, path, {}, "here")


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "folder", "name", "largest"),
    [
        ("middlebury2001", "middlebury2001", "sawtooth", 143 / 8),
        ("middlebury2003", "middlebury2003", "teddy", 211 / 4),
        ("middlebury2006", "middlebury2006", "aloe", 211 / 3),
    ],
)
def test_the_originals(shared, kind, folder, name, largest):
    dataset = build_dataset(kind, shared / "data/formats" / folder, {}, "here")
    sample = dataset.load(0).check()
    assert len(dataset) == 1 and sample.disparity.max() == np.float32(largest) and sample.disparity_right is not None
    decoded = np.load(shared / "data/real" / name / "disparity.npz")  # of the same file, by another program
    assert (sample.valid == decoded["valid"]).all() and np.abs(sample.disparity - decoded["disparity"]).max() < 1e-5
