"""One pair written down in every format, read at three image sizes: always the same depth. And what each bad file is answered with."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.calibration_formats import Choices, read_calibration
from utils.errors import UserError
from utils.geometry import disparity_to_depth

SIZE = (1200, 400)
FOCAL, BASELINE, CENTRE = 700.0, 0.54, (610.5, 190.25)
LEFT = np.array([[FOCAL, 0, CENTRE[0], 0], [0, FOCAL, CENTRE[1], 0], [0, 0, 1, 0]])


def right(doffs=0.0, metres=1.0):
    return LEFT + np.array([[0, 0, doffs, -FOCAL * BASELINE / metres], [0, 0, 0, 0], [0, 0, 0, 0]])


def q_matrix(doffs=0.0, metres=1.0):
    """Of the documentation of cv2.stereoRectify, with Tx = -baseline."""
    baseline = BASELINE / metres
    return np.array([[1, 0, 0, -CENTRE[0]], [0, 1, 0, -CENTRE[1]], [0, 0, 0, FOCAL], [0, 0, 1 / baseline, doffs / baseline]])


def storage(path, **entries):
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in entries.items():
        file.write(name, value)
    file.release()


def middlebury(folder):
    k = f"[{FOCAL} 0 {CENTRE[0]}; 0 {FOCAL} {CENTRE[1]}; 0 0 1]"
    k1 = k.replace(str(CENTRE[0]), str(CENTRE[0] + 30))
    path = folder / "calib.txt"
    path.write_text(f"cam0={k}\ncam1={k1}\ndoffs=30\nbaseline={1000 * BASELINE}\nwidth={SIZE[0]}\nheight={SIZE[1]}\nndisp=200\n")
    return path, 30, Choices()


def kitti_line(name, matrix):
    return f"{name}: {' '.join(f'{value:.12e}' for value in np.ravel(matrix))}\n"


def kitti(folder):
    """As of 2012: no size; camera 2 is to the right of camera 0, and depth is measured from camera 2."""
    moved = np.array([[0, 0, 0, 45.0], [0, 0, 0, 0.2], [0, 0, 0, 0.003]])
    matrices = {"P0": LEFT, "P1": right(), "P2": LEFT + moved, "P3": right() + moved}
    path = folder / "000000.txt"
    path.write_text("".join(kitti_line(name, matrix) for name, matrix in matrices.items()) + "Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    return path, 0, Choices(size=SIZE, cameras="colour")


def kitti_raw(folder):
    path = folder / "calib_cam_to_cam.txt"
    lines = "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\n" + kitti_line("S_02", (1392, 512)) + kitti_line("K_02", np.eye(3))
    for number, matrix in (("02", LEFT), ("03", right())):
        lines += kitti_line(f"S_rect_{number}", SIZE) + kitti_line(f"P_rect_{number}", matrix)
    path.write_text(lines)
    return path, 0, Choices()


def opencv_projections(suffix, doffs=4.0, metres=1.0, **choices):
    def write(folder):
        path = folder / f"stereo{suffix}"
        if suffix == ".npz":
            np.savez(path, P1=LEFT, P2=right(doffs, metres), image_size=np.array(SIZE), note="made by hand")
        else:
            storage(path, P1=LEFT, P2=right(doffs, metres), image_width=SIZE[0], image_height=SIZE[1], note="made by hand")
        return path, doffs, Choices(**choices)

    return write


def opencv_q(suffix):
    def write(folder):
        path = folder / f"q{suffix}"
        if suffix == ".npz":
            np.savez(path, Q=q_matrix(12.0))
        else:
            storage(path, Q=q_matrix(12.0))
        return path, 12, Choices(size=SIZE)

    return write


def k_txt(folder):
    path = folder / "K.txt"
    path.write_text(" ".join(map(str, LEFT[:, :3].ravel())) + f"\n{BASELINE}\n")
    return path, 0, Choices(size=SIZE)


def scene(folder):
    path = folder / "meta.json"
    given = {"fx": FOCAL, "baseline_m": BASELINE, "doffs": 7.5, "cx": CENTRE[0], "cy": CENTRE[1]}
    path.write_text(json.dumps({"width": SIZE[0], "height": SIZE[1], "calibration": given}))
    return path, 7.5, Choices()


FORMATS = {
    "middlebury": middlebury,
    "kitti": kitti,
    "kitti_raw": kitti_raw,
    "yaml": opencv_projections(".yml"),
    "xml": opencv_projections(".xml"),
    "json": opencv_projections(".json"),
    "npz": opencv_projections(".npz"),
    "millimetres": opencv_projections(".yaml", metres=0.001, unit="mm"),
    "centimetres": opencv_projections(".npz", metres=0.01, unit="cm"),
    "q_yaml": opencv_q(".yml"),
    "q_npz": opencv_q(".npz"),
    "k_txt": k_txt,
    "scene": scene,
}


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("name", FORMATS)
def test_depth_is_the_same_by_every_format_at_every_size(tmp_path, name, scale):
    """A point at 8 m, by its pixels in both projections, after both images were resized."""
    path, doffs, choices = FORMATS[name](tmp_path)
    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    point = np.array([1.5, -0.4, 8.0])
    column = FOCAL * point[0] / point[2] + CENTRE[0]
    other = FOCAL * (point[0] - BASELINE) / point[2] + CENTRE[0] + doffs
    resized = [(x + 0.5) * scale - 0.5 for x in (column, other)]

    found = read_calibration(path, size, choices)
    calibration = found.calibration
    depth = disparity_to_depth(np.array([resized[0] - resized[1]]), calibration.focal_px, calibration.baseline_m, calibration.doffs_px)
    assert depth[0] == pytest.approx(8.0, rel=1e-3) and found.rectification is None
    x = (resized[0] - calibration.centre[0]) * depth[0] / calibration.focal_px
    y = ((FOCAL * point[1] / point[2] + CENTRE[1] + 0.5) * scale - 0.5 - calibration.centre[1]) * depth[0] / calibration.focal_y_px
    assert (x, y) == (pytest.approx(1.5, rel=2e-3), pytest.approx(-0.4, rel=2e-3))
    assert calibration.size == size and f"{SIZE[0]} x {SIZE[1]}" in found.description


def cameras(metres=1.0):
    """A raw pair whose lenses happen to be perfect."""
    eyes = {"M1": LEFT[:, :3], "D1": np.zeros(5), "M2": LEFT[:, :3], "D2": np.zeros(5)}
    return eyes | {"R": np.eye(3), "T": np.array([-BASELINE / metres, 0, 0])}


@pytest.mark.parametrize("suffix", [".yml", ".npz"])
def test_cameras_before_rectification_are_rectified_here(tmp_path, suffix):
    path = tmp_path / f"rig{suffix}"
    if suffix == ".npz":
        np.savez(path, **cameras(0.001))
    else:
        storage(path, **cameras(0.001))
    for scale in (0.5, 1, 2):
        size = (int(SIZE[0] * scale), int(SIZE[1] * scale))
        found = read_calibration(path, size, Choices(unit="mm", size=SIZE))
        assert found.rectification is not None and found.rectification.calibration is found.calibration
        assert found.calibration.size == size and found.calibration.baseline_m == pytest.approx(BASELINE)
        assert "rectified here" in found.description


def test_a_file_with_both_needs_a_word(tmp_path):
    path = tmp_path / "stereo.yml"
    storage(path, **cameras(), P1=LEFT, P2=right())
    with pytest.raises(UserError, match=r"say what the images are: --rectify for raw ones, --no_rectify for rectified ones"):
        read_calibration(path, SIZE)
    assert read_calibration(path, SIZE, Choices(rectify=True)).rectification is not None
    assert read_calibration(path, SIZE, Choices(rectify=False)).rectification is None


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("training/image_0/000000_10.png", "grey cameras 0 and 1"),
        ("training/image_2/000000_10.png", "colour cameras 2 and 3"),
        ("drive/image_03/data/0000000000.png", "colour cameras 2 and 3"),
        ("image_0/colored_0/000000_10.png", "colour cameras 2 and 3"),
    ],
)
def test_kittis_cameras_by_the_folder_of_the_image(tmp_path, image, expected):
    path, _, _ = kitti(tmp_path)
    found = read_calibration(path, SIZE, images=image)
    assert expected in found.description and "the images' size, as the file names none" in found.description
    with pytest.raises(UserError, match="say which the images are of: --cameras grey"):
        read_calibration(path, SIZE, images="left/0000.png")


def test_the_unit_of_a_middlebury_file_can_be_another(tmp_path):
    path, _, _ = middlebury(tmp_path)
    path.write_text(path.read_text().replace(f"baseline={1000 * BASELINE}", f"baseline={BASELINE}"))
    with pytest.raises(UserError, match=r"the cameras would be 0\.00054 m apart; say the unit of the number in the file: --baseline_unit"):
        read_calibration(path, SIZE)
    assert read_calibration(path, SIZE, Choices(unit="m")).calibration.baseline_m == pytest.approx(BASELINE)


def write_text(text, name="calib.txt"):
    def write(folder: Path):
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path, 0, Choices()

    return write


def write_npz(**entries):
    def write(folder: Path):
        np.savez(folder / "c.npz", **entries)
        return folder / "c.npz", 0, Choices()

    return write


@pytest.mark.parametrize(
    ("write", "choices", "size", "said"),
    [
        (write_text("hello"), None, SIZE, "no calibration that is known; expected Middlebury calib.txt, KITTI"),
        (write_text(""), None, SIZE, "no calibration that is known"),
        (write_text("1 2 3\n0.1\n", "K.txt"), None, SIZE, "expected nine numbers of K on the first line"),
        (write_text("700 0 600 0 700 200 0 0 1\n54\n", "K.txt"), None, SIZE, r"would be 54 m apart; .*--baseline_unit mm, cm or m"),
        (write_text("100 0 0 0 100 0 64 48 1\n0.1\n", "K.txt"), None, SIZE, "K is 100 0 0; 0 100 0; 64 48 1; expected fx 0 cx"),
        (write_text("P2: 100 0 9 0 0 100 9 0 0 0 1 0\nP3: 200 0 9 -50 0 200 9 0 0 0 1 0\n"), None, SIZE, "100 100 on the left, 200"),
        (write_npz(P1=LEFT, P2=right(), image_size=[-128, -96]), None, SIZE, "the width is -128, the height is -96; focal"),
        (write_npz(**cameras(), image_size=[0, 0]), None, SIZE, "the images would be 0 x 0; expected width and height"),
        (write_npz(**cameras() | {"M1": cameras()["M1"].T}), None, SIZE, "K1 is .*; expected fx 0 cx"),
        (write_text("P2: 1 2 3\nP3: 1 2\n"), None, SIZE, "P2: '1 2 3'; expected 12 numbers"),
        (write_text("hello: [", "c.yml"), None, SIZE, r"c\.yml: (not in the form of cv2\.FileStorage|none of the names)"),
        (write_text("<K1>", "c.xml"), None, SIZE, r"c\.xml: not in the form of cv2\.FileStorage"),
        (write_text("{}", "c.json"), None, SIZE, r"c\.json: none of the names K1 D1 .* it has nothing"),
        (write_text(b"PK", "c.npz"), None, SIZE, "not an NPZ file of plain numbers"),
        (write_npz(P1=np.eye(3), P2=np.eye(3)), None, SIZE, "P1 holds 9 numbers, .* expected 12"),
        (write_npz(A=np.eye(3)), None, SIZE, "none of the names .* it has A"),
        (write_npz(P1=np.array([object()])), None, SIZE, "not an NPZ file of plain numbers"),
        (write_npz(K1=np.eye(3), T=np.ones(3)), None, SIZE, "lacks D1, K2, D2, R, which rectification needs; it has K1, T"),
        (write_npz(**cameras() | {"D1": np.zeros(3)}), None, SIZE, "D1 holds 3 numbers; expected 4, 5, 8, 12 or 14"),
        (write_npz(**cameras() | {"T": np.zeros(3)}), None, SIZE, "T is 0"),
        (write_npz(**cameras(0.001)), None, SIZE, r"would be 540 m apart"),
        (write_npz(P1=LEFT, P2=right()), Choices(rectify=True), SIZE, "lacks K1, D1, K2"),
        (write_npz(**cameras()), Choices(rectify=False), SIZE, "neither P1 and P2 nor Q"),
        (write_npz(Q=-q_matrix()), None, SIZE, r"Q\[2, 3\] is -700"),
        (write_npz(Q=q_matrix(metres=-1)), None, SIZE, "Q has a negative baseline"),
        (middlebury, Choices(rectify=True), SIZE, "is of a rectified pair, there is nothing to rectify with; leave --rectify out"),
        (middlebury, Choices(size=(600, 200)), SIZE, r"is of 1200 x 400 itself, but --calibration_size is 600 x 200"),
        (middlebury, None, (1200, 420), r"is of 1200 x 400, the images are 1200 x 420, of another shape"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path, capfd, write, choices, size, said):
    path = write(tmp_path)[0]
    with pytest.raises(UserError, match=said) as caught:
        read_calibration(path, size, choices)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such file; expected a calibration"):
        read_calibration(tmp_path / "none.txt", SIZE)
    with pytest.raises(UserError, match="cannot be read"):
        read_calibration(tmp_path, SIZE)


@pytest.mark.data
def test_the_published_files_at_half_the_size(shared):
    """Blanks and line breaks stand anywhere in these."""
    path = shared / "data/formats/calib_examples/middeval3_trainingQ_adirondack.txt"
    calibration = read_calibration(path, (359, 248)).calibration
    assert (calibration.focal_px, calibration.doffs_px) == (pytest.approx(519.009), pytest.approx(26.6355))
    assert disparity_to_depth(np.array([20.0]), calibration.focal_px, calibration.baseline_m, calibration.doffs_px)[0] == pytest.approx(
        1038.018 * 0.176252 / (40 + 53.271), rel=1e-6
    )
