"""How the state of a run reaches the disk while the loop goes on. What a checkpoint is as files is in `checkpoint`, what it holds in
`loop`.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.weight_export import pack
from train.checkpoint import Checkpoint, Checkpoints
from train.config import CheckpointsConfig
from utils.errors import UserError
from utils.files import write_atomic

log = logging.getLogger("stereofoundry")

Parts = Mapping[str, Mapping[str, Any]]


class Saver:
    """Writes checkpoints behind the loop: the state is copied at once, a thread writes the copy, one step at a time.

    A disk that is full or closed does not stop the run: the copy of the last step that could not be written is kept, the next `save` takes
    its place, and `finish` tries once more. `published` is called by the thread after each step that was written, before older ones go.
    Weights that were the best so far when they were measured are held until a step is written, which takes them along.
    """

    def __init__(self, checkpoints: Checkpoints, keep: CheckpointsConfig, published: Callable[[Checkpoint], None]) -> None:
        self.newest: Checkpoint | None = None
        self._checkpoints, self._keep, self._published = checkpoints, keep, published
        self._snapshot, self._snapshot_of_best = Snapshot(), Snapshot()
        self._unsaved: tuple[int, Parts] | None = None
        self._best: Mapping[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._bug: BaseException | None = None

    def save(self, step: int, parts: Parts) -> None:
        """Returns once the state is copied. Waits before that for the step that is being written."""
        self.wait()
        self._unsaved = step, self._snapshot.take(parts)
        self._thread = threading.Thread(target=self._write, name="checkpoint writer", daemon=True)  # a second Ctrl-C does not wait for it
        self._thread.start()

    def hold(self, best: Mapping[str, Any]) -> None:
        """Weights in place of those held before. Returns once they are copied, and waits as `save` does."""
        self.wait()
        self._best = self._snapshot_of_best.take(best)

    def wait(self) -> None:
        """Until nothing is being written. Raises what no disk can cause."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._bug is not None:
            raise self._bug

    def finish(self) -> None:
        """Wait for the last step, and try again where it could not be written. Raises UserError when it still cannot."""
        self.wait()
        if self._unsaved is None:
            if self._best is not None and self.newest is not None and self._best["step"] == self.newest.step:  # measured after it was saved
                self._write_best(self.newest, self._best)
            return
        step = self._unsaved[0]
        self._write()
        self.wait()
        if self._unsaved is not None:
            newest = f"the newest complete one is of step {self.newest.step}" if self.newest else "there is no other"
            raise UserError(
                f"{self._checkpoints.folder}: the last checkpoint, of step {step}, cannot be written; {newest}; make room and continue "
                "with --checkpoint latest"
            )

    def _write_best(self, checkpoint: Checkpoint, best: Mapping[str, Any]) -> None:
        try:
            write_atomic(checkpoint.path("best"), pack(best))
        except OSError as error:
            log.warning("%s: cannot be written (%s)", checkpoint.path("best"), error.strerror or error)

    def _write(self) -> None:
        assert self._unsaved is not None
        step, parts = self._unsaved
        try:
            self.newest = self._checkpoints.write(step, parts if self._best is None else {**parts, "best": self._best})
            self._unsaved = self._best = None
            self._published(self.newest)
            self._checkpoints.prune(self._keep.keep_last, self._keep.keep_every)
        except OSError as error:
            what = "older checkpoints cannot be deleted" if self._unsaved is None else f"the checkpoint of step {step} cannot be written"
            left = f"the newest complete one is of step {self.newest.step}" if self.newest else "none is complete yet"
            log.warning("%s (%s); the run goes on and tries again with the next, %s", what, error.strerror or error, left)
        except BaseException as error:
            self._bug = error


class Snapshot:
    """Copies of a nested state on the CPU. Their memory is used again by the next copy: fresh memory costs more time than copying."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def take(self, state: Any) -> Any:
        """`state` (dictionaries, lists and tuples of tensors and plain values) as it is now, valid until the next call.

        Tensors that are one stay one.
        """
        return self._copy(state, (), {})

    def _copy(self, value: Any, at: tuple[Any, ...], copied: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(value, Mapping):
            return {key: self._copy(item, (*at, key), copied) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self._copy(item, (*at, i), copied) for i, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if not isinstance(value, Tensor):
            return value
        same = (value.device, value.untyped_storage().data_ptr(), value.storage_offset(), value.dtype, value.shape, value.stride())
        if same not in copied:
            buffer = self._buffers.get(at)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[at] = torch.empty_like(value, device="cpu")
            copied[same] = buffer.copy_(value)
        return copied[same]
