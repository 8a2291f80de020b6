"""Where a run is written down while it goes on: `metrics.jsonl` always, others beside it (see `tracker_backends`). The loop says what.

Tracking never stops and never slows a run. The file is written at once; everything else has a queue and a thread of its own, whose first
failure is reported, whose later ones are counted, and which is given a limited time at the end.
"""

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.config import TrackersConfig
from utils.files import write_atomic
from utils.scrub import scrub

log = logging.getLogger("stereofoundry")

CAPACITY = 1000  # calls that wait for a slow server; the oldest go first
PATIENCE_S = 60.0  # at the end of a run, for what still waits
PATIENCE_FAILING_S = 5.0  # the same where the last call failed
METRICS_FILE = "metrics.jsonl"
RUN_FILE = "mlflow_run.json"


class Tracker:
    """Does nothing. What every tracker can be told."""

    @property
    def run_id(self) -> str | None:
        """What continues this run in the tracker's store, where it has such a thing and knows it yet."""
        return None

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Once, first. params: the nested configuration; tags: short texts that may change later."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers after `step` updates."""

    def image(self, path: Path, name: str, step: int) -> None:
        """A picture file. It must still be there when a tracker gets to it."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file to be stored with the run, in `folder` of its artifacts."""

    def tag(self, key: str, value: str) -> None:
        """A text that replaces an earlier one of the same key."""

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        """Once, last. status: FINISHED, FAILED or KILLED (MLflow's words). Returns after `timeout_s` at the latest."""


class TrackerGroup(Tracker):
    """Tells every one of its trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    @property
    def run_id(self) -> str | None:
        return next((found for tracker in self.trackers if (found := tracker.run_id) is not None), None)

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        for tracker in self.trackers:
            tracker.start(params, tags)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def image(self, path: Path, name: str, step: int) -> None:
        for tracker in self.trackers:
            tracker.image(path, name, step)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        for tracker in self.trackers:
            tracker.artifact(path, folder)

    def tag(self, key: str, value: str) -> None:
        for tracker in self.trackers:
            tracker.tag(key, value)

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + timeout_s
        for tracker in self.trackers:
            tracker.close(status, max(end - time.monotonic(), 0.0))


def build_trackers(
    config: TrackersConfig, workspace: Path, *, enable_mlflow: bool = True, run_id: str | None = None, step: int = 0
) -> TrackerGroup:
    """The trackers of a run; on the main process only.

    step: where the run begins, 0 for a new one; run_id: the MLflow run that a resumed one continues, by default the one that the workspace
    remembers in `mlflow_run.json` (a checkpoint may be older than the store's first answer). The MLflow store is its own choice:
    MLFLOW_TRACKING_URI, else sqlite in the working folder. Raises `UserError` for a tracker that is not installed.
    """
    from train.tracker_backends import MlflowTracker, TensorBoardTracker

    trackers: list[Tracker] = [JsonLinesTracker(workspace / METRICS_FILE, step=step)]
    if enable_mlflow:
        remember = workspace / RUN_FILE
        name, wanted = config.run_name or workspace.resolve().name, run_id or (remembered(remember) if step else None)
        backend = MlflowTracker(experiment=config.experiment, run_name=name, run_id=wanted, remember=remember)
        remedy = f"; `python scripts/sync_metrics.py {workspace}` sends what is missing"
        trackers.append(Background(backend, "MLflow", remedy=remedy, success="`mlflow ui` shows the run"))
    if config.tensorboard:
        trackers.append(Background(TensorBoardTracker(workspace / "tensorboard", step=step), "TensorBoard"))
    return TrackerGroup(trackers)


def remembered(path: Path) -> str | None:
    """The MLflow run that a workspace's `mlflow_run.json` names; None where there is none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


# ---- the file ---------------------------------------------------------------------------------------------------------------------------


class JsonLinesTracker(Tracker):
    """One line per call, `{"step": 100, "time": 1700000000.0, "train/loss": 0.5, ...}`; null for a number that is not finite.

    The file describes one run without repetition: lines beyond the step that a run is resumed from (all of them for a new run) were written
    by updates that are now taken again, and move to `metrics.superseded.jsonl`. So does a line that a kill cut off.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self._failures = 0
        self._torn = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._rewind(step)
        except OSError as error:
            self._failed(error)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        numbers = {key: float(value) for key, value in metrics.items()}
        line = {"step": step, "time": round(time.time(), 3)} | {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:  # opened anew each time: the file may have been moved or its disk been full
                file.write(("\n" if self._torn else "") + json.dumps(line) + "\n")
            self._torn = False
        except OSError as error:
            self._torn = True
            self._failed(error)

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        if self._failures > 1:
            log.warning("%s: %d lines could not be written", self.path, self._failures)

    def _rewind(self, step: int) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
        kept = [line for line in lines if (found := _parse(line)) is not None and step > 0 and found["step"] <= step]
        known = set(kept)
        superseded = [line for line in lines if line.strip() and line not in known]
        if superseded:
            with self.path.with_suffix(".superseded.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in superseded)
        if (content := "".join(line + "\n" for line in kept)) != text:
            write_atomic(self.path, content)

    def _failed(self, error: OSError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("%s: cannot be written (%s); the run goes on", self.path, error.strerror or error)


def read_metrics(path: Path, holding: str = "") -> Iterator[dict[str, Any]]:
    """The complete lines of a `metrics.jsonl`, each with "step", "time" and its metrics (None where one was not finite).

    holding: a text of the lines that are meant.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (found for line in file if holding in line and (found := _parse(line)) is not None)


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """The metrics of a line of `read_metrics` that are finite numbers."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
    }


def _parse(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


# ---- a thread for whatever can hang -----------------------------------------------------------------------------------------------------


class Background(Tracker):
    """Passes calls on to `backend` from a thread of its own, in order. No call waits, none raises, `close` waits for a limited time.

    remedy: the end of the line that counts what did not arrive; success: what is said of a finished run where all of it did.
    """

    def __init__(self, backend: Tracker, name: str, capacity: int = CAPACITY, remedy: str = "", success: str = "") -> None:
        self._backend, self._name, self._capacity, self._remedy, self._success = backend, name, capacity, remedy, success
        self._calls: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._opening: tuple[Any, ...] | None = None  # apart from the queue, so that overflow cannot drop it
        self._change = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failing = False
        self.failures = self.dropped = 0

    @property
    def run_id(self) -> str | None:
        return self._backend.run_id

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        self._opening = (dict(params), dict(tags or {}))
        self._begin()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._put("log", dict(metrics), step)

    def image(self, path: Path, name: str, step: int) -> None:
        self._put("image", path, name, step)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self._put("artifact", path, folder)

    def tag(self, key: str, value: str) -> None:
        self._put("tag", key, value)

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        if self._thread is None or self._closing:
            return
        self._put("close", status)
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(min(timeout_s, PATIENCE_FAILING_S) if self._failing else timeout_s)
        with self._change:
            late = len(self._calls) + self._thread.is_alive()  # with the call that hangs
            self._calls.clear()
        if self.failures or self.dropped or late:
            log.warning(
                "%s: %d calls failed, %d were dropped, %d were not done in time; every metric is in metrics.jsonl%s",
                self._name, self.failures, self.dropped, late, self._remedy,
            )  # fmt: skip
        elif self._success and status == "FINISHED":
            log.info(self._success)

    def _put(self, method: str, *arguments: Any) -> None:
        with self._change:
            if self._closing:
                return
            if len(self._calls) >= self._capacity:
                self._calls.popleft()
                self.dropped += 1
            self._calls.append((method, arguments))
            self._change.notify()
        self._begin()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"{self._name} tracker", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        if self._opening is not None:
            self._do("start", *self._opening)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._calls or self._closing)
                if not self._calls:
                    return
                method, arguments = self._calls.popleft()
            self._do(method, *arguments)

    def _do(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._backend, method)(*arguments)
            self._failing = False
        except Exception as error:  # whatever a client library can raise: tracking does not stop a run
            self._failing = True
            self.failures += 1
            if self.failures == 1:
                reason = f"{type(error).__name__}: {scrub(' '.join(str(error).split()))[:300]}"
                log.warning("%s: %s failed (%s); the run goes on, its metrics are in metrics.jsonl", self._name, method, reason)
