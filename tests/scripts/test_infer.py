"""The command as users call it, with a tiny network of random weights: what it writes, says, and answers to bad input."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core import build_model
from scripts.infer import main
from scripts.live_view import main as live_view
from scripts.train import main as train
from tests.scripts.tiny import TINY
from tests.utils.test_video import write as write_video
from utils.images import write_image

CALIB = "cam0=[100 0 47.5; 0 100 31.5; 0 0 1]\ncam1=[100 0 50; 0 100 31.5; 0 0 1]\ndoffs=2.5\nbaseline=100\nwidth=96\nheight=64\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save({"model_config": TINY["model"], "model": build_model(TINY["model"]).state_dict()}, path)
    return str(path)


@pytest.fixture
def views(tmp_path):
    """Two pairs of a wall 8 px away, in folders, and a calibration."""
    for i in range(2):
        blocks = np.random.default_rng(i).integers(0, 256, (8, 14, 3), np.uint8)
        wide = cv2.resize(blocks, (112, 64), interpolation=cv2.INTER_CUBIC)
        for eye, image in (("left", wide[:, :96]), ("right", wide[:, 8:104])):
            (tmp_path / eye).mkdir(exist_ok=True)
            write_image(tmp_path / eye / f"{i}.png", np.ascontiguousarray(image))
    (tmp_path / "calib.txt").write_text(CALIB)
    return tmp_path


def infer(*options):
    result = CliRunner().invoke(main, [str(option) for option in options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_pair_with_its_calibration(weights, views):
    pair = ["--left", views / "left" / "0.png", "--right", views / "right" / "0.png", "--calibration", views / "calib.txt"]
    result = infer("--checkpoint", weights, *pair, "--output", views / "out", "--left_right_check")
    assert result.exit_code == 0, result.output
    assert "calibration: Middlebury calib.txt, 96 x 64 (its own size)" in result.output
    assert "1 pairs, " in result.output and str(views / "out") in result.output
    assert {path.name for path in (views / "out").iterdir()} == {
        "disparity.png", "disparity.npy", "colour.png", "occluded.png", "depth.png", "depth.npy", "points.ply", "inference.json"
    }  # fmt: skip
    disparity, depth = np.load(views / "out" / "disparity.npy"), np.load(views / "out" / "depth.npy")
    occluded = cv2.imread(str(views / "out" / "occluded.png"), cv2.IMREAD_UNCHANGED) > 0
    known = (disparity > 0) & ~occluded
    assert disparity.shape == (64, 96) and (depth[~known] == 0).all()
    assert depth[known] == pytest.approx(10 / (disparity[known] + 2.5), rel=1e-5)


def test_folders_with_every_way_of_looking(weights, views):
    result = infer(
        "--checkpoint", weights, "--left", views / "left", "--right", views / "right", "--output", views / "out", "--formats", "pfm",
        "--hierarchical", "--tile", 64, 64, "--tile_overlap", 4, "--max_disparity", 8, "--iterations", 1, "--scale", 1.5, "--precision",
        "bf16", "--device", "cpu", "--set", "model.max_disp=64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (views / "out" / "0" / "disparity.pfm").is_file() and (views / "out" / "1" / "disparity.pfm").is_file()
    about = json.loads((views / "out" / "inference.json").read_text())
    assert about["settings"]["scales"] is None  # it was seen at half the size first
    assert about["settings"]["tile"] == [64, 64] and about["checkpoint"] == weights and len(about["pairs"]) == 2


def test_a_video_of_both_views(views):
    frames = [np.hstack([cv2.imread(str(views / eye / "0.png"))[..., ::-1] for eye in ("left", "right")])] * 3
    video = ["--side_by_side", write_video(views / "both.mkv", frames)]
    result = infer("--checkpoint", "sgbm", "--max_disparity", 20, *video, "--output", views / "out", "--formats", "npy,colour")
    assert result.exit_code == 0, result.output
    disparity = np.load(views / "out" / "000002" / "disparity.npy")
    assert np.median(disparity[:, 24:]) == pytest.approx(8, abs=0.5) and (views / "out" / "colour.mp4").is_file()


def test_a_warning_is_a_line_beside_the_result(tmp_path):
    blocks = np.kron(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
    for eye, first in (("left", 0), ("right", 12)):
        write_image(tmp_path / f"{eye}.png", np.ascontiguousarray(blocks[:, first : first + 280]))
    swapped = ["--left", tmp_path / "right.png", "--right", tmp_path / "left.png"]
    result = infer("--checkpoint", "sgbm", *swapped, "--max_disparity", 20, "--output", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr.startswith("warning: the eyes look swapped: ") and result.stderr.count("\n") == 1
    assert result.stdout.startswith("1 pairs, ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"checkpoint": "heavy"},
            "heavy: no such file or folder; expected a weight file, the workspace of a run, .* comes with the project: light",
        ),
        ({"checkpoint": "none.pt"}, "none.pt: no such file or folder; expected a weight file"),
        ({"checkpoint": "left"}, "no saved step of a run"),
        ({"left": "nothing.png"}, "no such file or folder; expected a picture"),
        ({"left": None}, "--left: not given"),
        ({"left": "left"}, "do not pair"),
        ({"right": "wide.png"}, "96 x 64 and 97 x 64; the views of a pair have one size"),
        ({"right": "broken.png"}, "broken.png: the file is empty"),
        ({"calibration": "none.txt"}, "none.txt: no such file; expected a calibration"),
        ({"calibration": "aspect.txt"}, "is of 96 x 80, the images are 96 x 64, of another shape"),
        ({"calibration": "metres.txt"}, "say the unit of the number in the file: --baseline_unit mm, cm or m"),
        ({"calibration": "left/0.png"}, "no calibration that is known"),
        ({"formats": "png,gif"}, "--formats png,gif: 'gif' is none of png, pfm, npy, colour, ply"),
        ({"device": "tpu9"}, "--device tpu9"),
        ({"precision": "fp16", "device": "cpu"}, "--precision fp16: needs a GPU"),
        ({"tile": (64, 64)}, "tiles: a width of 64 leaves nothing of a tile for overlap 64 and range 32; expected 160 or more"),
        ({"hierarchical": True, "cascades": 2}, "no more than 1 with hierarchical"),
        ({"output": "left/0.png/out"}, "cannot be written"),
        ({"left": "a.mp4", "right": "b.mp4"}, "a.mp4 has 4 frames, .*b.mp4 3; expected videos of the same length"),
        ({"set": "model.max_dips=64"}, "max_dips"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(weights, views, options, said):
    write_image(views / "wide.png", np.zeros((64, 97, 3), np.uint8))
    (views / "broken.png").write_bytes(b"")
    (views / "aspect.txt").write_text(CALIB.replace("height=64", "height=80"))
    (views / "metres.txt").write_text(CALIB.replace("baseline=100", "baseline=0.1"))
    for name, count in (("a.mp4", 4), ("b.mp4", 3)):
        write_video(views / name, [np.zeros((64, 96, 3), np.uint8)] * count)
    files = ("left", "right", "calibration", "output")
    given = {"checkpoint": weights, "left": "left/0.png", "right": "right/0.png", "calibration": "calib.txt", "output": "out"} | options
    arguments = []
    for name, value in given.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None:
            places = name in files or (name == "checkpoint" and value == "left")
            arguments += [f"--{name}", *(value if isinstance(value, tuple) else [views / value if places else value])]
    result = infer(*arguments)
    assert result.exit_code == 2 and re.search(said, result.stderr), result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and not result.stdout


@pytest.mark.parametrize(
    ("command", "option"),
    [(main, name) for name in ("scale", "max_disparity", "png_scale", "max_depth")]
    + [(live_view, name) for name in ("scale", "max_disparity", "patience")]
    + [(train, "memory_gb")],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(command, option, value):
    result = CliRunner().invoke(command, [f"--{option}", value])
    assert result.exit_code == 2 and f"Invalid value for '--{option}': {value}" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint", "sgbm", "--hierarchical"], "--hierarchical: does nothing with sgbm; leave it out"),
        (["--checkpoint", "sgbm", "--iterations", 7], "--iterations: does nothing with sgbm"),
        (["--checkpoint", "sgbm", "--tile", 64, 64], "--tile: does nothing with sgbm"),
        (["--checkpoint", "sgbm", "--precision", "bf16"], "--precision: does nothing with sgbm"),
        (["--checkpoint", "sgbm", "--compile"], "--compile: does nothing with sgbm"),
        (["--checkpoint", "sgbm", "--set", "model.max_disp=64"], "--set: does nothing with sgbm"),
        (["--max_disparity", 20], "--max_disparity: does nothing without --tile"),
        (["--tile_overlap", 8], "--tile_overlap: does nothing without --tile"),
        (["--formats", "npy,ply"], "--formats ply: does nothing without --calibration"),
        (["--max_depth", 5], "--max_depth: does nothing without --calibration"),
        (["--no_rectify"], "--rectify/--no_rectify: does nothing without --calibration"),
    ],
    ids=str,
)
def test_no_option_is_ignored_in_silence(views, options, said):
    result = infer("--left", views / "left", "--right", views / "right", "--output", views / "out", *options)
    assert result.exit_code == 2 and result.stderr.startswith(f"error: {said}"), result.output
    assert result.stderr.count("\n") == 1 and not (views / "out").exists()
