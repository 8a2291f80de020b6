"""Each calibration format: values by hand, and the published files where they are at hand."""

import pytest

from utils.calibration_files import read_middlebury_calibration
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
        ("width=64", "width=0", "focal lengths, baseline, width and height must be positive"),
    ],
)
def test_middlebury_names_what_is_wrong(tmp_path, old, new, said):
    assert old in CALIB
    with pytest.raises(UserError, match=rf"calib\.txt: {said}"):
        read_middlebury_calibration(write(tmp_path, CALIB.replace(old, new)))


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
