"""Pairs of pictures as they come: from two cameras, two videos, or one stream that shows both views, and from a thread of its own. What is
done with them is in `live`; videos whose every frame becomes files are for `inference_pairs`.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np

from train.handover import Ended, Newest
from train.inference_pairs import halves
from utils.errors import UserError
from utils.scrub import scrub
from utils.video import quiet

Report = Callable[[str], object]
DEVICE = re.compile(r"/dev/video(\d+)")
MISSES = 10  # pictures in a row that a camera may fail to give; one that is damaged on the way is no lost camera
MISS_S, RETRY_EVERY_S = 0.02, 1.0
NUMBERS = 10  # cameras that are looked for
WAIT_S = 2.0  # for a thread that hangs in a driver; it does not keep the program from ending


class Views(NamedTuple):
    """uint8 (H, W, 3) RGB of one size, taken at the same time as far as the cameras allow."""

    left: np.ndarray
    right: np.ndarray


def open_capture(target: int | str, size: tuple[int, int] | None) -> cv2.VideoCapture:
    """target: a camera's number, a file or an address. size: (width, height) that a camera is asked for."""
    with quiet():
        capture = cv2.VideoCapture(target)
        if isinstance(target, int) and capture.isOpened():
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # two cameras without it are too much for one USB bus
            if size is not None:
                capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
                capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # pictures that wait are old ones
    return capture


class Stream:
    """One camera, video file or address. live: what is not taken in time is gone, and what is lost may come back."""

    def __init__(self, option: str, spec: str, size: tuple[int, int] | None = None) -> None:
        """Raises UserError, beginning with `option`, for what is none of these."""
        self.size = size
        path = Path(spec).expanduser()
        device = DEVICE.fullmatch(str(path.resolve()))
        if spec.isdigit() or device:
            self.target: int | str = int(device[1] if device else spec)
            self.name = f"camera {self.target}"
        elif "://" in spec:
            self.target, self.name = spec, scrub(spec)
        elif path.is_file():
            self.target, self.name = str(path), str(path)
        else:
            raise UserError(
                f"{option} {spec}: no such file; expected the number of a camera (scripts/list_cameras.py shows them), a video, or an "
                "address such as rtsp://..."
            )
        self.live = isinstance(self.target, int) or "://" in spec
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> bool:
        self.close()
        self._capture = open_capture(self.target, self.size)
        return self._capture.isOpened()

    @property
    def fps(self) -> float:
        """Frames per second as it says itself, 0 where it does not."""
        return 0.0 if self._capture is None else max(0.0, float(self._capture.get(cv2.CAP_PROP_FPS)))

    @property
    def frames(self) -> int:
        """How many a video says it has, 0 where it does not."""
        return 0 if self._capture is None or self.live else max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def grab(self) -> bool:
        """Take a picture, without the time that decoding it needs."""
        return self._capture is not None and self._capture.grab()

    def retrieve(self) -> np.ndarray | None:
        """The picture that was taken, uint8 (H, W, 3) RGB."""
        assert self._capture is not None, "nothing was grabbed"
        done, frame = self._capture.retrieve()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if done and frame is not None and frame.ndim == 3 else None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None


class Source:
    """Two streams, or one whose halves are the views. swap: left and right are exchanged. failed: what gave nothing at the last `read`."""

    def __init__(self, streams: Sequence[Stream], *, swap: bool = False) -> None:
        """Opens them and reads the first pair, `first`. Raises UserError."""
        self.streams, self.swap, self.live = streams, swap, streams[0].live
        self.failed: list[Stream] = []
        self._size: tuple[int, int] | None = None
        if len({stream.live for stream in streams}) == 2:
            raise UserError(f"{streams[0].name} and {streams[1].name}: one is a camera, the other a file; expected two of a kind")
        if len(streams) == 2 and streams[0].target == streams[1].target:
            raise UserError(f"--left and --right are both {streams[0].name}; pass the other eye too, or --side_by_side for one with both")
        try:
            for stream in streams:
                if not stream.open():
                    raise UserError(_cannot_open(stream))
            first = self.read()
            if first is None:
                raise UserError(f"{self.failed[0].name}: opens, but gives no picture; {_advice(self.failed[0])}")
            self.first: Views = first
        except UserError:
            self.close()
            raise

    @property
    def fps(self) -> float:
        return self.streams[0].fps

    @property
    def files(self) -> list[Path]:
        """What is read from; none of cameras and addresses."""
        return [] if self.live else [Path(stream.target) for stream in self.streams if isinstance(stream.target, str)]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of one view."""
        return self.first.left.shape[1], self.first.left.shape[0]

    def read(self) -> Views | None:
        """The next pair: taken from both before one is decoded, so that little time lies between. None where a stream gave nothing, a
        camera `MISSES` times in a row, or for `WAIT_S`. Raises UserError where sizes differ, or change.
        """
        start = time.monotonic()
        for _ in range(MISSES if self.live else 1):
            taken = [stream.grab() for stream in self.streams]
            images = [stream.retrieve() if done else None for stream, done in zip(self.streams, taken, strict=True)]
            self.failed = [stream for stream, image in zip(self.streams, images, strict=True) if image is None]
            if not self.failed:
                return self._views([image for image in images if image is not None])
            if time.monotonic() - start > WAIT_S:  # a driver's own patience is ten seconds
                break
            if self.live:
                time.sleep(MISS_S)
        return None

    def _views(self, images: list[np.ndarray]) -> Views:
        names = " and ".join(stream.name for stream in self.streams)
        if len({image.shape for image in images}) == 2:
            sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]}" for image in images)
            raise UserError(f"{names}: {sizes}; the views of a pair have one size (for cameras, see --camera_size)")
        size = images[0].shape[1], images[0].shape[0]
        if self._size is not None and self._size != size:
            raise UserError(f"{names}: pictures of {size[0]} x {size[1]} after those of {self._size[0]} x {self._size[1]}; start again")
        self._size = size
        left, right = images if len(images) == 2 else halves(images[0], names)
        return Views(right, left) if self.swap else Views(left, right)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


def open_source(
    left: str | None, right: str | None, side_by_side: str | None = None, *, swap: bool = False, camera_size: tuple[int, int] | None = None
) -> Source:
    """As the options say. Raises UserError for what is missing, too much, cannot be opened or gives no pictures of one size."""
    if side_by_side is not None:
        if left is not None or right is not None:
            raise UserError("--side_by_side: holds both views, so --left and --right do not go with it; leave them out")
        return Source([Stream("--side_by_side", side_by_side, camera_size)], swap=swap)
    if left is None or right is None:
        missing = "--right" if right is None else "--left"
        raise UserError(f"{missing}: not given; pass --left and --right (cameras such as 0 and 2, or videos), or --side_by_side")
    return Source([Stream("--left", left, camera_size), Stream("--right", right, camera_size)], swap=swap)


class Capture:
    """Reads `source` in a thread of its own into `pairs`: of cameras the newest one, of files every one, in their own time if `paced`.

    A camera that is lost is reported, and waited for; after `patience_s` `pairs` ends in a UserError.
    """

    def __init__(self, source: Source, report: Report, *, paced: bool = False, patience_s: float = 30.0) -> None:
        self.pairs: Newest[Views] = Newest(every=not source.live)
        self.lost = ""  # names of the cameras that are waited for
        self._source, self._report, self._patience_s = source, report, patience_s
        self._every_s = 1 / source.fps if paced and not source.live and source.fps else 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.pairs.close(Ended("stopped"))
        self._thread.join(WAIT_S)
        if not self._thread.is_alive():  # a capture that another thread is waiting in must not be released
            self._source.close()

    def _run(self) -> None:
        views, count = self._source.first, 0
        try:
            while not self._stop.is_set():
                start = time.monotonic()
                self.pairs.put(views)
                count += 1
                following = self._source.read() or self._wait(count)
                self._stop.wait(max(0.0, self._every_s - (time.monotonic() - start)))
                views = following
        except Exception as error:  # is raised where pairs are taken
            self.pairs.close(error)

    def _wait(self, count: int) -> Views:
        """The first pair after some camera failed. Raises Ended at the end of files, UserError where it does not come back."""
        names = " and ".join(stream.name for stream in self._source.failed)
        if not self._source.live:
            expected = min(stream.frames for stream in self._source.streams)
            raise Ended(f"{names} ended after {count} frames" + (f" of {expected}" if expected > count else ""))
        self.lost, start = names, time.monotonic()
        self._report(f"{names}: no picture any more; trying again for {self._patience_s:g} s ({_advice(self._source.failed[0])})")
        while time.monotonic() - start < self._patience_s and not self._stop.wait(RETRY_EVERY_S):
            for stream in self._source.failed:
                stream.open()
            views = self._source.read()
            if views is not None:
                self.lost = ""
                self._report(f"{names}: back after {time.monotonic() - start:.0f} s")
                return views
        raise UserError(f"{names}: lost after {count} pairs and not back within {self._patience_s:g} s; {_advice(self._source.failed[0])}")


@dataclass(frozen=True)
class Camera:
    """One that is there. size: (width, height), None where it opens and gives no picture; fps: as it says itself, 0 where it does not."""

    number: int
    size: tuple[int, int] | None
    fps: float
    backend: str


def find_cameras(numbers: int = NUMBERS) -> list[Camera]:
    """Every camera with a number below `numbers` that can be opened."""
    found = []
    for number in range(numbers):
        capture = open_capture(number, None)
        if capture.isOpened():
            done, frame = capture.read()
            size = (frame.shape[1], frame.shape[0]) if done else None
            found.append(Camera(number, size, max(0.0, float(capture.get(cv2.CAP_PROP_FPS))), capture.getBackendName()))
        capture.release()
    return found


def _cannot_open(stream: Stream) -> str:
    if isinstance(stream.target, int):
        return f"{stream.name}: cannot be opened; scripts/list_cameras.py shows those that can, and another program may be using it"
    if stream.live:
        return f"{stream.name}: cannot be opened; is the address right, and does the camera answer?"
    return f"{stream.name}: cannot be opened as a video; it is damaged, or OpenCV has no decoder for it"


def _advice(stream: Stream) -> str:
    if isinstance(stream.target, int):
        return "check its cable; two cameras on one USB bus may need a smaller --camera_size"
    return "check the connection" if stream.live else "it is empty or damaged"
