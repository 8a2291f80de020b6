"""Each calibration format: values by hand, and the published files where they are at hand."""

import json

import cv2
import numpy as np
import pytest

from utils.calibration_files import (
    read_booster_calibration,
    read_middlebury_calibration,
    read_ndds_calibration,
    read_scene_calibration,
    read_spring_calibration,
)
from utils.errors import UserError

CALIB = """cam0=[100 0 31.5; 0 101 23; 0 0 1]
cam1=[100 0 36; 0 101 23; 0 0 1]
doffs=4.5
baseline=193.001
width=64
height=48
ndisp=20
"""


def write(tmp_path, text):
    path = tmp_path / "calib.txt"
    path.write_text(text)
    return path


def test_middlebury_is_millimetres_and_the_left_camera(tmp_path):
    calibration = read_middlebury_calibration(write(tmp_path, CALIB))
    assert (calibration.focal_px, calibration.focal_y_px, calibration.doffs_px) == (100, 101, 4.5)
    assert calibration.baseline_m == pytest.approx(0.193001)
    assert calibration.size == (64, 48) and calibration.centre == (31.5, 23)


def test_middlebury_with_blanks_and_line_breaks_anywhere(tmp_path):
    loose = CALIB.replace("=", " = ").replace("; ", " ;\n  ").replace("[", "[ ").replace("]", " ] ").replace("\n", " \r\n ")
    assert read_middlebury_calibration(write(tmp_path, "\ufeff" + loose)) == read_middlebury_calibration(write(tmp_path, CALIB))


def test_middlebury_without_doffs_takes_the_difference_of_the_principal_points(tmp_path):
    assert read_middlebury_calibration(write(tmp_path, CALIB.replace("doffs=4.5\n", ""))).doffs_px == 4.5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline=193.001\n", "", "no line 'baseline='"),
        ("doffs=4.5", "doffs=abc", "doffs=abc: expected one number"),
        ("; 0 0 1]\ncam1", "]\ncam1", r"cam0=\[100 0 31\.5; 0 101 23\]: expected 9 numbers"),
        ("width=64", "width=0", "the width is 0; focal lengths, baseline, width and height must be positive"),
        ("width=64", "width=inf", "the width is inf; focal"),
        ("width=64", "width=0.3", "the size is below a pixel"),
        ("doffs=4.5", "doffs=nan", "doffs is nan; focal"),
        ("cam0=[100 0 31.5", "cam0=[100 0 nan", "cx is nan; focal"),
        (
            "cam0=[100 0 31.5; 0 101 23; 0 0 1]",
            "cam0=[100 0 0; 0 101 0; 31.5 23 1]",
            r"cam0 is 100 0 0; 0 101 0; 31\.5 23 1; expected fx 0 cx",
        ),
        ("cam1=[100 0 36", "cam1=[110 0 36", "the focal lengths are 100 101 on the left, 110 101 on the right"),
    ],
)
def test_middlebury_names_what_is_wrong(tmp_path, old, new, said):
    assert old in CALIB
    with pytest.raises(UserError, match=rf"calib\.txt: {said}"):
        read_middlebury_calibration(write(tmp_path, CALIB.replace(old, new)))


def test_a_scene_is_in_metres_and_unknown_where_a_number_is(tmp_path):
    given = {"fx": 100, "baseline_m": 0.2, "doffs": 4.5, "cx": 31.5, "cy": 23, "source": "text"}
    path = tmp_path / "meta.json"

    def read(**changes):
        path.write_text(json.dumps({"width": 64, "height": 48, "calibration": given | changes}))
        return read_scene_calibration(path)

    calibration = read()
    assert (calibration.focal_px, calibration.baseline_m, calibration.doffs_px) == (100, 0.2, 4.5)
    assert calibration.size == (64, 48) and calibration.centre == (31.5, 23)
    assert read(cx=None).centre is None and read(doffs=None) is None
    for text in ('{"calibration": null}', "{}"):
        path.write_text(text)
        assert read_scene_calibration(path) is None
    for text, said in (
        ("[1]", "no description"),
        ("{", "no description"),
        ('{"calibration": {"fx": 1, "baseline_m": 1, "doffs": 0}}', "width"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"meta\.json: .*{said}"):
            read_scene_calibration(path)
    with pytest.raises(UserError, match="must be positive"):
        read(baseline_m=0)


def ndds_camera(name, cx):
    intrinsics = {"fx": 768.25, "fy": 768.5, "cx": cx, "cy": 270, "s": 0}
    return {"name": name, "intrinsic_settings": intrinsics, "captured_image_size": {"width": 960, "height": 540}}


def test_ndds_is_the_camera_called_left_wherever_it_stands(tmp_path):
    path = tmp_path / "_camera_settings.json"
    path.write_text(json.dumps({"camera_settings": [ndds_camera("right", 483), ndds_camera("left", 480)]}))
    calibration = read_ndds_calibration(path, 0.06)
    assert (calibration.focal_px, calibration.focal_y_px, calibration.baseline_m, calibration.doffs_px) == (768.25, 768.5, 0.06, 3)
    assert calibration.size == (960, 540) and calibration.centre == (480, 270)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"camera_settings": []}', json.dumps({"camera_settings": [ndds_camera("left", "x"), ndds_camera("right", 1)]})]
)
def test_ndds_names_what_is_wrong(tmp_path, content):
    path = tmp_path / "_camera_settings.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"_camera_settings\.json: .*expected camera_settings of 'left' and 'right'"):
        read_ndds_calibration(path, 0.06)


def test_spring_has_a_line_a_frame_counted_from_one(tmp_path):
    path = tmp_path / "intrinsics.txt"
    path.write_text("1000 1001 960 540\n2000.5 2001 961 541\n0 1 2 3\n1 2 3\n")
    calibration = read_spring_calibration(path, 2, (1920, 1080), 0.065)
    assert (calibration.focal_px, calibration.focal_y_px, calibration.centre) == (2000.5, 2001, (961, 541))
    assert (calibration.baseline_m, calibration.size, calibration.doffs_px) == (0.065, (1920, 1080), 0)
    for frame, said in ((3, "must be positive"), (4, "line 4: found '1 2 3'; expected fx fy cx cy"), (5, "line 5"), (0, "line 0")):
        with pytest.raises(UserError, match=said):
            read_spring_calibration(path, frame, (1920, 1080), 0.065)


def test_booster_is_millimetres_and_projections(tmp_path):
    path = tmp_path / "calib_00-02.xml"
    stored = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    stored.write("proj_matL", np.array([[100.5, 0, 32, 0], [0, 101, 24, 0], [0, 0, 1, 0]]))
    stored.write("proj_matR", np.array([[100.5, 0, 34, -8000], [0, 101, 24, 0], [0, 0, 1, 0]]))
    stored.write("baselineLR", 80.0)
    stored.release()
    calibration = read_booster_calibration(path, (64, 48))
    assert (calibration.focal_px, calibration.focal_y_px, calibration.centre, calibration.doffs_px) == (100.5, 101, (32, 24), 2)
    assert calibration.baseline_m == pytest.approx(0.08) and calibration.size == (64, 48)


@pytest.mark.parametrize("content", ["", "no XML", '<?xml version="1.0"?><opencv_storage><baselineLR>80.</baselineLR></opencv_storage>'])
def test_booster_names_what_is_wrong(tmp_path, content):
    path = tmp_path / "calib_00-02.xml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"calib_00-02\.xml: no matrices proj_matL and proj_matR"):
        read_booster_calibration(path, (64, 48))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "focal", "doffs", "baseline", "size"),
    [
        ("eth3d_terrace_2s", 711.499, 0, 0.0599432, (713, 434)),
        ("middeval3_trainingQ_adirondack", 1038.018, 53.271, 0.176252, (718, 496)),
        ("middeval3_trainingQ_playtable_p", 582.389, 25.07, 0.193006, (681, 462)),
        ("middlebury2014_fullsize_motorcycle", 3997.684, 131.111, 0.193001, (2964, 1988)),
        ("middlebury2014_fullsize_sword", 7125.31, 515.172, 0.169748, (2884, 1956)),
    ],
)
def test_middlebury_originals(shared, name, focal, doffs, baseline, size):
    calibration = read_middlebury_calibration(shared / "data/formats/calib_examples" / f"{name}.txt")
    assert (calibration.focal_px, calibration.doffs_px, calibration.size) == (focal, doffs, size)
    assert calibration.baseline_m == pytest.approx(baseline, rel=1e-9)
