"""The best and the last weights of a run, beside its numbered checkpoints: `best.safetensors` and `last.safetensors` in
`<workspace>/checkpoint`, the averaged weights where there is an average, with `best.json` and `last.json` of their step and its metrics.

Both follow from the numbered files, and nothing of a run needs them: `{step:08d}_best.safetensors` is what was best when that step was
saved (see `checkpoint`), written only where another was best before. So they are right after any kill, and after a run went back.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from core.weight_export import pack
from core.weight_files import read_about, read_file
from train.checkpoint import Checkpoint
from train.config import RunConfig
from train.metrics import better
from train.trackers import METRICS_FILE, read_metrics
from utils.errors import UserError, shorten
from utils.files import sha256, write_atomic

log = logging.getLogger("stereofoundry")

MARKS, SUFFIXES = ("best", "last"), (".safetensors", ".json")
OTHERWISE = ("datasets", "fraction", "max_samples", "iterations", "size")  # keys of `validation`: with others, numbers do not compare
HELD = ("name", "type", "path", "params", "list_file", "val_fraction", "part")  # of a data set, what decides which ground truth is held
PREFIX = "val/"  # of a validation's numbers in metrics.jsonl
NO_METRIC = ("val/seconds", "val/epe_constant", "val/pose_mse_constant")  # of them, what is none of the weights


class Best:
    """Which validation of a run was the best so far, by `metric` (as `validation.best` names it) and in that metric's direction."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.value = math.nan

    @classmethod
    def of(cls, config: RunConfig) -> Self | None:
        """None for a run that measures nothing after its start, or asks for none."""
        return None if config.validation.best is None or not config.validation.every else cls(config.validation.best)

    def improved(self, found: Mapping[str, float]) -> bool:
        """Take note of a validation; whether it is better than all before. One that is not finite never is."""
        if self.metric not in found:
            log.warning("validation.best: '%s' was not measured, so no weights are the best; measured are %s", self.metric, shorten(found))
        value = found.get(self.metric, math.nan)
        if not math.isfinite(value) or not better(self.metric, value, self.value):
            return False
        self.value = value
        return True

    def resume(self, path: Path, config: RunConfig) -> bool:
        """Go on from a file of the best weights; whether it counts: it does not where it was measured otherwise, or is damaged."""
        try:
            about = read_about(path)
            theirs, ours = _measured_on(about["config"]), _measured_on(config.dump())
            value = float(about["validation"]["metrics"][self.metric])
        except (UserError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s: does not say what was measured (%s); the best so far begins anew", path, error)
            return False
        if changed := [key for key in ours if theirs.get(key) != ours[key]]:
            log.warning("%s: was measured with another %s; the best so far begins anew", path.name, changed[0])
            return False
        self.value = value
        return True


def _measured_on(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a validation depend on beside the weights: key of a configuration -> its value."""
    data, validation = config["data"], config["validation"]
    found = {f"validation.{key}": validation.get(key) for key in OTHERWISE}
    if not validation["datasets"]:  # a part of these is held back
        found["data.datasets"] = [{key: entry.get(key) for key in HELD} for entry in data["datasets"]]
    return found | {f"data.{key}": data.get(key) for key in ("root", "max_disparity")}


def of_validation(step: int, found: Mapping[str, float]) -> dict[str, Any]:
    """What files say of a validation: plain numbers by name, None for what is not finite."""
    return {"step": step, "metrics": {name: value if math.isfinite(value) else None for name, value in found.items()}}


def newest_validation(path: Path, step: int) -> dict[str, Any] | None:
    """The newest one up to `step` that a `metrics.jsonl` holds, as `of_validation`; None of a run that did not measure."""
    if not path.exists():
        return None
    measured = (line for line in read_metrics(path, f'"{PREFIX}') if line["step"] <= step)
    line = max(measured, key=lambda line: line["step"], default=None)
    if line is None:
        return None
    names = [name for name in line if name.startswith(PREFIX) and name not in NO_METRIC]
    return {"step": line["step"], "metrics": {name.removeprefix(PREFIX): line[name] for name in names}}


def mark(checkpoint: Checkpoint) -> None:
    """Bring best.* and last.* up to `checkpoint`, the newest of its workspace, with the metrics that this recorded.

    What is up to date is left alone. A disk that takes no more of it is a warning: the next step, or the next start, tries again.
    """
    try:
        best = checkpoint.best_so_far()
        if best is None:
            _unmark(checkpoint.folder, "best")
        else:
            about = read_about(best)
            _publish(checkpoint.folder, "best", about["step"], about["validation"], lambda place: _link(best, place))
        validation = newest_validation(checkpoint.folder.parent / METRICS_FILE, checkpoint.step)
        _publish(checkpoint.folder, "last", checkpoint.step, validation, lambda place: _convert(checkpoint, place))
    except (OSError, UserError) as error:
        log.warning("%s: best.* and last.* are not up to date (%s)", checkpoint.folder, getattr(error, "strerror", None) or error)


def marked(folder: Path) -> list[Path]:
    """The files that are there."""
    return [path for name in MARKS for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()]


def unmark(folder: Path) -> None:
    """Of a run that starts anew."""
    for name in MARKS:
        _unmark(folder, name)


def _unmark(folder: Path, name: str) -> None:
    for suffix in SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _publish(folder: Path, name: str, step: int, validation: Any, write: Callable[[Path], object]) -> None:
    """The weights, unless they are there, and then the JSON file that says what they are."""
    weights, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    known = _known(about)
    if known.get("step") != step or not weights.is_file() or weights.stat().st_size != known.get("size"):
        write(weights)
        known = {"step": step, "weights": weights.name, "size": weights.stat().st_size, "sha256": sha256(weights)}
    content = {key: known[key] for key in ("step", "weights", "size", "sha256")} | {"validation": validation}
    if content != _known(about):
        write_atomic(about, json.dumps(content, indent=2) + "\n")


def _known(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and {"step", "weights", "size", "sha256"} <= content.keys() else {}


def _link(source: Path, place: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    beside = place.with_name(f".{place.name}.tmp")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:

        def copied(file: BinaryIO) -> None:
            with open(source, "rb") as content:
                shutil.copyfileobj(content, file)

        write_atomic(place, copied)
    else:
        os.replace(beside, place)


def _convert(checkpoint: Checkpoint, place: Path) -> None:
    content = read_file(checkpoint.weights)
    write_atomic(place, lambda file: file.write(pack(content)))
