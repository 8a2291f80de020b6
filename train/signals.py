"""Signals that end a run after the step it is in. What is saved then, and what is said, is the loop's business."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """While entered: SIGTERM, SIGINT and SIGUSR1 are noted, and a second SIGINT raises KeyboardInterrupt wherever the process is.

    All processes stop after the same step, whichever of them was told to: `spread` before an update and `agreed` after it, on all alike.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._told: Tensor | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None or number == signal.SIGINT:
            self.received = signal.Signals(number)
        text = "the run ends after this step" + ("; once more ends it at once, without saving" if number == signal.SIGINT else "")
        with contextlib.suppress(OSError):  # not through the logger, whose locks and buffers the main thread may be holding
            os.write(2, f"\n{signal.Signals(number).name}: {text}\n".encode())

    def spread(self, accelerator: Accelerator) -> None:
        """Tell the other processes. Nothing waits: `agreed` reads the sum, which has arrived once the update has read its gradient norm."""
        if accelerator.num_processes > 1:
            mine = torch.full((1,), float(self.received is not None), device=accelerator.device)
            self._told = accelerator.reduce(mine, "sum").to("cpu", non_blocking=True)

    def agreed(self) -> bool:
        """Whether to stop now; on several processes, whether any had been told to before the last `spread`."""
        return self.received is not None if self._told is None else bool(self._told)


def ignore_stop_signals() -> None:
    """For loading processes. They get the signals that are meant for the one they load for, which says when they end."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
