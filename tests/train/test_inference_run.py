"""From pairs to files: depth of a known scene through every calibration format, at three sizes of the images and three of the network."""

import json

import numpy as np
import pytest

from core.inference import Estimate
from tests.hostile import full_disk
from tests.utils import test_calibration_formats as formats
from tests.utils.test_ply import read_by_the_specification
from train.inference import Estimator, Settings
from train.inference_output import Output
from train.inference_pairs import open_pairs
from train.inference_run import infer_pairs
from utils.errors import UserError
from utils.images import write_image

SMALL = 0.05  # pictures are this much smaller than the calibration, times 1, 2 and 4
NEAR, FAR = 4.0, 12.0


def depth_of_wall(width):
    """Metres per column of a slanted wall, across a picture that shows all of it."""
    return FAR + (NEAR - FAR) * (np.arange(width) + 0.5) / width


def sees_the_wall(doffs):
    """A network that knows the scene, and the size at which it is shown it."""

    def look(left, right):
        height, width = left.shape[:2]
        scale = width / formats.SIZE[0]
        disparity = scale * (formats.FOCAL * formats.BASELINE / depth_of_wall(width) - doffs)
        return Estimate(np.tile(disparity.astype(np.float32), (height, 1)))

    return look


def pictures(folder, size):
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for eye in ("left", "right"):
        write_image(folder / f"{eye}.png", image)
    return str(folder / "left.png"), str(folder / "right.png")


def run(folder, pairs, look, *, choices=None, settings=None, files=("npy", "ply"), range_px=None):
    return infer_pairs(pairs, Estimator(look, settings, range_px=range_px), Output(folder, files), choices=choices)


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_depth_of_a_known_scene(tmp_path, name, times):
    path, doffs, choices = formats.FORMATS[name](tmp_path)
    size = (round(formats.SIZE[0] * SMALL * times), round(formats.SIZE[1] * SMALL * times))
    pairs = open_pairs(*pictures(tmp_path, size), calibration=str(path))
    run(tmp_path / "out", pairs, sees_the_wall(doffs), choices=choices)
    depth = np.load(tmp_path / "out" / "depth.npy")
    expected = np.tile(depth_of_wall(size[0]), (size[1], 1))
    np.testing.assert_allclose(depth, expected, rtol=1e-3)
    points = read_by_the_specification(tmp_path / "out" / "points.ply")
    np.testing.assert_allclose([point["z"] for point in points], expected.ravel(), rtol=1e-3)
    last = points[-1]  # the lower right corner, by the calibration as it was written down
    for axis, pixel, centre in (("x", size[0], formats.CENTRE[0]), ("y", size[1], formats.CENTRE[1])):
        full = (pixel - 0.5) / (SMALL * times) - 0.5
        assert last[axis] == pytest.approx((full - centre) * last["z"] / formats.FOCAL, rel=2e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_depth_at_any_scale_of_the_network(tmp_path, scale):
    path, doffs, choices = formats.middlebury(tmp_path)
    size = (600, 200)
    pairs = open_pairs(*pictures(tmp_path, size), calibration=str(path))
    run(tmp_path / "out", pairs, sees_the_wall(doffs), choices=choices, settings=Settings(scale=scale), files=("npy",))
    inner = slice(2, -2)
    depth = np.load(tmp_path / "out" / "depth.npy")
    np.testing.assert_allclose(depth[:, inner], np.tile(depth_of_wall(600), (200, 1))[:, inner], rtol=1e-3)


def test_raw_views_are_rectified_and_written(tmp_path):
    path = tmp_path / "rig.yml"
    formats.storage(path, **formats.cameras())
    pairs = open_pairs(*pictures(tmp_path, (120, 40)), calibration=str(path))
    summary = run(tmp_path / "out", pairs, sees_the_wall(0), choices=formats.Choices(size=formats.SIZE))
    assert summary.calibrations == ["OpenCV's cameras, rectified here, 1200 x 400 (as given), scaled to 120 x 40"]
    assert {"left.png", "right.png", "depth.npy"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_warnings_are_counted_and_kept(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        blocks = np.kron(rng.integers(0, 256, (20, 30, 1), np.uint8), np.ones((10, 10, 3), np.uint8))
        for eye, image in (("left", blocks[:, :280]), ("right", blocks[:, 12:292])):
            (tmp_path / eye).mkdir(exist_ok=True)
            write_image(tmp_path / eye / f"{i}.png", np.ascontiguousarray(image))
    look = lambda left, right: Estimate(np.full(left.shape[:2], 64, np.float32))  # noqa: E731
    right_way = open_pairs(str(tmp_path / "left"), str(tmp_path / "right"))
    assert run(tmp_path / "good", right_way, look).lines() == []
    summary = run(tmp_path / "bad", open_pairs(str(tmp_path / "right"), str(tmp_path / "left")), look, range_px=64)
    assert len(summary.lines()) == 2
    assert summary.lines()[0].startswith("3 of 3 pairs, first 0: the eyes look swapped: ")
    about = json.loads((tmp_path / "bad" / "inference.json").read_text())
    assert [len(pair["warnings"]) for pair in about["pairs"]] == [2, 2, 2] and about["settings"]["scale"] == 1


def test_a_map_without_a_number_is_no_nan_in_the_json(tmp_path):
    pairs = open_pairs(*pictures(tmp_path, (40, 20)))
    summary = run(tmp_path / "out", pairs, lambda left, right: Estimate(np.full(left.shape[:2], np.nan, np.float32)))
    assert summary.lines()[0].startswith("800 of 800 disparities are nan or inf")
    assert "NaN" not in (tmp_path / "out" / "inference.json").read_text()


def test_what_was_done_before_an_error_is_kept(tmp_path):
    (tmp_path / "views").mkdir()
    write_image(tmp_path / "views" / "a.png", np.zeros((20, 40, 3), np.uint8))
    (tmp_path / "views" / "b.png").write_bytes(b"nothing")
    pairs = open_pairs(side_by_side=str(tmp_path / "views"))
    with pytest.raises(UserError, match=r"b\.png: cannot be decoded"):
        run(tmp_path / "out", pairs, sees_the_wall(0))
    assert len(json.loads((tmp_path / "out" / "inference.json").read_text())["pairs"]) == 1
    assert (tmp_path / "out" / "a" / "disparity.npy").is_file()


def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(tmp_path):
    pairs = open_pairs(*pictures(tmp_path, (60, 20)))
    cannot = r"out/disparity\.npy: cannot be written \(File too large\); pass another --output"
    with full_disk(4000), pytest.raises(UserError, match=cannot):  # the map takes 4800 bytes
        run(tmp_path / "out", pairs, sees_the_wall(0), files=("png", "npy"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"disparity.png", "inference.json"}
    run(tmp_path / "out", pairs, sees_the_wall(0), files=("png", "npy"))  # what is there is known to be ours


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "out").write_text("a file")
    pairs = open_pairs(*pictures(tmp_path, (40, 20)))
    with pytest.raises(UserError, match=r"out: cannot be written \(.*\); pass another --output"):
        run(tmp_path / "out", pairs, sees_the_wall(0))


def seen_from(root):
    """Pairs and ground truth of two scenes, in the way that data sets have them."""
    for scene in ("a", "b"):
        (root / scene).mkdir(parents=True)
        pictures(root / scene, (60, 20))
        write_image(root / scene / "disparity.png", np.full((20, 60), 7, np.uint16))
    return open_pairs(str(root / "*" / "left.png"), str(root / "*" / "right.png"))


def test_ground_truth_is_not_overwritten(tmp_path):
    pairs = seen_from(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(UserError, match=r"a/disparity\.png is there already and was not written by infer.*; pass another folder"):
        run(tmp_path, pairs, sees_the_wall(0), files=("png",))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(tmp_path, pairs, sees_the_wall(0), files=("npy",))  # beside it is no harm, and its inference.json does not make the truth ours
    with pytest.raises(UserError, match="was not written by infer"):
        run(tmp_path, pairs, sees_the_wall(0), files=("png",))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_pair_itself_is_not_overwritten(tmp_path):
    path = tmp_path / "rig.yml"
    formats.storage(path, **formats.cameras())
    pairs, choices = open_pairs(*pictures(tmp_path, (120, 40)), calibration=str(path)), formats.Choices(size=formats.SIZE)
    before = (tmp_path / "left.png").read_bytes()
    with pytest.raises(UserError, match=r"left\.png is one of the inputs and would be overwritten"):
        run(tmp_path, pairs, sees_the_wall(0), choices=choices)
    assert (tmp_path / "left.png").read_bytes() == before and not (tmp_path / "depth.npy").exists()


def test_the_same_place_can_be_written_again(tmp_path):
    pairs = seen_from(tmp_path / "scenes")
    for files in (("npy",), ("png", "npy"), ("npy",), ("png", "colour")):
        run(tmp_path / "out", pairs, sees_the_wall(0), files=files)
    assert (tmp_path / "out" / "b" / "colour.png").is_file()
    about = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert {"disparity.npy", "disparity.png", "colour.png", "inference.json"} <= set(about["written"])
    (tmp_path / "out" / "inference.json").write_text(json.dumps({"png_scale": 256, "files": {}}))  # of a version that did not say
    run(tmp_path / "out", pairs, sees_the_wall(0))
