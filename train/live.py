"""The live view without its window: pairs in, pictures out, and what keys do to them. Where pairs come from is in `cameras`, the window in
`live_window`, newer weights in `live_watch`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np

from train.cameras import Capture, Views
from train.handover import Ended, Newest
from train.inference import Estimator, Result
from train.inference_checks import check_range, check_views
from train.inference_output import Output, depth_of, pose_record
from train.inference_pairs import Pair
from train.live_watch import Watcher
from utils.calibration import Calibration
from utils.errors import UserError
from utils.geometry import resize_image
from utils.images import write_image
from utils.rectification import Rectification
from utils.video import CODECS, VideoWriter, is_video
from utils.visualize import caption, colorize_disparity, tile

Report = Callable[[str], object]
Point = tuple[int, int]  # (x, y)
GAP, STRIP = 2, 32  # pixels between panels, and of the line of text below them
LABEL, CURSOR = (255, 255, 255), (255, 0, 255)  # colours
SMOOTH = 0.9  # of the range of colours, which would flicker if every picture had its own
FRAMES_FOR_RATE = 30
AWAKE_S, WAIT_S = 0.05, 0.2  # for the next result: with a window, which follows the mouse meanwhile, and without
CAMERA_FPS = 25.0  # of a recording of cameras, whose pictures come when they come
MOST_REPEATS = 250


@dataclass(frozen=True, eq=False)
class Seen:
    """A rectified pair and what the network of file `weights` found in it."""

    views: Views
    result: Result
    weights: str


class Looker:
    """Looks at the newest pair in a thread of its own: rectifies it, asks the network, the newest where there is a `watcher`. The window
    stays awake meanwhile. seen: what was found, one after the other.
    """

    def __init__(
        self,
        pairs: Newest[Views],
        estimator: Estimator,
        weights: str,
        report: Report,
        *,
        rectification: Rectification | None = None,
        watcher: Watcher[Estimator] | None = None,
    ) -> None:
        self.seen: Newest[Seen] = Newest(every=True)
        self._pairs, self._estimator, self._weights, self._report = pairs, estimator, weights, report
        self._rectification, self._watcher = rectification, watcher
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pairs.close(Ended("stopped"))
        self.seen.close(Ended("stopped"))
        self._thread.join()

    def _run(self) -> None:
        first = True
        try:
            while True:
                views = self._pairs.take(WAIT_S)
                if self._watcher is not None and (newer := self._watcher.take()) is not None:
                    self._estimator, self._weights = newer.network, newer.path.name
                    self._report(f"{self._weights} is in use from here on")
                if views is None:
                    continue
                if self._rectification is not None:
                    views = Views(*self._rectification(*views))
                result = self._estimator(*views)
                if first:
                    found = check_views(*views) | check_range(result.disparity, self._estimator.limit_px)
                    for sentence in found.values():
                        self._report(f"warning: {sentence}")
                first = False
                self.seen.put(Seen(views, result, self._weights))
        except Exception as error:  # is raised where results are taken
            self.seen.close(error)


class Screen:
    """Pictures of what was seen: left view and disparity, confidence and right view below where there is a confidence, a line of text."""

    def __init__(self, calibration: Calibration | None = None, *, width: int = 1280, max_disparity: float | None = None) -> None:
        """width: of the pictures, about. max_disparity: of the colours, in pixels; without it they follow what is seen."""
        self._calibration, self._width, self._fixed = calibration, width, max_disparity
        self._top: float | None = None
        self._seen: Seen | None = None
        self._panels: list[np.ndarray] = []

    def update(self, seen: Seen) -> None:
        """What `draw` is to show."""
        disparity, confidence = seen.result.disparity, seen.result.confidence
        sample = disparity[::4, ::4]
        if (sample := sample[np.isfinite(sample)]).size:
            brightest = 1.1 * float(np.percentile(sample, 99.5))
            self._top = brightest if self._top is None else SMOOTH * self._top + (1 - SMOOTH) * brightest
        panels = {"left": seen.views.left, "disparity": colorize_disparity(disparity, None, self._fixed or self._top)}
        if confidence is not None:
            panels |= {"confidence": colorize_disparity(confidence, None, 1.0), "right": seen.views.right}
        self._seen = seen
        self._panels = [_labelled(resize_image(panel, self._panel_size), name) for name, panel in panels.items()]

    def draw(self, point: Point | None, status: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB, sides even. point: the pixel of the left view whose numbers are shown, after `status`."""
        assert self._seen is not None, "nothing was seen yet"
        picture = tile(self._panels, 2, GAP)
        if point is not None:
            status = f"{status} | {self.reading(point)}"
            for index in range(min(3, len(self._panels))):  # the fourth is of the other eye
                cv2.drawMarker(picture, self._position(point, index), CURSOR, cv2.MARKER_CROSS, 13, 1)
        strip = caption(STRIP + picture.shape[0] % 2, picture.shape[1], [status])
        return np.vstack([picture, strip])

    def reading(self, point: Point) -> str:
        """Disparity, depth and confidence at a pixel, in words."""
        assert self._seen is not None, "nothing was seen yet"
        x, y = point
        result = self._seen.result
        words = [f"({x}, {y}) {result.disparity[y, x]:.2f} px"]
        if self._calibration is not None:
            depth = float(depth_of(Result(result.disparity[y : y + 1, x : x + 1]), self._calibration)[0, 0])
            words.append(f"{depth:.3f} m" if depth > 0 else "depth unknown")
        if result.confidence is not None:
            words.append(f"{100 * result.confidence[y, x]:.0f} % sure")
        return ", ".join(words)

    def point_at(self, position: Point) -> Point | None:
        """The pixel of the left view that a place in the picture shows; None on gaps, text and the right view."""
        width, height = self._panel_size
        (column, x), (row, y) = divmod(position[0], width + GAP), divmod(position[1], height + GAP)
        if x >= width or y >= height or row * 2 + column >= min(3, len(self._panels)) or column > 1:
            return None
        across, down = self._image_size
        return int((x + 0.5) * across / width), int((y + 0.5) * down / height)

    @property
    def middle(self) -> Point:
        return self._image_size[0] // 2, self._image_size[1] // 2

    def _position(self, point: Point, index: int) -> Point:
        (width, height), (across, down) = self._panel_size, self._image_size
        x, y = int((point[0] + 0.5) * width / across), int((point[1] + 0.5) * height / down)
        return x + index % 2 * (width + GAP), y + index // 2 * (height + GAP)

    @property
    def _image_size(self) -> Point:
        assert self._seen is not None, "nothing was seen yet"
        height, width = self._seen.views.left.shape[:2]
        return width, height

    @property
    def _panel_size(self) -> Point:
        across, down = self._image_size
        width = max(1, (self._width - GAP) // 2)
        return width, max(1, round(down * width / across))


def _labelled(panel: np.ndarray, name: str) -> np.ndarray:
    panel = panel.copy()
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    cv2.rectangle(panel, (0, 0), (width + 12, height + 12), (0, 0, 0), cv2.FILLED)
    cv2.putText(panel, name, (6, height + 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, LABEL, 1, cv2.LINE_AA)
    return panel


class Recorder:
    """What is shown as a video (.mp4, .avi, .mkv) or, with any other name, as PNG files in a folder."""

    def __init__(self, path: Path, fps: float | None, inputs: Sequence[Path] = ()) -> None:
        """fps: of pictures that come one by one, from files; None for cameras, whose pictures a video repeats to keep their time.

        inputs: files that are read meanwhile, and are not to be written.
        """
        for file in inputs:
            target = file if is_video(file) else file.parent  # OpenCV reads numbered pictures as a video
            if path.exists() and (path.samefile(file) or path.samefile(target)):
                raise UserError(f"--record {path}: {file} is read meanwhile and would be overwritten; pass another file or folder")
        self.path, self._in_time = path, fps is None
        self._fps = fps or CAMERA_FPS
        self._count, self._start = 0, 0.0
        self._video = VideoWriter(path, self._fps) if path.suffix.lower() in CODECS else None
        if self._video is None and path.suffix and not path.is_dir():
            raise UserError(f"--record {path}: expected a video ({', '.join(CODECS)}), or a folder for pictures")
        try:
            (path if self._video is None else path.parent).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--record {path}: cannot be written ({error.strerror})") from None

    def write(self, picture: np.ndarray) -> None:
        try:
            if self._video is None:
                write_image(self.path / f"{self._count:06d}.png", picture)
                self._count += 1
                return
            now = time.monotonic()
            self._start = self._start or now
            due = round((now - self._start) * self._fps) + 1 - self._count if self._in_time else 1
            for _ in range(min(due, MOST_REPEATS)):
                self._video.write(picture)
            self._count += max(due, 0)
        except OSError as error:
            raise UserError(f"--record {self.path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._video is not None:
            self._video.__exit__(*error)


class Display(Protocol):
    """See `live_window.Window`."""

    cursor: Point | None

    def show(self, picture: np.ndarray) -> str | None: ...


@dataclass
class Snapshots:
    """Pair, disparity, depth and points of a moment, each in a folder of its own below `folder`."""

    folder: Path
    calibration: Calibration | None
    about: dict[str, Any]
    count: int = 0

    def write(self, seen: Seen) -> Path:
        """The new folder. Raises OSError."""
        self.count += 1
        output = Output(self.folder / f"{time.strftime('%Y%m%d_%H%M%S')}_{self.count:03d}")
        pair = Pair("", seen.views.left, seen.views.right, "live")
        output.write(pair, seen.result, self.calibration, rectified=True)
        output.close({**self.about, "weights": seen.weights, "pose": pose_record(seen.result.pose)})
        return output.folder


@dataclass
class Summary:
    """Of a view that ended, and why."""

    frames: int = 0
    seconds: float = 0.0
    reason: str = ""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=FRAMES_FOR_RATE))

    def count(self) -> None:
        self.frames += 1
        self._times.append(time.monotonic())

    @property
    def rate(self) -> float:
        """Pairs per second of late, 0 before there are two."""
        passed = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / passed if passed else 0.0


def view(
    capture: Capture,
    looker: Looker,
    screen: Screen,
    *,
    display: Display | None,
    recorder: Recorder | None,
    snapshots: Snapshots,
    frames: int | None,
    report: Report,
) -> Summary:
    """Show, record, obey keys, until `frames` pairs were shown, the source ends, or the user does. Raises what ended it otherwise."""
    summary, start, seen, paused = Summary(), time.monotonic(), None, False
    with capture, looker, ExitStack() as stack:
        if recorder is not None:
            stack.enter_context(recorder)
        try:
            while not summary.reason:
                new = None if paused else looker.seen.take(WAIT_S if display is None else AWAKE_S)
                if new is not None:
                    seen = new
                    screen.update(seen)
                    summary.count()
                if seen is None or (new is None and display is None):
                    continue
                notes = [f"{summary.rate:.1f} pairs/s", seen.weights, *(["paused"] if paused else [])]
                notes += [f"{capture.lost} lost"] if capture.lost else []
                cursor = None if display is None else display.cursor
                picture = screen.draw(screen.middle if cursor is None else screen.point_at(cursor), " | ".join(notes))
                if recorder is not None and new is not None:
                    recorder.write(picture)
                key = None if display is None else display.show(picture)
                paused ^= key == "pause"
                if key == "snapshot":
                    try:
                        report(f"snapshot in {snapshots.write(seen)}")
                    except OSError as error:
                        report(f"--snapshots {snapshots.folder}: cannot be written ({error.strerror})")
                if key == "quit" or (new is not None and summary.frames == frames):
                    summary.reason = "quit" if key == "quit" else f"{frames} were asked for"
        except Ended as end:
            summary.reason = str(end)
        except KeyboardInterrupt:
            summary.reason = "interrupted"
    summary.seconds = time.monotonic() - start
    return summary
