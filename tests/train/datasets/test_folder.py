"""Any pairs by patterns: each format by hand, how files find each other, and what is said where they cannot."""

import io

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, npz, write
from train.datasets import SampleError, build_dataset
from train.datasets.readers import encode_fsd
from utils.errors import UserError

PIXELS = np.array([[0, 1, 2.5, 8]], np.float32)
PAIR = {"left": "left/*.png", "right": "right/*.png"}
CALIB = "cam0=[50 0 1; 0 50 0; 0 0 1]\ncam1=[50 0 3; 0 50 0; 0 0 1]\ndoffs=1\nbaseline=200\nwidth=2\nheight=1\n"


def folder(root, **params):
    return build_dataset("folder", root, PAIR | params, "data.datasets[0]")


def pair(name="0001", below="", width=4, height=1):
    return {f"{below}left/{name}.png": grey(10, width, height), f"{below}right/{name}.png": grey(200, width, height)}


def exr(values):
    openexr, content = pytest.importorskip("OpenEXR"), io.BytesIO()
    openexr.File({"type": openexr.scanlineimage}, {"Y": values}).write(content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "stored", "params"),
    [
        ("a.pfm", PIXELS, {}),
        ("a.pfm", -PIXELS, {"scale": -1}),
        ("a.png", (256 * PIXELS).astype(np.uint16), {"scale": 256}),
        ("a.png", (8 * PIXELS).astype(np.uint8), {"scale": 8}),
        ("a.png", encode_fsd(PIXELS), {"format": "fsd"}),
        ("a.npy", PIXELS.astype(np.float64), {}),
        ("a.npz", npz(disparity=PIXELS, other=PIXELS + 1), {"entry": "disparity"}),
        ("a.exr", exr, {}),
    ],
)
def test_every_format_gives_the_same_disparity(tmp_path, name, stored, params):
    write(tmp_path, pair("a") | {f"truth/{name}": stored(PIXELS) if callable(stored) else stored})
    dataset = folder(tmp_path, disparity=f"truth/*{name[1:]}", **params)
    sample = dataset.load(0).check()
    assert dataset.key(0) == "a" and not dataset.has_right_disparity and sample.calibration is None
    assert (sample.left == 10).all() and (sample.right == 200).all()
    assert sample.disparity.tolist() == PIXELS.tolist() and sample.valid.tolist() == (PIXELS > 0).tolist()


def test_depth_in_millimetres_becomes_disparity(tmp_path):
    # 100 px * 0.2 m / depth - 2 px: 4 m is 3 px, 1 m is 18 px, and 10 m is none, 0 px. The file is of half the width: 50 px and 1 px there.
    left, right = np.array([[0, 4000, 1000, 10000]] * 2, np.uint16), np.array([[1000, 0, 0, 0]] * 2, np.uint16)
    write(tmp_path, pair(height=2) | {"depth/0001.png": left, "depth_right/0001.png": right, "calib.txt": CALIB})
    geometry = {"focal_px": 100, "baseline_m": 0.2, "doffs_px": 2}
    truth = {"depth": "depth/*.png", "depth_right": "depth_right/*.png", "scale": 1000}
    for camera in (geometry, {"calibration": "calib.txt"}):
        dataset = folder(tmp_path, **truth, **camera)
        sample = dataset.load(0).check()
        assert sample.disparity[1] == pytest.approx(np.array([0, 3, 18, 0])) and sample.valid[1].tolist() == [False, True, True, False]
        assert dataset.has_right_disparity and sample.disparity_right[1] == pytest.approx(np.array([18, 0, 0, 0]))
        assert sample.calibration.focal_px == 100 and sample.calibration.size == (4, 2) and sample.calibration.doffs_px == 2


def test_a_calibration_of_raw_pictures_is_refused(tmp_path):
    matrix = [[100, 0, 2], [0, 100, 0.5], [0, 0, 1]]
    rig = {"K1": matrix, "D1": [0.1, 0, 0, 0, 0], "K2": matrix, "D2": [0, 0, 0, 0, 0]}
    rig |= {"R": np.eye(3), "T": [-0.2, 0, 0]}
    write(tmp_path, pair() | {"truth/0001.pfm": PIXELS, "calib.npz": npz(**rig)})
    with pytest.raises(SampleError, match=r"calib\.npz: is of pictures that are not rectified"):
        folder(tmp_path, disparity="truth/*.pfm", calibration="calib.npz").load(0)


def test_masks_of_what_is_known_and_what_is_hidden(tmp_path):
    stored = {"masks/0001_known.png": np.array([[255, 0, 1, 255]], np.uint8), "masks/0001_hidden.png": np.array([[0, 0, 255, 0]], np.uint8)}
    write(tmp_path, pair() | {"truth/0001.pfm": PIXELS} | stored)
    masks = {"valid": "masks/*_known.png", "occluded": "masks/*_hidden.png"}
    sample = folder(tmp_path, disparity="truth/*.pfm", **masks).load(0).check()
    assert sample.disparity.tolist() == [[0, 0, 2.5, 8]] and sample.occluded.tolist() == [[False, False, True, False]]
    write(tmp_path, {"masks/0001_known.png": np.ones((1, 3), np.uint8)})
    with pytest.raises(SampleError, match=r"0001_known\.png: the mask is 3x1, the disparity 4x1"):
        folder(tmp_path, disparity="truth/*.pfm", **masks).load(0)


def test_points_and_surfaces_are_told_apart_unless_it_is_said(tmp_path):
    points = np.zeros((20, 20), np.float32)
    points[::3, ::2] = 5
    for name, values in (("0001", points), ("0002", points + 5)):
        write(tmp_path, pair(name, width=20, height=20) | {f"truth/{name}.pfm": values})
    dataset = folder(tmp_path, disparity="truth/*.pfm")
    assert [dataset.load(i).sparse for i in range(2)] == [True, False]
    assert folder(tmp_path, disparity="truth/*.pfm", sparse=True).load(1).sparse


@pytest.mark.parametrize(
    ("left", "right", "disparity", "key"),
    [
        ("*/left/*.png", "*/right/*.png", "*/disp/*.pfm", "s1/0001"),
        ("**/left/*.*", "**/right/*.*", "**/disp/*.pfm", "s1/0001"),
        ("{scene}/left/{frame}.png", "{scene}/right/{frame}.png", "*/disp/*.pfm", None),
        ("{scene}/left/{frame}.png", "{scene}/right/{frame}.png", "{scene}/disp/{frame}.pfm", "s1/0001"),
        ("s1/left/0001.png", "s1/right/0001.png", "s1/disp/0001.pfm", "s1/left/0001"),
    ],
)
def test_patterns_find_the_pair(tmp_path, left, right, disparity, key):
    for name in ("s1", "other/s2")[: 2 if "**" in left else 1]:
        write(tmp_path, pair(below=f"{name}/") | {f"{name}/disp/0001.pfm": PIXELS})
    params = {"left": left, "right": right, "disparity": disparity}
    if key is None:
        with pytest.raises(UserError, match=r"folder: 'left' and 'disparity' have different wildcards \(\{scene\} \{frame\} and \* \*\)"):
            folder(tmp_path, **params)
        return
    dataset = folder(tmp_path, **params)
    assert key in [dataset.key(i) for i in range(len(dataset))] and len(dataset) == (2 if "**" in left else 1)
    dataset.load(0).check()


def test_pictures_under_several_lights_share_their_ground_truth(tmp_path):
    write(tmp_path, pair("0001_a") | pair("0001_b") | {"truth/0001.pfm": PIXELS})
    views = {"left": "left/{frame}_{light}.png", "right": "right/{frame}_{light}.png"}
    dataset = folder(tmp_path, **views, disparity="truth/{frame}.pfm")
    assert [dataset.key(i) for i in range(2)] == ["0001/a", "0001/b"]
    with pytest.raises(UserError, match="'left' and 'right' have different wildcards"):
        folder(tmp_path, **views | {"right": "right/{frame}.png"}, disparity="truth/{frame}.pfm")


@pytest.mark.parametrize("lonely", ["left/0000.png", "right/0000.png", "truth/0000.pfm"])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, pair("0001") | {"truth/0001.pfm": PIXELS} | pair("0002") | {"truth/0002.pfm": PIXELS})
    check_pairing("folder", tmp_path, lonely, pair("0000") | {"truth/0000.pfm": PIXELS}, **PAIR, disparity="truth/*.pfm")


def test_a_named_file_that_is_missing_is_said(tmp_path):
    write(tmp_path, pair() | {"truth/0001.pfm": PIXELS})
    with pytest.raises(UserError, match=r"left/0001\.png has no occluded"):
        folder(tmp_path, disparity="truth/*.pfm", occluded="hidden/*.png")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "expected 'disparity' or 'depth'"),
        ({"disparity": "a/*.pfm", "depth": "b/*.pfm"}, "expected 'disparity' or 'depth'"),
        ({"disparity": "a/*.pfm", "depth_right": "b/*.pfm"}, "the same kind"),
        ({"disparity": "a/*.png"}, "PNG needs 'scale'"),
        ({"disparity": "a/*.pfm", "right": "left/*.png"}, r"'left' and 'right' are both 'left/\*\.png'; give each eye its own pattern"),
        ({"disparity": "a/*.pfm", "scale": 0}, "scale: found 0"),
        ({"disparity": "a/*.pfm", "scale": 1e300}, r"scale: found 1e\+300"),
        ({"disparity": "a/*.pfm", "left": "l/{1a}.png"}, r"left: .* found '\{1a\}\.png'"),
        ({"disparity": "a/*.*"}, r"'a/\*\.\*' does not end in .* say which 'format'"),
        ({"depth": "a/*.npy"}, "depth needs 'focal_px' and 'baseline_m', or 'calibration'"),
        ({"depth": "a/*.npy", "focal_px": 5}, "give both"),
        ({"disparity": "a/*.pfm", "left": "l/[0-9].png"}, r"left: 'l/\[0-9\]\.png': expected a path .* found '\[0-9\]\.png'"),
        ({"disparity": "a/*.pfm", "left": "l/a**.png"}, r"left: .* found 'a\*\*\.png'"),
        ({"disparity": "a/*.pfm", "left": "/l/*.png"}, r"left: .* found ''"),
        ({"disparity": "a/*.pfm", "left": "../l/*.png"}, r"left: .* found '\.\.'"),
        ({"disparity": "a/*.pfm", "entry": "disparity"}, "leave it out with pfm"),
        ({"disparity": "a/*.pfm", "doffs_px": 3}, "'doffs_px' belongs to 'focal_px'"),
        ({"disparity": "a/*.pfm", "format": "tiff"}, r"data\.datasets\[0\]\.format"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path, params, said):
    with pytest.raises(UserError, match=said):
        folder(tmp_path, **params)
