"""Middlebury 2014, 2021, v3 and ETH3D: their layouts a few pixels large, and the originals where they are at hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import SampleError, build_dataset
from utils.errors import UserError

TRUTH = np.array([[9.5, np.inf, 63.25]], np.float32)
DECODED = [[9.5, 0, 63.25]]
MASK = np.array([[255, 0, 128]], np.uint8)
CALIB = "cam0=[100 0 1; 0 100 0; 0 0 1]\ncam1=[100 0 3; 0 100 0; 0 0 1]\ndoffs=2\nbaseline=200\nwidth=3\nheight=1\n"


def files(folder, *names):
    """What its name says for each; pictures of the left view are all 10, those of the right one all 200."""
    contents = {"disp0": TRUTH, "disp1": TRUTH + 1, "calib": CALIB, "mask0": MASK, "im0": grey(10, 3), "im1": grey(200, 3)}
    return {f"{folder}/{name}": next(content for start, content in contents.items() if start in name) for name in names}


def check(sample):
    """Pictures, ground truth and calibration as `files` has them: inf is unknown, not large."""
    sample.check()
    assert (sample.left == 10).all() and (sample.right == 200).all() and not sample.sparse
    assert sample.disparity.tolist() == DECODED and sample.valid.tolist() == [[True, False, True]]
    assert (sample.calibration.focal_px, sample.calibration.baseline_m, sample.calibration.doffs_px) == (100, 0.2, 2)


def test_2014_by_rectification_and_lighting(tmp_path):
    for scene in ("Piano-perfect", "Piano-imperfect", "own"):
        write(tmp_path, files(scene, "im0.png", "im1.png", "im1E.png", "disp0.pfm", "disp1.pfm", "calib.txt"))
    dataset = build_dataset("middlebury2014", tmp_path, {}, "here")
    check(dataset.load(0))
    assert dataset.has_right_disparity and dataset.load(0).disparity_right.tolist() == [[10.5, 0, 64.25]]
    assert keys("middlebury2014", tmp_path) == ["Piano-perfect"]
    assert keys("middlebury2014", tmp_path, rectification="imperfect") == ["Piano-imperfect"]
    assert keys("middlebury2014", tmp_path, rectification="all") == ["Piano-imperfect", "Piano-perfect", "own"]
    assert build_dataset("middlebury2014", tmp_path, {"right": "im1E"}, "here").files(0)[1].name == "im1E.png"
    with pytest.raises(UserError, match=r"im0\.png has no right"):
        keys("middlebury2014", tmp_path, right="im1L")


def test_2014_in_the_parts_of_the_evaluation(tmp_path):
    for scene in ("Piano-perfect", "Sword1-perfect"):
        write(tmp_path, files(scene, "im0.png", "im1.png", "disp0.pfm"))
    assert keys("middlebury2014", tmp_path, split="train") == ["Piano-perfect"]
    assert keys("middlebury2014", tmp_path, split="additional") == ["Sword1-perfect"]
    assert len(keys("middlebury2014", tmp_path, split="all")) == 2
    write(tmp_path, files("Pipes", "im0.png", "im1.png", "disp0.pfm"))
    assert keys("middlebury2014", tmp_path, split="train", rectification="all") == ["Piano-perfect", "Pipes"]


def test_2021_and_its_ambient_pictures(tmp_path):
    write(tmp_path, files("data/chess1", "im0.png", "im1.png", "disp0.pfm", "disp1.pfm", "calib.txt"))
    ambient = [f"{light}/im{view}e{exposure}.png" for light, exposure in (("F0", 0), ("L0", 0), ("L0", 3)) for view in (0, 1)]
    write(tmp_path, files("data/chess1/ambient", *ambient))
    dataset = build_dataset("middlebury2021", tmp_path, {}, "here")
    check(dataset.load(0))
    assert keys("middlebury2021", tmp_path) == ["chess1"] and dataset.has_right_disparity
    assert keys("middlebury2021", tmp_path, ambient=True) == ["chess1/F0/0", "chess1/L0/0", "chess1/L0/3"]
    check(build_dataset("middlebury2021", tmp_path, {"ambient": True}, "here").load(2))


def test_middeval3_by_size_with_its_mask(tmp_path):
    for size in "FHQ":
        write(tmp_path, files(f"training{size}/Piano", "im0.png", "im1.png", "disp0GT.pfm", "mask0nocc.png", "calib.txt"))
        write(tmp_path, files(f"test{size}/Staircase", "im0.png", "im1.png", "calib.txt"))
        assert keys("middeval3", tmp_path, size=size) == [f"training{size}/Piano"]
    sample = build_dataset("middeval3", tmp_path, {}, "here").load(0)
    check(sample)
    # 128 is occluded: a mask that is read as a yes or no calls these pixels visible.
    assert sample.occluded.tolist() == [[False, False, True]] and sample.disparity_right is None


def test_eth3d_with_ground_truth_in_a_folder_of_its_own(tmp_path):
    write(tmp_path, files("two_view_training/forest_1s", "im0.png", "im1.png", "calib.txt"))
    write(tmp_path, files("two_view_training_gt/forest_1s", "disp0GT.pfm", "mask0nocc.png"))
    write(tmp_path, files("two_view_testing/lakeside_1l", "im0.png", "im1.png", "calib.txt"))
    dataset = build_dataset("eth3d", tmp_path, {}, "here")
    assert keys("eth3d", tmp_path) == ["forest_1s"] and not dataset.has_right_disparity
    check(dataset.load(0))
    assert dataset.load(0).occluded.tolist() == [[False, False, True]]


V3 = ("im0.png", "im1.png", "disp0GT.pfm")


@pytest.mark.parametrize("lonely", V3)
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, files("trainingH/b", *V3) | files("trainingH/c", *V3, "calib.txt"))
    check_pairing("middeval3", tmp_path, f"trainingH/a/{lonely}", files("trainingH/a", *V3))


def test_a_broken_calibration_is_a_broken_sample(tmp_path):
    write(tmp_path, files("trainingH/Piano", "im0.png", "im1.png", "disp0GT.pfm"))
    write(tmp_path, {"trainingH/Piano/calib.txt": "cam0=[1 2 3]"})
    with pytest.raises(SampleError, match=r"middeval3: trainingH/Piano: .*calib\.txt: cam0=\[1 2 3\]: expected 9 numbers"):
        build_dataset("middeval3", tmp_path, {}, "here").load(0)


@pytest.mark.data
def test_the_original_of_v3(shared):
    dataset = build_dataset("middeval3", shared / "data/formats/middlebury2014/MiddEval3", {"size": "Q"}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.shape == (496, 718) and (~sample.valid).sum() == 1210 and sample.occluded.sum() == 29804
    assert sample.disparity[sample.valid].min() > 9.46 and sample.disparity.max() < 63.05  # of the files' description; / 0.003922 is 2400
    assert sample.calibration.size == (718, 496) and sample.calibration.doffs_px == 53.271


@pytest.mark.data
def test_the_original_of_eth3d(shared):
    sample = build_dataset("eth3d", shared / "data/formats/eth3d", {}, "here").load(0).check()
    assert sample.disparity.shape == (434, 713) and sample.valid.mean() == pytest.approx(0.5317, abs=1e-4) and sample.occluded is None
    assert sample.disparity[sample.valid].min() + 1e-3 > 8.12 and sample.disparity.max() < 17.42 and sample.calibration.focal_px == 711.499
