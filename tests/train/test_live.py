"""The live view without window and command: what passes between threads, cameras that fail, numbers under the mouse, newer weights."""

import json
import threading
import time

import numpy as np
import pytest
import torch

from core.inference import Estimate
from tests.core.networks import TINY, tiny
from tests.hostile import full_disk
from tests.utils.test_video import write as write_video
from train import cameras, live, live_watch
from train.cameras import Capture, Stream, Views, find_cameras, open_source
from train.checkpoint import Checkpoints
from train.handover import Ended, Newest
from train.inference import Estimator, Result
from train.live import Looker, Recorder, Screen, Seen, Snapshots, view
from train.live_watch import Watcher, watched_folder
from train.load import load_trained
from utils.calibration import Calibration
from utils.errors import UserError
from utils.video import VideoReader

SIZE = (64, 48)
CALIBRATION = Calibration(focal_px=100, baseline_m=0.1, size=SIZE, doffs_px=2.5)  # 7.5 px are 1 m


class Wire:
    """Cameras of a test by number, in place of drivers: each picture is of one value, how many were grabbed of it before.

    gone: numbers that give nothing and do not open. damaged: (number, count) of pictures that cannot be decoded. log: what was asked.
    """

    def __init__(self, *present, size=SIZE):
        self.present, self.size = set(present), size
        self.gone, self.damaged, self.log, self.counts = set(), set(), [], dict.fromkeys(present, 0)
        self.dies, self.returns = {}, {}  # number -> after how many pictures, after how many attempts to open it
        self.pause_s = 0.0

    def open(self, target, size):
        if target in self.gone:
            self.returns[target] = self.returns.get(target, 0) - 1
            if self.returns[target] == 0:
                self.gone.discard(target)
        return Fake(self, target)


class Fake:
    """As much of cv2.VideoCapture as is asked."""

    def __init__(self, wire, number):
        self.wire, self.number = wire, number

    def isOpened(self):
        return self.number in self.wire.present - self.wire.gone

    def getBackendName(self):
        return "WIRE"

    def grab(self):
        wire = self.wire
        time.sleep(wire.pause_s)
        if not self.isOpened():
            return False
        wire.log.append(("grab", self.number))
        wire.counts[self.number] += 1
        if wire.dies.get(self.number) == wire.counts[self.number]:
            wire.gone.add(self.number)
        return self.number not in wire.gone

    def retrieve(self):
        count = self.wire.counts[self.number]
        self.wire.log.append(("retrieve", self.number))
        if (self.number, count) in self.wire.damaged:
            return False, None
        return True, np.full((self.wire.size[1], self.wire.size[0], 3), count % 256, np.uint8)

    def read(self):
        return self.retrieve() if self.grab() else (False, None)

    def get(self, _):
        return 30.0

    def release(self):
        pass


@pytest.fixture
def plug(monkeypatch):
    """plug(0, 2): the machine has these cameras."""
    monkeypatch.setattr(cameras, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(cameras, "MISS_S", 0.001)

    def plugged(*numbers, **options):
        wire = Wire(*numbers, **options)
        monkeypatch.setattr(cameras, "open_capture", wire.open)
        return wire

    return plugged


def seen(disparity=7.5, confidence=None, size=SIZE):
    shape = (size[1], size[0])
    image = np.zeros((*shape, 3), np.uint8)
    confidence = None if confidence is None else np.full(shape, confidence, np.float32)
    return Seen(Views(image, image), Result(np.full(shape, disparity, np.float32), confidence), "tiny.pt")


def flat(disparity=7.5):
    """A network that sees a wall, and no range."""
    return Estimator(lambda left, right: Estimate(np.full(left.shape[:2], disparity, np.float32)))


def wait_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_the_newest_replaces_what_was_not_taken():
    slot = Newest(every=False)
    for i in range(3):
        slot.put(i)
    assert slot.take(0) == 2 and slot.take(0.01) is None


def test_every_item_arrives_in_turn_and_the_end_after_the_last():
    slot = Newest(every=True)

    def work():
        for i in range(50):
            slot.put(i)
        slot.close(Ended("done"))

    thread = threading.Thread(target=work)
    thread.start()
    assert [slot.take(5) for _ in range(50)] == list(range(50))
    thread.join()
    with pytest.raises(Ended, match="done"):
        slot.take(5)


def test_both_cameras_are_grabbed_before_one_is_decoded(plug):
    wire = plug(0, 2)
    source = open_source("0", "2")
    source.read()
    assert wire.log == 2 * [("grab", 0), ("grab", 2), ("retrieve", 0), ("retrieve", 2)]
    assert source.live and source.size == SIZE


def test_of_cameras_only_the_newest_pair_is_kept(plug):
    wire = plug(0, 2)
    wire.pause_s = 0.001
    with Capture(open_source("0", "2"), print) as capture:
        wait_until(lambda: wire.counts[0] >= 20)
        left, right = capture.pairs.take(1)
    assert left[0, 0, 0] >= 19 and left[0, 0, 0] == right[0, 0, 0]


def test_of_files_every_pair_comes_in_turn(tmp_path):
    frames = [np.full((48, 64, 3), 2 * i, np.uint8) for i in range(100)]
    paths = [str(write_video(tmp_path / f"{eye}.mkv", frames)) for eye in ("left", "right")]
    with Capture(open_source(*paths), print) as capture:
        assert [capture.pairs.take(5).left[0, 0, 0] for _ in frames] == [2 * i for i in range(100)]
        with pytest.raises(Ended, match=r"left\.mkv and .*right\.mkv ended after 100 frames$"):
            capture.pairs.take(5)


def test_the_shorter_video_ends_the_pair(tmp_path):
    frames = [np.zeros((48, 64, 3), np.uint8)] * 5
    paths = [str(write_video(tmp_path / f"{count}.mkv", frames[:count])) for count in (5, 3)]
    with Capture(open_source(*paths), print) as capture:
        assert all(capture.pairs.take(5) for _ in range(3))
        with pytest.raises(Ended, match=r"3\.mkv ended after 3 frames$"):
            capture.pairs.take(5)


def test_halves_of_a_stream_are_the_eyes(tmp_path):
    both = np.zeros((48, 128, 3), np.uint8)
    both[:, 64:] = 200
    path = str(write_video(tmp_path / "both.mkv", [both]))
    left, right = open_source(None, None, path).first
    assert left.shape == right.shape == (48, 64, 3) and left.max() == 0 and right.min() == 200
    left, right = open_source(None, None, path, swap=True).first
    assert left.min() == 200 and right.max() == 0


def test_a_camera_that_comes_back_is_reported_once_and_the_view_goes_on(plug):
    wire, said = plug(0, 2), []
    wire.dies, wire.returns = {2: 10}, {2: 3}
    with Capture(open_source("0", "2"), said.append, patience_s=20) as capture:
        wait_until(lambda: wire.counts[2] > 30)
        assert capture.pairs.take(5).right.max() > 10 and not capture.lost
    assert len(said) == 2
    assert said[0].startswith("camera 2: no picture any more; trying again for 20 s (check its cable")
    assert said[1] == "camera 2: back after 0 s"


def test_a_camera_that_stays_away_ends_the_view_and_what_was_recorded_is_whole(plug, tmp_path):
    wire, said = plug(0, 2), []
    wire.pause_s = 0.002
    wire.dies = {0: 10}
    capture = Capture(open_source("0", "2"), said.append, patience_s=0.05)
    with pytest.raises(UserError, match=r"camera 0: lost after 9 pairs and not back within 0\.05 s; check its cable"):
        show(capture, tmp_path, recorder=Recorder(tmp_path / "view.mkv", None))
    assert len(said) == 1
    with VideoReader(tmp_path / "view.mkv") as video:
        assert len(list(video)) >= 1


def test_damaged_pictures_are_no_lost_camera(plug):
    wire, said = plug(0, 2), []
    wire.damaged = {(2, count) for count in range(5, 5 + cameras.MISSES - 1)}
    with Capture(open_source("0", "2"), said.append):
        wait_until(lambda: wire.counts[2] > 30)
    assert said == []


def test_cameras_that_are_there_are_listed(plug):
    plug(1, 3)
    found = find_cameras(5)
    assert [(camera.number, camera.size, camera.fps, camera.backend) for camera in found] == [
        (1, SIZE, 30, "WIRE"),
        (3, SIZE, 30, "WIRE"),
    ]
    assert find_cameras(1) == []


def test_sources_that_do_not_fit_are_one_line(plug, tmp_path):
    video = str(write_video(tmp_path / "a.mkv", [np.zeros((48, 64, 3), np.uint8)]))
    wide = str(write_video(tmp_path / "wide.mkv", [np.zeros((48, 80, 3), np.uint8)]))
    for left, right, said in (
        (video, wide, r"64 x 48 and 80 x 48; the views of a pair have one size"),
        (video, video, r"--left and --right are both .*a\.mkv"),
        (video, str(tmp_path / "none.mkv"), r"--right .*none\.mkv: no such file; expected the number of a camera"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(left, right)
    wire = plug(0, 2)
    with pytest.raises(UserError, match=r"camera 0 and .*a\.mkv: one is a camera, the other a file"):
        open_source("0", video)
    with pytest.raises(UserError, match=r"camera 4: cannot be opened; scripts/list_cameras\.py shows"):
        open_source("0", "4")
    wire.size = (63, 48)
    with pytest.raises(UserError, match=r"camera 0: 63 pixels wide"):
        open_source(None, None, "0")
    wire.damaged = {(0, count) for count in range(100)}
    with pytest.raises(UserError, match=r"camera 0: opens, but gives no picture; check its cable"):
        open_source("0", "2")


def test_a_device_is_its_number_and_an_address_keeps_its_secrets():
    assert Stream("--left", "/dev/video7").target == 7
    assert Stream("--left", "rtsp://me:secret@host/1").name == "rtsp://***@host/1"


def test_the_number_under_the_mouse():
    screen = Screen(CALIBRATION)
    screen.update(seen(7.5, confidence=0.42))
    assert screen.reading((3, 4)) == "(3, 4) 7.50 px, 1.000 m, 42 % sure"
    moved = seen(7.5)
    moved.result.disparity[4, 3] = 0.0
    moved.result.disparity[5, 3] = 17.5
    screen.update(moved)
    assert screen.reading((3, 4)) == "(3, 4) 0.00 px, depth unknown"
    assert screen.reading((3, 5)) == "(3, 5) 17.50 px, 0.500 m"
    bare = Screen()
    bare.update(moved)
    assert bare.reading((3, 5)) == "(3, 5) 17.50 px"


@pytest.mark.parametrize("confidence", [None, 0.5])
@pytest.mark.parametrize("width", [131, 640])
def test_places_in_the_picture_are_pixels_of_the_left_view(confidence, width):
    screen = Screen(width=width)
    screen.update(seen(confidence=confidence))
    panel_width, panel_height = (width - live.GAP) // 2, round(SIZE[1] * ((width - live.GAP) // 2) / SIZE[0])
    picture = screen.draw(None, "")
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    panels = 2 if confidence is None else 4
    assert picture.shape[1] == 2 * panel_width + live.GAP
    assert picture.shape[0] - panels // 2 * (panel_height + live.GAP) + live.GAP in (live.STRIP, live.STRIP + 1)
    for panel in range(panels):
        corner = panel % 2 * (panel_width + live.GAP), panel // 2 * (panel_height + live.GAP)
        last = corner[0] + panel_width - 1, corner[1] + panel_height - 1
        expected = ((0, 0), (63, 47)) if panel < 3 else (None, None)  # the fourth shows the other eye
        assert (screen.point_at(corner), screen.point_at(last)) == expected
    assert screen.point_at((panel_width, 5)) is None and screen.point_at((5, picture.shape[0] - 1)) is None
    x, y = panel_width + live.GAP + (40 * panel_width + panel_width // 2) // 64, (30 * panel_height + panel_height // 2) // 48
    assert screen.point_at((x, y)) == (40, 30)
    marked = screen.draw((40, 30), "")
    assert (marked[y - 1 : y + 2, x - 1 : x + 2] == live.CURSOR).all(-1).any()


def test_colours_are_of_a_range_that_was_given_or_of_what_is_seen():
    def colour(screen, disparity):
        screen.update(seen(disparity))
        return tuple(screen.draw(None, "")[200, 900].tolist())

    fixed = Screen(max_disparity=20)
    assert colour(fixed, 10) == colour(Screen(max_disparity=40), 20) != colour(fixed, 20)
    free = Screen()
    assert colour(free, 10) == colour(Screen(), 20)
    assert colour(free, 11) != colour(Screen(), 11)  # the range follows slowly
    broken = seen(float("nan"))
    free.update(broken)
    assert free.draw((1, 1), "").shape == free.draw(None, "").shape


class Keys:
    """A window: a key for each time that it is drawn, then none; asked to end, at last."""

    def __init__(self, *keys, cursor=None):
        self.keys, self.cursor, self.pictures = list(keys), cursor, []

    def show(self, picture):
        self.pictures.append(picture)
        return self.keys.pop(0) if self.keys else None


def show(capture, folder, *, estimator=None, display=None, recorder=None, frames=None, calibration=None, said=None):
    report = (lambda line: None) if said is None else said.append
    return view(
        capture,
        Looker(capture.pairs, estimator or flat(), "tiny.pt", report),
        Screen(calibration),
        display=display,
        recorder=recorder,
        snapshots=Snapshots(folder / "snapshots", calibration, {"checkpoint": "tiny.pt"}),
        frames=frames,
        report=report,
    )


def test_a_snapshot_holds_pair_disparity_and_depth(plug, tmp_path):
    plug(0, 2)
    said = []
    capture = Capture(open_source("0", "2"), said.append)
    summary = show(capture, tmp_path, display=Keys(None, "snapshot", "snapshot", "quit"), calibration=CALIBRATION, said=said)
    assert summary.reason == "quit" and summary.frames >= 1
    folders = sorted((tmp_path / "snapshots").iterdir())
    assert [f"snapshot in {folder}" for folder in folders] == said and len(folders) == 2
    names = {"left.png", "right.png", "disparity.png", "disparity.npy", "depth.png", "depth.npy", "points.ply", "colour.png"}
    assert {path.name for path in folders[0].iterdir()} == names | {"inference.json"}
    assert np.load(folders[0] / "depth.npy") == pytest.approx(1.0)
    assert json.loads((folders[0] / "inference.json").read_text())["weights"] == "tiny.pt"


def test_a_snapshot_that_cannot_be_written_does_not_end_the_view(plug, tmp_path):
    plug(0, 2)
    said = []
    (tmp_path / "snapshots").write_text("a file")
    capture = Capture(open_source("0", "2"), said.append)
    assert show(capture, tmp_path, display=Keys(None, "snapshot", "quit"), said=said).reason == "quit"
    assert len(said) == 1 and "cannot be written" in said[0]


def test_a_pause_holds_the_picture_and_no_frame_of_a_file_is_lost(tmp_path):
    frames = [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(6)]
    paths = [str(write_video(tmp_path / f"{eye}.mkv", frames)) for eye in ("left", "right")]
    keys = Keys(None, "pause", *[None] * 5, "pause")
    summary = show(Capture(open_source(*paths), print), tmp_path, display=keys)
    assert summary.frames == 6 and "ended after 6 frames" in summary.reason
    shown = [picture[100, 300, 0] for picture in keys.pictures]
    assert shown.count(shown[1]) >= 6 and set(shown) == {0, 10, 20, 30, 40, 50}


def test_what_is_wrong_with_the_pair_is_said_once(plug, tmp_path):
    plug(0, 2)
    said = []
    near = Estimator(lambda left, right: Estimate(np.full(left.shape[:2], 64, np.float32)), range_px=64)
    show(Capture(open_source("0", "2"), said.append), tmp_path, estimator=near, display=Keys(), frames=5, said=said)
    assert len(said) == 1 and said[0].startswith("warning: 100 % of the disparities reach the network's range of 64 px")


def test_an_error_in_a_thread_is_the_error_of_the_view(plug, tmp_path):
    plug(0, 2)

    def broken(left, right):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        show(Capture(open_source("0", "2"), print), tmp_path, estimator=Estimator(broken), display=Keys())
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("capture", "look")]


def test_a_recording_of_cameras_keeps_their_time(tmp_path, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    with Recorder(tmp_path / "view.mkv", None) as recorder:
        for passed in (0.0, 1.0, 0.01, 0.01):  # a second between the first two, then faster than the video
            now[0] += passed
            recorder.write(np.full((48, 64, 3), int(100 * (now[0] - 10)), np.uint8))
    with VideoReader(tmp_path / "view.mkv") as video:
        found = [frame[0, 0, 0] for frame in video]
    assert len(found) == 26 and found[0] == 0 and set(found[1:]) == {100}


def test_a_recording_that_a_full_disk_cuts_off_is_one_line(tmp_path):
    def record():
        with Recorder(tmp_path / "view.avi", 10.0) as recorder:
            for _ in range(20):
                recorder.write(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))

    with full_disk(4000), pytest.raises(UserError, match=r"view\.avi: holds \d of 20 frames"):
        record()


def test_recordings_with_other_names_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--record .*view\.gif: expected a video \(\.mp4, \.avi, \.mkv\), or a folder"):
        Recorder(tmp_path / "view.gif", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--record .*file: cannot be written"):
        Recorder(tmp_path / "file", None)


def test_what_is_read_is_not_recorded_over(tmp_path):
    for name in ("left.avi", "views/000000.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pictures")
    for record, read in (("left.avi", "left.avi"), ("views", "views/000000.png")):
        with pytest.raises(UserError, match=rf"--record .*{record}: .*{read} is read meanwhile and would be overwritten; pass another"):
            Recorder(tmp_path / record, 10.0, [tmp_path / read])
    Recorder(tmp_path, 10.0, [tmp_path / "left.avi"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(step): a step of a run is saved. run.folder: its checkpoints."""
    monkeypatch.setattr(live_watch, "POLL_S", 0.02)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoint")
    state = tiny().state_dict()

    def save(step):
        content = {"model_config": TINY, "carried": {}, "model": state}
        checkpoints.write(step, {"model": content, "optimizer": {"step": step}, "ema": content})

    save.folder = checkpoints.folder
    save(50)
    return save


def test_newer_weights_are_taken_up_and_damaged_ones_reported_once(run):
    said = []
    with Watcher(run.folder, run.folder / "00000050_ema.pt", load_trained, said.append) as watcher:
        run(100)
        wait_until(lambda: (found := watcher.take()) and found.path.name == "00000100_ema.pt")
        whole = (run.folder / "00000100_ema.pt").read_bytes()
        pointer = torch.load(run.folder / "latest.pt", weights_only=True)
        files = {name.replace("100", "150"): about for name, about in pointer["files"].items()}
        half = run.folder / "00000150_ema.pt"
        half.write_bytes(whole[: len(whole) // 2])
        (run.folder / "00000150.json").write_text(json.dumps({"step": 150, "files": files}))
        torch.save({"step": 150, "files": files}, run.folder / "latest.pt")
        wait_until(lambda: said)
        half.write_bytes(whole[: len(whole) // 3])
        time.sleep(0.2)
        assert len(said) == 1 and watcher.take() is None
        assert said[0].startswith("00000150_ema.pt is passed over, the network before it stays: ")
        assert f"found {len(whole) // 2} bytes, expected {len(whole)}" in said[0]
        half.write_bytes(whole)  # copied to its end
        wait_until(lambda: (found := watcher.take()) and found.path.name == "00000150_ema.pt")
    assert len(said) == 1


def test_damage_without_a_record_is_found_too(run):
    said = []
    with Watcher(run.folder, run.folder / "00000050_ema.pt", load_trained, said.append) as watcher:
        (run.folder / "00000100.pt").write_bytes((run.folder / "00000050.pt").read_bytes()[:300])
        torch.save({"step": 100, "files": {"00000100.pt": {}}}, run.folder / "latest.pt")
        wait_until(lambda: said)
        assert "not a readable weight file" in said[0] and watcher.take() is None
        (run.folder / "latest.pt").write_bytes(b"half")
        wait_until(lambda: len(said) == 2)
        assert said[1].startswith("latest.pt is passed over") and watcher.take() is None


def test_networks_change_between_pairs(run):
    said, pairs, image = [], Newest(every=False), np.zeros((48, 64, 3), np.uint8)
    networks = {"00000050_ema.pt": flat(5), "00000100_ema.pt": flat(9)}
    watcher = Watcher(run.folder, run.folder / "00000050_ema.pt", lambda path: networks[path.name], said.append)
    looker = Looker(pairs, networks["00000050_ema.pt"], "00000050_ema.pt", said.append, watcher=watcher)
    with watcher, looker:
        pairs.put(Views(image, image))
        first = looker.seen.take(5)
        assert (first.weights, first.result.disparity[0, 0]) == ("00000050_ema.pt", 5)
        run(100)
        wait_until(lambda: said)
        pairs.put(Views(image, image))
        second = looker.seen.take(5)
        assert (second.weights, second.result.disparity[0, 0]) == ("00000100_ema.pt", 9)
    assert said == ["00000100_ema.pt is in use from here on"]


def test_a_bug_in_loading_is_no_damaged_file(run):
    def broken(path):
        raise ZeroDivisionError("a bug")

    said = []
    with Watcher(run.folder, run.folder / "00000050_ema.pt", broken, said.append) as watcher:
        run(100)
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: watcher.take())
    assert said == []


def test_what_can_be_watched(run, tmp_path):
    for place in (run.folder, run.folder.parent):
        assert watched_folder(str(place)) == run.folder
    with pytest.raises(UserError, match=r"00000050\.pt is one file; pass the workspace"):
        watched_folder(str(run.folder / "00000050.pt"))
    with pytest.raises(UserError, match="no run that saves steps on this machine"):
        watched_folder(str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        watched_folder(str(tmp_path / "none"))
