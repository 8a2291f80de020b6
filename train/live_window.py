"""The window of the live view: pictures out, keys and the mouse in. Nothing else in the house opens one."""

import os
import subprocess
import sys
from typing import Self

import cv2
import numpy as np

from utils.errors import UserError

TITLE = "StereoFoundry"
PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
KEYS = {ord("q"): "quit", 27: "quit", ord("s"): "snapshot", ord(" "): "pause"}
WAIT_MS = 5  # for a key; the window itself is drawn in this time
FURTHER = "connect with a display (ssh -X, a desktop), or use --record FILE, which needs none"


def check_window() -> None:
    """Raises UserError where no window can be opened. Tried in a process of its own, as Qt ends the one that asks in vain."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"no display (DISPLAY is not set), so no window can be opened; {FURTHER}")
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, errors="replace", timeout=60)
    except subprocess.TimeoutExpired:
        raise UserError(f"the display does not answer, so no window can be opened; {FURTHER}") from None
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())
    if "not implemented" in said:
        raise UserError(
            "OpenCV was installed without windows (opencv-python-headless, most likely); install opencv-python in its place, or use "
            "--record FILE, which needs none"
        )
    raise UserError(f"no window can be opened ({said[:200] or f'exit status {done.returncode}'}); {FURTHER}")


class Window:
    """`key = window.show(picture)`. cursor: (x, y) of the mouse in the picture, None before it was there."""

    def __init__(self) -> None:
        self.cursor: tuple[int, int] | None = None
        self._shown = False

    def __enter__(self) -> Self:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(TITLE, self._moved)
        return self

    def show(self, picture: np.ndarray) -> str | None:
        """uint8 (H, W, 3) RGB. What the user asks for: one of `KEYS`, None where nothing. A window that was closed is `quit`."""
        if not self._shown:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
        elif cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return "quit"
        self._shown = True
        cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return KEYS.get(cv2.waitKey(WAIT_MS) & 0xFF)

    def _moved(self, event: int, x: int, y: int, *_: object) -> None:
        self.cursor = x, y

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()
