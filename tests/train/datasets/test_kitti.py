"""KITTI: a layout of a few pixels with values by hand, and the original files where they are at hand."""

import numpy as np
import pytest

from train.datasets import build_dataset
from utils.errors import UserError
from utils.images import write_image

CODES = {"occ": [[0, 256, 640, 1]], "noc": [[0, 256, 0, 1]]}  # 16-bit: unknown, 1, 2.5 and 1/256 px


def make(root, kind, frames=("000000_10", "000000_11")):
    views = ("colored_0", "colored_1") if kind == "kitti2012" else ("image_2", "image_3")
    for frame in frames:
        for value, view in enumerate(views):
            write(root / "training" / view / f"{frame}.png", np.full((1, 4, 3), 10 + value, np.uint8))
    for truth, codes in CODES.items():
        for side in ("",) if kind == "kitti2012" else ("_0", "_1"):
            write(root / "training" / f"disp_{truth}{side}" / "000000_10.png", np.array(codes, np.uint16))


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


@pytest.mark.parametrize("kind", ["kitti2012", "kitti2015"])
def test_frames_11_have_no_ground_truth_and_are_not_read(tmp_path, kind):
    make(tmp_path, kind)
    dataset = build_dataset(kind, tmp_path, {}, "here")
    assert [dataset.key(i) for i in range(len(dataset))] == ["000000_10"]
    assert dataset.has_right_disparity == (kind == "kitti2015")


@pytest.mark.parametrize("kind", ["kitti2012", "kitti2015"])
def test_values_and_occlusion(tmp_path, kind):
    make(tmp_path, kind)
    sample = build_dataset(kind, tmp_path, {}, "here").load(0).check()
    assert sample.disparity.tolist() == [[0, 1, 2.5, 1 / 256]] and sample.valid.tolist() == [[False, True, True, True]] and sample.sparse
    assert sample.left.max() == 10 and sample.right.min() == 11
    assert sample.occluded is not None and sample.occluded.tolist() == [[False, False, True, False]]
    seen = build_dataset(kind, tmp_path, {"truth": "noc"}, "here").load(0).check()
    assert seen.valid.tolist() == [[False, True, False, True]] and seen.occluded is None
    assert (sample.disparity_right is None) == (kind == "kitti2012")


@pytest.mark.parametrize(
    ("kind", "params", "file", "names"),
    [
        ("kitti2012", {}, "calib", ("P2", "P3")),
        ("kitti2012", {"images": "image"}, "calib", ("P0", "P1")),
        ("kitti2015", {}, "calib_cam_to_cam", ("P_rect_02", "P_rect_03")),
    ],
)
def test_the_calibration_is_that_of_the_pictures_cameras(tmp_path, kind, params, file, names):
    make(tmp_path, kind)
    for value in (0, 1):
        write(tmp_path / "training" / f"image_{value}" / "000000_10.png", np.full((1, 4, 3), 10, np.uint8))
    left, right = (f"{name}: 100 0 2 {shift} 0 100 1 0 0 0 1 0" for name, shift in zip(names, (50, -4), strict=True))
    (tmp_path / "training" / file).mkdir()
    (tmp_path / "training" / file / "000000.txt").write_text(f"{left}\n{right}\n")
    calibration = build_dataset(kind, tmp_path, params, "here").load(0).calibration
    assert calibration is not None and calibration.focal_px == 100 and calibration.size == (4, 1)
    assert calibration.baseline_m == pytest.approx(0.54)  # (50 + 4) / 100 between the two, not from camera 0


def test_a_folder_of_the_other_year_is_refused(tmp_path):
    make(tmp_path, "kitti2012")
    with pytest.raises(UserError, match=r"kitti2015: no sample under .*training/image_2/\*_10\.png"):
        build_dataset("kitti2015", tmp_path, {}, "here")


@pytest.mark.data
def test_the_original_frame(shared):
    sample = build_dataset("kitti2012", shared / "data/formats/kitti2012", {"images": "image"}, "here").load(0).check()
    assert sample.disparity.shape == (370, 1226) and sample.valid.sum() == 162583  # of the files' description
    assert sample.occluded is not None and (sample.valid & ~sample.occluded).sum() == 159191
    other = build_dataset("kitti2015", shared / "data/formats/kitti2015_layout", {}, "here").load(0).check()
    assert (other.disparity == sample.disparity).all()
