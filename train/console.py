"""How a run speaks to the terminal: log lines that do not tear the progress bar, from the first process only."""

import atexit
import logging
import os
import sys
import warnings
from contextlib import suppress

from tqdm import tqdm


class _BesideTheBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """A line that nobody takes, of a closed pipe or a full disk, is lost; the run goes on."""
        line = self.format(record)
        with suppress(OSError, ValueError):
            tqdm.write(line)
            sys.stdout.flush()


def configure_logging() -> None:
    """Information from the first process, warnings from all; other libraries' warnings as log lines."""
    rank = int(os.environ.get("RANK", "0"))
    handler = _BesideTheBar()
    mark = f"[process {rank}] " if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {mark}%(message)s", "%H:%M:%S"))
    logger = logging.getLogger("stereofoundry")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if rank else logging.INFO)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*", category=UserWarning)
    atexit.unregister(_part)
    atexit.register(_part)


def _part() -> None:
    """What is still to be said and cannot be would make Python's own last flush fail, and the exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
