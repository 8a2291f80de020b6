"""A run that is training while its network is in use: newer weights are loaded by a thread of their own, damaged ones passed over. What
weights are and how they are read is in `load` and in `core.weight_files`.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

import torch

from core.weight_files import POINTER, newest_weights
from train.handover import Newest
from train.load import find_weights
from utils.errors import UserError

Network = TypeVar("Network")
Report = Callable[[str], object]
State = tuple[tuple[str, int, int], ...]
POLL_S = 1.0


class Newer(NamedTuple, Generic[Network]):
    """What was loaded, and the file that it is from."""

    network: Network
    path: Path


def watched_folder(spec: str) -> Path:
    """Where the weights that `spec` names (see `load.find_weights`) appear. Raises UserError where none will."""
    path = Path(spec).expanduser()
    if path.is_file():
        raise UserError(f"--watch_checkpoint: {spec} is one file; pass the workspace of the run that is training, or its --run_id")
    if not path.exists():
        with find_weights(spec) as found:
            path = found.parent
    folder = path / "checkpoint" if (path / "checkpoint").is_dir() else path
    if not (folder / POINTER).is_file():
        raise UserError(f"--watch_checkpoint {spec}: no run that saves steps on this machine (looked for {folder / POINTER})")
    return folder


class Watcher(Generic[Network]):
    """Loads what appears in `folder` after `path` by `load`, in a thread of its own; `take` gives the newest of it.

    Files are left alone until two looks find them the same: what is being copied is not damaged. Each file that cannot be used is reported
    once, and the network before it stays.
    """

    def __init__(self, folder: Path, path: Path, load: Callable[[Path], Network], report: Report) -> None:
        """path: the weights that are in use."""
        self._folder, self._load, self._report = folder, load, report
        self._current = path.resolve()
        self._named: set[str] = set()
        self._found: Newest[Newer[Network]] = Newest(every=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> Newer[Network] | None:
        """What is newer than the last that was taken; None where nothing is."""
        return self._found.take(0)

    def _run(self) -> None:
        before, tried = None, None
        try:
            while not self._stop.is_set():
                now = _state(self._folder)
                if now == before and now != tried:
                    tried = now
                    self._look()
                before = now
                self._stop.wait(POLL_S)
        except Exception as error:  # is raised where networks are taken
            self._found.close(error)

    def _look(self) -> None:
        pointer = self._folder / POINTER
        path = pointer
        try:
            path = newest_weights(self._folder)
            if path.resolve() == self._current:
                return
            self._found.put(Newer(self._load(path), path))
            self._current = path.resolve()
        except (UserError, OSError, torch.OutOfMemoryError) as error:
            if str(path) not in self._named:
                self._named.add(str(path))
                self._report(f"{path.name} is passed over, the network before it stays: {' '.join(str(error).split())}")


def _state(folder: Path) -> State:
    """Name, time and size of all files with weights; it is another one once any of them was touched."""
    found = []
    for path in sorted(folder.glob("*.pt")):
        try:
            status = path.stat()
        except OSError:  # pruned in the meantime
            continue
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)
