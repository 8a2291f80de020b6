"""Checkpoints as files: what they are called, when one counts as complete, which one is meant. What they hold is the loop's business, when
they are written that of `saving`.

A step is three files, `{step:08d}.pt` (weights), `{step:08d}_optimizer.pt` (everything else that resuming needs) and `{step:08d}_ema.pt`
(averaged weights), and counts once the record of their sizes and digests, `{step:08d}.json`, is there. `latest.pt` repeats the newest
record. All are written beside their place and renamed. A step until which better weights were found than before has those as well, in
`{step:08d}_best.safetensors`; they are not in the record, as resuming does without them.
"""

import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.weight_export import pack
from core.weight_files import POINTER, read_file
from utils.errors import UserError, shorten
from utils.files import damage, sha256, write_atomic

log = logging.getLogger("stereofoundry")

SUFFIXES = {"model": ".pt", "optimizer": "_optimizer.pt", "ema": "_ema.pt"}
BEST = "_best.safetensors"
_FILE = re.compile(rf"(\d{{8,}})({'|'.join(map(re.escape, (*SUFFIXES.values(), BEST, '.json')))})")

Files = dict[str, dict[str, Any]]
"""File name -> "size" in bytes and "sha256"."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of one step."""

    folder: Path
    step: int

    def path(self, part: str) -> Path:
        """part: "model", "optimizer", "ema" or "best"."""
        return self.folder / f"{self.step:08d}{(SUFFIXES | {'best': BEST})[part]}"

    @property
    def weights(self) -> Path:
        """Those to use: the averaged ones where there is an average."""
        average = self.path("ema")
        return average if average.exists() else self.path("model")

    def best_so_far(self) -> Path | None:
        """The best weights up to this step, which may lie with an earlier one; None where none were measured."""
        found = [path for path in self.folder.glob(f"*{BEST}") if (match := _FILE.fullmatch(path.name)) and int(match[1]) <= self.step]
        return max(found, default=None, key=_step_of)

    @property
    def record(self) -> Path:
        """What says that the step is complete, and of what."""
        return self.folder / f"{self.step:08d}.json"

    def inside(self, checkpoints: "Checkpoints") -> bool:
        """Whether it belongs to that folder."""
        return self.folder.resolve() == checkpoints.folder.resolve()

    def load(self, part: str) -> dict[str, Any]:
        """One of the three files, on the CPU. Raises UserError when it is missing or damaged."""
        return read_file(self.path(part))

    def damage(self, files: Files) -> str | None:
        """The first file that is not what its record says, and how; None when all are. Reads every byte."""
        return next(filter(None, (damage(self.folder / name, expected) for name, expected in files.items())), None)


class Checkpoints:
    """The folder `<workspace>/checkpoint`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps with a weights file, complete or not, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.pt") if path.stem.isdigit())

    def records(self) -> dict[int, Files]:
        """The complete steps, ascending, with what their files should be. A record that cannot be read is named, and its step left out."""
        found: dict[int, Files] = {}
        for path in self.folder.glob("*.json"):
            if path.stem.isdigit():
                try:
                    found[int(path.stem)] = _files_of(json.loads(path.read_bytes()), int(path.stem))
                except (OSError, ValueError) as error:
                    log.warning("%s: not the record of a checkpoint (%s)", path, error)
        pointer = self.folder / POINTER
        if pointer.exists():
            try:
                content = read_file(pointer)
                found.setdefault(content.get("step"), _files_of(content, content.get("step")))
            except ValueError as error:
                log.warning("%s; going by the records of the steps", error)
        return dict(sorted(found.items()))

    def latest(self) -> Checkpoint | None:
        """The newest complete step whose files are what its record says; others are named and passed over. None where none was completed.

        Raises UserError where some were and none is left: starting anew would be no continuation.
        """
        records = self.records()
        for step in self.steps():
            if step > max(records, default=-1):
                log.warning("%s: was not written to its end and is passed over", Checkpoint(self.folder, step).path("model"))
        for step, files in reversed(records.items()):
            checkpoint = Checkpoint(self.folder, step)
            problem = checkpoint.damage(files)
            if problem is None:
                return checkpoint
            log.warning("%s; the checkpoint of step %d is passed over", problem, step)
        if records or any(path.stem.isdigit() for path in self.folder.glob("*.json")):
            raise UserError(
                f"{self.folder}: no complete checkpoint is left, the log names what is wrong with each; restore one of them, or start anew "
                "in another --workspace"
            )
        return None

    def find(self, spec: str) -> Checkpoint | None:
        """What `--checkpoint` means: `latest` (None when there is none yet), a step number, or the path of a weights file."""
        if spec == "latest":
            return self.latest()
        if spec.isdigit():
            if int(spec) not in self.steps():
                raise UserError(f"--checkpoint {spec}: no such step in {self.folder}; there are {self.steps()}")
            return self._check(int(spec), spec)
        path = Path(spec)
        if not path.is_file():
            raise UserError(f"--checkpoint {spec}: no such file; expected 'latest', a step number or the path of a <step>.pt file")
        if path.name == POINTER:
            return Checkpoints(path.parent).latest()
        if not path.stem.isdigit():
            raise UserError(
                f"--checkpoint {spec}: to continue a run, pass its weights file <step>.pt; its _optimizer.pt is read from beside it. To "
                "start a new run from these weights, add --init_only"
            )
        return Checkpoints(path.parent)._check(int(path.stem), spec)

    def _check(self, step: int, spec: str) -> Checkpoint:
        """The step that was asked for by name. Raises UserError when it is damaged: none is taken in its place."""
        checkpoint, files = Checkpoint(self.folder, step), self.records().get(step)
        if not checkpoint.path("optimizer").exists():
            raise UserError(
                f"--checkpoint {spec}: {checkpoint.path('optimizer').name} is not beside it, so the run cannot be continued; to start a "
                "new one from these weights, add --init_only"
            )
        if files is None:  # copied without its record, most likely
            log.warning("%s: has no record %s to be compared with; taken as it is", checkpoint.path("model"), checkpoint.record.name)
        elif (problem := checkpoint.damage(files)) is not None:
            raise UserError(f"--checkpoint {spec}: {problem}; pass 'latest', or one of the steps {shorten(self.steps())} that is whole")
        return checkpoint

    def rewind(self, step: int) -> Path | None:
        """Make `step` (0 for none) the latest, and move all files of later ones to a folder of their own: a run continued from here
        overwrites nothing.

        Returns that folder, or None when there was nothing later. Killed at any moment, the newest is what it was before, or `step`.
        """
        later = [path for path, its in self._files() if its > step]
        aside = self._new_folder() if later else self.folder
        for path in later:
            if path.suffix == ".json":
                path.rename(aside / path.name)
        if step:
            paths = [path for path in map(Checkpoint(self.folder, step).path, SUFFIXES) if path.exists()]
            self._publish(step, self.records().get(step) or _measure(paths))
        else:
            (self.folder / POINTER).unlink(missing_ok=True)
        for path in later:
            if path.suffix != ".json":
                path.rename(aside / path.name)
        return aside if later else None

    def write(self, step: int, parts: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
        """`parts` ("model", "optimizer"; where there is an average "ema"; where they are new "best"), all or nothing.

        Raises OSError; older steps stay.
        """
        checkpoint = Checkpoint(self.folder, step)
        staging = self.folder / f".{step:08d}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            for part, content in parts.items():
                with open(staging / checkpoint.path(part).name, "wb") as file:
                    _save(content, file)
            files = _measure(sorted(staging.glob("*.pt")))
            for path in sorted(staging.iterdir()):
                os.replace(path, self.folder / path.name)
            self._publish(step, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return checkpoint

    def prune(self, keep_last: int | None, keep_every: int | None) -> None:
        """Delete all files of steps before the newest but the last `keep_last` complete ones and the multiples of `keep_every`.

        The best weights of a step that goes stay where they are the best so far of one that is kept.
        """
        complete = [] if keep_last is None else list(self.records())
        if not complete:
            return
        kept = {*complete[-keep_last:], *(step for step in complete if keep_every and step % keep_every == 0)}
        needed = {Checkpoint(self.folder, step).best_so_far() for step in kept}
        dropped = [path for path, step in self._files() if step < complete[-1] and step not in kept and path not in needed]
        for path in sorted(dropped, key=lambda path: path.suffix != ".json"):  # records first: what is half gone must not count
            path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, int]]:
        """Every file that belongs to a step, by name."""
        return [(path, _step_of(path)) for path in sorted(self.folder.glob("*")) if _FILE.fullmatch(path.name)]

    def _new_folder(self) -> Path:
        stamp = f"set_aside_{time.strftime('%Y%m%d_%H%M%S')}"
        found = next(path for i in itertools.count() if not (path := self.folder / (f"{stamp}_{i}" if i else stamp)).exists())
        found.mkdir()
        return found

    def _publish(self, step: int, files: Files) -> None:
        record = {"step": step, "files": files}
        write_atomic(Checkpoint(self.folder, step).record, json.dumps(record, indent=2) + "\n")
        write_atomic(self.folder / POINTER, lambda file: torch.save(record, file))


def _step_of(path: Path) -> int:
    return int(re.split(r"\D", path.name)[0])


def _measure(paths: list[Path]) -> Files:
    return {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths}


def _files_of(record: Any, step: Any) -> Files:
    """What a record says of `step`. Raises ValueError for one that no writer of this module made, with names of other files above all."""
    files = record.get("files") if isinstance(record, dict) and isinstance(step, int) and record.get("step") == step else None
    if not isinstance(files, dict) or not files or not files.keys() <= {Checkpoint(Path(), step).path(part).name for part in SUFFIXES}:
        raise ValueError(f"expected the files of step {step}")
    for name, expected in files.items():
        if not isinstance(expected, dict) or not isinstance(expected.get("size"), int) or not isinstance(expected.get("sha256"), str):
            raise ValueError(f"expected size and sha256 of {name}")
    return files


def _save(content: Mapping[str, Any], file: Any) -> None:
    """To the disk itself, in the form that the file's name says. Raises OSError: torch wraps those of the file in a RuntimeError."""
    try:
        if file.name.endswith(BEST):
            file.write(pack(content))
        else:
            torch.save(dict(content), file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    file.flush()
    os.fsync(file.fileno())
