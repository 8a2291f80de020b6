"""The commands as users call them: a hundred pairs from videos, cameras that are lost, a run that is still training, and bad input."""

import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core import FoundationStereo, build_model
from scripts.list_cameras import main as list_cameras
from scripts.live_view import main
from tests.scripts.test_infer import CALIB
from tests.scripts.tiny import ROOT, TINY
from tests.train.test_live import Wire
from tests.utils.test_video import write as write_video
from train import cameras, live_watch, live_window
from train.checkpoint import Checkpoints
from utils.video import VideoReader

UNET = {"type": "unet", "max_disp": 32, "dims": [4, 4, 4, 4, 4]}  # says how sure it is
RIG = """%YAML:1.0
---
image_width: 96
image_height: 64
K1: !!opencv-matrix {{ rows: 3, cols: 3, dt: d, data: [100., 0., 47.5, 0., 100., 31.5, 0., 0., 1.] }}
D1: !!opencv-matrix {{ rows: 1, cols: 4, dt: d, data: [-0.2, 0., 0., 0.] }}
K2: !!opencv-matrix {{ rows: 3, cols: 3, dt: d, data: [100., 0., 47.5, 0., 100., 31.5, 0., 0., 1.] }}
D2: !!opencv-matrix {{ rows: 1, cols: 4, dt: d, data: [-0.2, 0., 0., 0.] }}
R: !!opencv-matrix {{ rows: 3, cols: 3, dt: d, data: [1., 0., 0., 0., 1., 0., 0., 0., 1.] }}
T: !!opencv-matrix {{ rows: 3, cols: 1, dt: d, data: [-0.1, 0., 0.] }}
{projections}"""
PROJECTIONS = """P1: !!opencv-matrix { rows: 3, cols: 4, dt: d, data: [100., 0., 47.5, 0., 0., 100., 31.5, 0., 0., 0., 1., 0.] }
P2: !!opencv-matrix { rows: 3, cols: 4, dt: d, data: [100., 0., 47.5, -10., 0., 100., 31.5, 0., 0., 0., 1., 0.] }
"""


def network():
    torch.manual_seed(0)
    return {"model_config": UNET, "model": build_model(UNET).state_dict()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(network(), path)
    return str(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """left.avi, right.avi and both.avi: a hundred pictures of a wall 8 px away."""
    folder = tmp_path_factory.mktemp("videos")
    wide = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 14, 3), np.uint8), (112, 64), interpolation=cv2.INTER_CUBIC)
    left, right = wide[:, :96], wide[:, 8:104]
    for name, image in (("left", left), ("right", right), ("both", np.hstack([left, right]))):
        write_video(folder / f"{name}.avi", [np.ascontiguousarray(image)] * 100)
    return folder


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def live_view(*options):
    result = CliRunner().invoke(main, [str(option) for option in options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def pair(folder):
    return "--left", folder / "left.avi", "--right", folder / "right.avi"


def frames_of(path):
    with VideoReader(path) as video:
        return list(video)


def test_a_hundred_pairs_from_videos_without_a_display(weights, videos, tmp_path):
    options = ["--checkpoint", weights, "--record", tmp_path / "view.mkv", "--width", 200, "--device", "cpu", "--scale", 0.5]
    result = live_view(*pair(videos), *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"100 pairs, [\d.]+ per second; .*ended after 100 frames; recorded in .*view\.mkv\n$", result.stdout)
    found = frames_of(tmp_path / "view.mkv")
    assert len(found) == 100 and found[0].shape == (2 * 66 + 2 + 32, 200, 3)  # four panels of 99 x 66, as this network is never sure


def test_a_network_of_several_looks_looks_once_where_time_counts(videos, tmp_path, monkeypatch):
    config = {"type": "foundation_stereo", **TINY["model"], "valid_scales": [1.0, 2.0], "start_cost": 0.5}
    torch.save({"model_config": config, "model": build_model(config).state_dict()}, tmp_path / "tiny.pt")
    widths, forward = [], FoundationStereo.forward
    monkeypatch.setattr(
        FoundationStereo, "forward", lambda self, left, *rest, **more: widths.append(left.shape[-1]) or forward(self, left, *rest, **more)
    )
    options = ["--checkpoint", tmp_path / "tiny.pt", "--record", tmp_path / "out", "--frames", 3, "--device", "cpu"]
    result = live_view(*pair(videos), *options)
    assert result.exit_code == 0, result.output
    assert len(widths) >= 3 and len(set(widths)) == 1


def test_a_side_by_side_stream_becomes_pictures_with_the_depth_in_the_middle(videos, tmp_path):
    (tmp_path / "calib.txt").write_text(CALIB)
    options = ["--calibration", tmp_path / "calib.txt", "--max_disparity", 20, "--frames", 3, "--record", tmp_path / "out"]
    result = live_view("--side_by_side", videos / "both.avi", *options)
    assert result.exit_code == 0, result.output
    assert "no --checkpoint: shown is OpenCV's StereoSGBM" in result.stderr
    assert "calibration: Middlebury calib.txt, 96 x 64 (its own size)" in result.stderr
    assert result.stdout.startswith("3 pairs, ") and "3 were asked for" in result.stdout
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["000000.png", "000001.png", "000002.png"]
    bare = live_view("--side_by_side", videos / "both.avi", *options[2:-1], tmp_path / "bare")
    assert bare.exit_code == 0
    pictures = [cv2.imread(str(tmp_path / name / "000002.png")) for name in ("out", "bare")]
    assert (pictures[0][-32:] != pictures[1][-32:]).any()  # the line of text says the depth
    assert (pictures[0][:-32] == pictures[1][:-32]).all()


@pytest.mark.parametrize(
    ("projections", "option", "said"),
    [
        ("", [], "OpenCV's cameras, rectified here"),
        (PROJECTIONS, [], "OpenCV's cameras, rectified here"),
        (PROJECTIONS, ["--no_rectify"], "OpenCV's rectified pair"),
    ],
)
def test_pairs_are_rectified_where_the_calibration_can(videos, tmp_path, projections, option, said):
    (tmp_path / "rig.yml").write_text(RIG.format(projections=projections))
    options = ["--frames", 1, "--max_disparity", 20, "--record", tmp_path / "out", "--width", 194]
    result = live_view(*pair(videos), "--calibration", tmp_path / "rig.yml", *options, *option)
    assert result.exit_code == 0, result.output
    assert f"calibration: {said}, 96 x 64 (its own size)" in result.stderr
    raw = live_view(*pair(videos), *options[:-3], tmp_path / "raw", *options[-2:])
    assert raw.exit_code == 0
    left, raw_left = (cv2.imread(str(tmp_path / name / "000000.png"))[20:60, :40].astype(int) for name in ("out", "raw"))
    assert (np.abs(left - raw_left).mean() > 1) == (not option)


def test_a_lost_camera_ends_the_view_with_a_line(weights, tmp_path, monkeypatch):
    wire = Wire(0, 2)
    wire.dies, wire.pause_s = {2: 20}, 0.005
    monkeypatch.setattr(cameras, "open_capture", wire.open)
    monkeypatch.setattr(cameras, "RETRY_EVERY_S", 0.01)
    options = ["--checkpoint", weights, "--record", tmp_path / "view.mkv", "--patience", 0.1]
    result = live_view("--left", 0, "--right", 2, *options)
    assert result.exit_code == 2 and not result.stdout
    assert result.stderr.count("camera 2: no picture any more; trying again for 0.1 s") == 1
    assert result.stderr.splitlines()[-1].startswith("error: camera 2: lost after 19 pairs and not back within 0.1 s")
    assert frames_of(tmp_path / "view.mkv")


def test_a_run_that_is_training_is_followed_past_a_half_written_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoint")
    checkpoints.write(50, {"model": network(), "optimizer": {"step": 50}})
    monkeypatch.setattr(live_watch, "POLL_S", 0.02)
    monkeypatch.setattr(cameras, "open_capture", Wire(0, 2).open)
    said = []
    monkeypatch.setattr("click.echo", lambda line, err=False: said.append(line))

    class Trainer:
        """A window that trains on: after 3 pictures half a checkpoint, once that is reported a whole one, once that is in use the end."""

        def __init__(self):
            self.cursor, self.shown = None, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def show(self, picture):
            self.shown += 1
            if self.shown == 3:
                half = checkpoints.folder / "00000100.pt"
                half.write_bytes((checkpoints.folder / "00000050.pt").read_bytes()[:500])
                torch.save({"step": 100, "files": {half.name: {"size": 5000, "sha256": ""}}}, checkpoints.folder / "latest.pt")
            if said and said[-1].startswith("00000100.pt is passed over"):
                checkpoints.write(150, {"model": network(), "optimizer": {"step": 150}})
                said.append("written")
            return "quit" if "00000150.pt is in use from here on" in said else None

    monkeypatch.setattr(live_window, "check_window", lambda: None)
    monkeypatch.setattr(live_window, "Window", Trainer)
    main(["--left", "0", "--right", "2", "--checkpoint", str(tmp_path / "run"), "--watch_checkpoint"], standalone_mode=False)
    assert len(said) == 4 and said[0].startswith("00000100.pt is passed over, the network before it stays: ")
    assert said[1:3] == ["written", "00000150.pt is in use from here on"] and re.search(r"^\d+ pairs, .* per second; quit$", said[3])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"record": None}, r"no display \(DISPLAY is not set\), so no window can be opened; .* or use --record FILE"),
        ({"record": None, "no_window": True}, "--no_window: nothing would be seen of it; add --record FILE"),
        ({"left": "none.avi"}, r"--left .*none\.avi: no such file; expected the number of a camera"),
        ({"left": "99", "right": "98"}, r"camera 99: cannot be opened; scripts/list_cameras\.py shows"),
        ({"right": None}, "--right: not given"),
        ({"right": "both.avi"}, "96 x 64 and 192 x 64; the views of a pair have one size"),
        ({"right": "empty.avi"}, r"empty\.avi: cannot be opened as a video"),
        ({"right": "left.avi"}, r"--left and --right are both .*left\.avi"),
        ({"side_by_side": "both.avi"}, "--side_by_side: holds both views"),
        ({"checkpoint": "none.pt"}, "none.pt: no such file or folder; expected a weight file"),
        ({"run_id": "0" * 32}, "--run_id: stands in place of --checkpoint"),
        ({"watch_checkpoint": True}, r"--watch_checkpoint: .*tiny\.pt is one file"),
        ({"iterations": 2, "checkpoint": None}, "--iterations: does nothing with sgbm"),
        ({"baseline_unit": "mm"}, "--baseline_unit: does nothing without --calibration"),
        ({"watch_checkpoint": True, "checkpoint": None}, "--watch_checkpoint: nothing trains OpenCV's matching"),
        ({"calibration": "none.txt"}, r"none\.txt: no such file; expected a calibration"),
        ({"calibration": "empty.avi"}, "no calibration that is known"),
        ({"record": "left.avi"}, r"--record .*left\.avi is read meanwhile and would be overwritten"),
        ({"record": "view.gif"}, r"--record .*view\.gif: expected a video"),
        ({"device": "tpu9"}, "--device tpu9"),
        ({"precision": "fp16", "device": "cpu"}, "--precision fp16: needs a GPU"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(weights, videos, tmp_path, options, said):
    empty = videos / "empty.avi"
    empty.write_text("no video")
    given = {"left": "left.avi", "right": "right.avi", "checkpoint": weights, "record": str(tmp_path / "out")} | options
    arguments = []
    for name, value in given.items():
        if value is not None:
            places = str(value).endswith((".avi", ".txt", ".gif"))
            arguments += [f"--{name}", *([] if value is True else [videos / value if places else value])]
    result = live_view(*arguments)
    assert result.exit_code == 2 and not result.stdout, result.output
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ") and re.search(said, last), result.stderr
    assert all(line.startswith("no --checkpoint") for line in before)


def test_a_window_that_cannot_be_opened_is_one_line_for_each_reason(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")  # where no variable says it beforehand
    for probe, said in (
        ("raise SystemExit('The function is not implemented. Rebuild the library')", r"opencv-python-headless, most likely\); install"),
        ("raise SystemExit('no\\nXcb')", r"no window can be opened \(no Xcb\); connect with a display"),
        ("import os; os.abort()", r"no window can be opened \(exit status -6\)"),
    ):
        monkeypatch.setattr(live_window, "PROBE", probe)
        result = live_view("--left", 0, "--right", 2)
        assert result.exit_code == 2 and re.search(said, result.stderr) and result.stderr.count("\n") == 1


@pytest.fixture
def display():
    """The name of a display: a virtual one, which is there as long as the test, or that of whoever runs the tests."""
    if shutil.which("Xvfb") is None:
        if "DISPLAY" not in os.environ:
            pytest.skip("needs a display: install Xvfb (apt-get install xvfb), or run the tests on a desktop")
        yield os.environ["DISPLAY"]
        return
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as answer:
            yield f":{answer.readline().strip()}"  # it chooses a free number, and says so once it can be used
    finally:
        server.terminate()
        server.wait()


def test_the_window_shows_videos(videos, display):
    command = [sys.executable, ROOT / "scripts" / "live_view.py", *pair(videos), "--frames", 5, "--width", 300]
    environment = {**os.environ, "DISPLAY": display}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("5 pairs, ") and "5 were asked for" in done.stdout, done.stderr


def test_cameras_are_listed(monkeypatch):
    monkeypatch.setattr(cameras, "open_capture", Wire(0, 2).open)
    lines = CliRunner().invoke(list_cameras, []).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["number", "size", "fps", "backend"], ["0", "64", "x", "48", "30", "WIRE"], ["2", "64", "x", "48", "30", "WIRE"]
    ]  # fmt: skip


def test_a_machine_without_cameras_is_no_error(monkeypatch):
    monkeypatch.setattr(cameras, "open_capture", Wire().open)
    result = CliRunner().invoke(list_cameras, ["--numbers", "3"])
    assert result.exit_code == 0 and result.stdout.startswith("no camera can be opened (numbers 0 to 2 were tried)")
