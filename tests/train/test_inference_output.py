"""Files of a pair read back by something else than what wrote them, values by hand."""

import json

import cv2
import numpy as np
import pytest

from tests.hostile import full_disk
from tests.utils.test_ply import read_by_the_specification
from train.inference import Result
from train.inference_output import Output, check_formats, encode_png16
from train.inference_pairs import Pair
from utils.calibration import Calibration
from utils.errors import UserError
from utils.pfm import read_pfm
from utils.video import VideoReader

LEFT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
DISPARITY = np.array([[10, 20, 0], [40, 5, 300]], np.float32)
CALIBRATION = Calibration(focal_px=100, baseline_m=0.2, size=(3, 2), doffs_px=10, centre=(1, 0))
DEPTH = np.array([[1, 2 / 3, 0], [0.4, 4 / 3, 2 / 31]])  # 20 / (d + 10)


def write(folder, *, result=None, calibration=CALIBRATION, name="", **options):
    output = Output(folder, **options)
    lost = output.write(Pair(name, LEFT, LEFT, "left.png"), result or Result(DISPARITY), calibration)
    output.close({"checkpoint": "none"})
    return lost


def test_png16_by_hand():
    stored, lost = encode_png16(np.array([[0, -1, 0.0001, 1, 255.99, 256, np.nan, np.inf]]), 256)
    assert stored.tolist() == [[0, 0, 1, 256, 65533, 0, 0, 0]] and stored.dtype == np.uint16 and lost == 1


def test_every_file_reads_back(tmp_path):
    write(tmp_path, formats=("png", "pfm", "npy", "colour", "ply"), png_scale=100)
    raw = cv2.imread(str(tmp_path / "disparity.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16 and raw.tolist() == [[1000, 2000, 0], [4000, 500, 30000]]
    assert (np.load(tmp_path / "disparity.npy") == DISPARITY).all() and (read_pfm(tmp_path / "disparity.pfm") == DISPARITY).all()
    assert np.load(tmp_path / "depth.npy") == pytest.approx(DEPTH) and read_pfm(tmp_path / "depth.pfm") == pytest.approx(DEPTH)
    assert (cv2.imread(str(tmp_path / "disparity.pfm"), cv2.IMREAD_UNCHANGED) == DISPARITY).all()  # OpenCV has a reader of its own
    assert cv2.imread(str(tmp_path / "depth.pfm"), cv2.IMREAD_UNCHANGED) == pytest.approx(DEPTH)
    millimetres = cv2.imread(str(tmp_path / "depth.png"), cv2.IMREAD_UNCHANGED)
    assert millimetres.tolist() == [[1000, 667, 0], [400, 1333, 65]]
    assert cv2.imread(str(tmp_path / "colour.png")).shape == (2, 3, 3)
    about = json.loads((tmp_path / "inference.json").read_text())
    assert about["png_scale"] == 100 and about["checkpoint"] == "none" and "value / png_scale" in about["files"]["disparity.png"]


def test_points_by_hand(tmp_path):
    write(tmp_path, formats=("ply",))
    points = read_by_the_specification(tmp_path / "points.ply")
    assert len(points) == 5
    assert points[0] == pytest.approx({"x": -0.01, "y": 0, "z": 1, "red": 0, "green": 1, "blue": 2})
    assert points[3] == pytest.approx({"x": 0, "y": 4 / 300, "z": 4 / 3, "red": 12, "green": 13, "blue": 14}, rel=1e-6)


def test_far_points_can_be_left_out(tmp_path):
    write(tmp_path, formats=("ply", "npy"), max_depth_m=0.9)
    assert sorted(point["z"] for point in read_by_the_specification(tmp_path / "points.ply")) == pytest.approx([2 / 31, 0.4, 2 / 3])
    assert np.load(tmp_path / "depth.npy").max() == pytest.approx(4 / 3)  # of the cloud only


def test_what_the_right_eye_does_not_see_has_no_depth(tmp_path):
    agree = np.ones((2, 3), bool)
    agree[0, 0] = False
    write(tmp_path, result=Result(DISPARITY, agree=agree), formats=("npy", "ply", "colour"))
    assert np.load(tmp_path / "depth.npy")[0, 0] == 0 and len(read_by_the_specification(tmp_path / "points.ply")) == 4
    assert cv2.imread(str(tmp_path / "occluded.png"), cv2.IMREAD_UNCHANGED).tolist() == [[255, 0, 0], [0, 0, 0]]
    assert (np.load(tmp_path / "disparity.npy") == DISPARITY).all()
    assert not cv2.imread(str(tmp_path / "colour.png"))[0, 0].any()


def test_confidence_where_there_is_one(tmp_path):
    confidence = np.array([[0, 0.5, 1], [0.1, 0.2, 0.3]], np.float32)
    write(tmp_path, result=Result(DISPARITY, confidence), calibration=None)
    assert (np.load(tmp_path / "confidence.npy") == confidence).all()
    assert cv2.imread(str(tmp_path / "confidence.png"), cv2.IMREAD_UNCHANGED)[0].tolist() == [0, 32768, 65535]
    assert {path.name for path in tmp_path.iterdir()} == {
        "disparity.png", "disparity.npy", "confidence.png", "confidence.npy", "colour.png", "inference.json"
    }  # fmt: skip


def test_what_does_not_fit_is_said(tmp_path):
    lost = write(tmp_path)
    assert "1 disparities above 255.996 px do not fit into disparity.png and are 0 there" in lost["png"]
    assert write(tmp_path, png_scale=200) == {} and write(tmp_path, formats=("npy",)) == {}


@pytest.mark.parametrize("formats", [("png",), ("npy",), ("colour", "ply")])
def test_what_is_no_number_is_said_as_such(tmp_path, formats):
    broken = np.array([[np.nan, 20, np.inf], [40, 5, 30]], np.float32)
    said = write(tmp_path, result=Result(broken), formats=formats)
    assert list(said) == ["finite"] and said["finite"].startswith("2 of 6 disparities are nan or inf: the network failed there")


def test_a_pair_with_a_name_has_a_folder(tmp_path):
    write(tmp_path, name="scene/0001", formats=("npy",))
    assert (tmp_path / "scene" / "0001" / "depth.npy").is_file()


def test_the_frames_of_a_video_become_one(tmp_path):
    output = Output(tmp_path, ("colour", "npy"), fps=12)
    picture = np.zeros((48, 64, 3), np.uint8)
    for i in range(3):
        output.write(Pair(f"{i:06d}", picture, picture, "left.mp4"), Result(np.full((48, 64), 10.0 * (i + 1), np.float32)), None)
    output.close({})
    with VideoReader(tmp_path / "colour.mp4") as video:
        assert len(list(video)) == 3 and video.fps == 12
    assert not (tmp_path / "000001" / "colour.png").exists() and (tmp_path / "000002" / "disparity.npy").is_file()


def test_a_video_that_is_not_whole_is_an_error_after_all_else_is_written(tmp_path):
    output = Output(tmp_path, ("colour",), fps=12)
    disparity = np.random.default_rng(0).uniform(0, 20, (48, 64)).astype(np.float32)
    for i in range(3):
        output.write(Pair(f"{i:06d}", LEFT, LEFT, "left.mp4"), Result(disparity), None)
    with full_disk(3000), pytest.raises(UserError, match=r"colour\.mp4: holds 0 of 3 frames"):  # the three frames take more
        output.close({"pairs": 3})
    assert json.loads((tmp_path / "inference.json").read_text())["pairs"] == 3


def test_formats_are_checked():
    assert check_formats("png, npy,png") == ("png", "npy")
    for names, said in (("png,gif", "'gif' is none of png, pfm, npy, colour, ply"), (" ,", "nothing would be written")):
        with pytest.raises(UserError, match=said):
            check_formats(names)
