"""Video files frame by frame, RGB. Cameras and windows are not for here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from utils.errors import UserError

SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "FFV1"}  # that OpenCV's wheels write on every platform


@contextmanager
def quiet() -> Iterator[None]:
    """What OpenCV and FFmpeg have to say about what cannot be opened is left to one line of ours."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, at the first file
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


class VideoReader:
    """`for frame in reader`: uint8 (H, W, 3) RGB. frames: how many the file says it has, 0 where it does not; fps likewise."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a video")
        self.path = path
        with quiet():
            self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UserError(f"{path}: cannot be opened as a video; it is damaged, or OpenCV has no decoder for it")
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.fps = max(0.0, float(self._capture.get(cv2.CAP_PROP_FPS)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames from here on, up to the end of the file or of what can be decoded."""
        while True:
            done, frame = self._capture.read()
            if not done:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stored_frames(path: Path) -> int:
    """How many frames a file holds, which are counted and not decoded; 0 where it cannot be opened."""
    with quiet():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        try:
            return sum(1 for _ in iter(capture.grab, False))
        finally:
            capture.release()


class VideoWriter:
    """`write` frames of one size, uint8 (H, W, 3) RGB; the codec follows the name (.mp4, .avi, .mkv without loss). Size is the first's."""

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in CODECS:
            raise UserError(f"{path}: cannot be written as {path.suffix or 'a file without suffix'}; expected one of {', '.join(CODECS)}")
        self.path, self.fps = path, fps
        self._writer: cv2.VideoWriter | None = None
        self._size, self._count = (0, 0), 0

    def write(self, frame: np.ndarray) -> None:
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            with quiet():
                self._writer, self._size = cv2.VideoWriter(str(self.path), code, self.fps, size), size
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: cannot be written as a video of {size[0]} x {size[1]}; is the folder there and writable?")
        assert size == self._size, f"frames of {self._size} and {size} in one video"
        self._count += 1
        with quiet():
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Raises UserError where frames did not reach the file: OpenCV says nothing of a disk that is full."""
        if self._writer is None:
            return
        self._writer.release()
        if (found := stored_frames(self.path)) != self._count:
            raise UserError(
                f"{self.path}: holds {found} of {self._count} frames; most likely the disk is full: make room, or pass another place"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:  # what went wrong is known already
            self._writer.release()
