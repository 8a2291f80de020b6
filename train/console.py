"""How a run speaks to the terminal: log lines that do not tear the progress bar, from the first process only."""

import logging
import os
import warnings

from tqdm import tqdm


class _BesideTheBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


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
