"""Checkpoints as files: what they are called, when one counts as complete, which one is meant. What they hold is the loop's business.

A step is three files, `{step:08d}.pt` (weights), `{step:08d}_optimizer.pt` (everything else that resuming needs) and `{step:08d}_ema.pt`
(averaged weights), and counts once `latest.pt`, written last, names it. Each is written beside its place and renamed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.weight_files import read_file
from utils.errors import UserError
from utils.files import sha256, write_atomic

POINTER = "latest.pt"
SUFFIXES = {"model": "", "optimizer": "_optimizer", "ema": "_ema"}


@dataclass(frozen=True)
class Checkpoint:
    """The files of one step."""

    folder: Path
    step: int

    def path(self, part: str) -> Path:
        """part: "model", "optimizer" or "ema"."""
        return self.folder / f"{self.step:08d}{SUFFIXES[part]}.pt"

    def inside(self, checkpoints: "Checkpoints") -> bool:
        """Whether it belongs to that folder."""
        return self.folder.resolve() == checkpoints.folder.resolve()

    def load(self, part: str) -> dict[str, Any]:
        """One of the three files, on the CPU. Raises UserError when it is missing or damaged."""
        return read_file(self.path(part))


class Checkpoints:
    """The folder `<workspace>/checkpoint`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps with a weights file, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.pt") if path.stem.isdigit())

    def latest(self) -> Checkpoint | None:
        """What the pointer names, None where nothing was saved. Raises UserError when a file it names is missing or of another size."""
        pointer = self.folder / POINTER
        if not pointer.exists():
            return None
        content = read_file(pointer)
        checkpoint = Checkpoint(self.folder, content["step"])
        for name, expected in content["files"].items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else None
            if found != expected["size"]:
                raise UserError(
                    f"{path}: found {'no file' if found is None else f'{found} bytes'}, expected {expected['size']}; the checkpoint "
                    f"of step {checkpoint.step} is incomplete, pass --checkpoint with one of the steps {self.steps()}"
                )
        return checkpoint

    def find(self, spec: str) -> Checkpoint | None:
        """What `--checkpoint` means: `latest` (None when there is none yet), a step number, or the path of a weights file."""
        if spec == "latest":
            return self.latest()
        if spec.isdigit():
            if int(spec) not in self.steps():
                raise UserError(f"--checkpoint {spec}: no such step in {self.folder}; found {self.steps() or 'none'}")
            return Checkpoint(self.folder, int(spec))
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
        found = Checkpoint(path.parent, int(path.stem))
        if not found.path("optimizer").exists():
            raise UserError(
                f"--checkpoint {spec}: {found.path('optimizer').name} is not beside it, so the run cannot be continued; to start a new one "
                "from these weights, add --init_only"
            )
        return found

    def rewind(self, step: int) -> Path | None:
        """Make `step` the latest and move the files of later steps to a folder of their own: a run continued from here overwrites nothing.

        Returns that folder, or None when there was nothing later.
        """
        later = [path for path in self.folder.glob("*.pt") if path.name[:8].isdigit() and int(path.name[:8]) > step]
        if not later:
            return None
        aside = self.folder / f"set_aside_{time.strftime('%Y%m%d_%H%M%S')}"
        aside.mkdir()
        checkpoint = Checkpoint(self.folder, step)
        self._publish(step, [path for path in map(checkpoint.path, SUFFIXES) if path.exists()])
        for path in later:
            path.rename(aside / path.name)
        return aside

    def save(self, step: int, parts: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
        """Write `parts` ("model", "optimizer" and, where there is an average, "ema"), then the pointer that makes the step count."""
        checkpoint = Checkpoint(self.folder, step)
        for part, content in parts.items():
            write_atomic(checkpoint.path(part), lambda file, content=content: torch.save(dict(content), file))
        self._publish(step, [checkpoint.path(part) for part in parts])
        return checkpoint

    def _publish(self, step: int, paths: list[Path]) -> None:
        files = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths}
        write_atomic(self.folder / POINTER, lambda file: torch.save({"step": step, "files": files}, file))
