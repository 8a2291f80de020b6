"""What `metrics.jsonl` holds and an MLflow store lacks, because it was dead, slow or full while a run went on; and how it gets there.

Writing both while a run goes on is the business of `trackers`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from train.config import TrackersConfig
from train.tracker_backends import MLFLOW_METRICS, MlflowTracker, import_mlflow, metric_name
from train.trackers import METRICS_FILE, RUN_FILE, numbers, read_metrics, remembered
from utils.errors import UserError
from utils.files import read_config
from utils.scrub import scrub

ENDED = ("FINISHED", "FAILED", "KILLED")


class Numbers(NamedTuple):
    """Of one workspace. missing: (name, value, time in milliseconds, step), in the order of the file."""

    run_id: str
    created: bool
    known: int
    missing: list[tuple[str, float, int, int]]


def find_missing(workspace: Path, client: Any) -> Numbers:
    """Compare a workspace with its run in the store; a run that the store does not know is made, with the parameters of `config.json`.

    client: an MlflowClient, see `connect`. Raises UserError for a folder that is no workspace, and for a store that does not answer.
    """
    path = workspace / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the workspace of a run, where every logged number stands in metrics.jsonl")
    found = list(_numbers(path))
    run_id = remembered(workspace / RUN_FILE)
    with answering():
        before = _state(client, run_id)
        config = read_config(workspace / "config.json")
        trackers = config.get("trackers") or {}
        tracker = MlflowTracker(
            experiment=trackers.get("experiment") or TrackersConfig().experiment,
            run_name=trackers.get("run_name") or workspace.resolve().name,
            run_id=run_id if before else None,
            remember=workspace / RUN_FILE,
            client=client,
        )
        tracker.start(config)  # makes or opens the run, and sends what it lacks of the parameters
        run_id = str(tracker.run_id)
        if before is not None and before.status in ENDED:
            client.set_terminated(run_id, before.status, before.end_time)
        stored = {name: {metric.step for metric in client.get_metric_history(run_id, name)} for name in {entry[0] for entry in found}}
    missing = [entry for entry in found if entry[3] not in stored[entry[0]]]
    return Numbers(run_id, before is None, len(found) - len(missing), missing)


def send(numbers: Numbers, client: Any, status: str | None = None) -> Iterator[int]:
    """Upload what is missing, with the times at which it was logged; how many numbers have arrived, after each call.

    status: what the run is said to have come to; None leaves it as it is, and a run that was made here has FINISHED.
    """
    from mlflow.entities import Metric

    with answering():
        for first in range(0, len(numbers.missing), MLFLOW_METRICS):
            batch = [Metric(*entry) for entry in numbers.missing[first : first + MLFLOW_METRICS]]
            client.log_batch(numbers.run_id, metrics=batch)
            yield len(batch)
        if status or numbers.created:
            client.set_terminated(numbers.run_id, status or "FINISHED")


def connect() -> Any:
    """An MlflowClient of the store that MLFLOW_TRACKING_URI names."""
    import_mlflow()
    from mlflow.tracking import MlflowClient

    with answering():
        return MlflowClient()


@contextmanager
def answering() -> Iterator[None]:
    """UserError, without credentials, for whatever the client of a store raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # client, database driver and network have dozens of kinds
        from mlflow import get_tracking_uri

        reason = f"{type(error).__name__}: {scrub(' '.join(str(error).split()))[:300]}"
        raise UserError(
            f"MLflow at {scrub(get_tracking_uri())}: {reason}; check MLFLOW_TRACKING_URI and run the command again, nothing is sent twice"
        ) from None


def _state(client: Any, run_id: str | None) -> Any:
    """Status and end of the run, None where there is none to go on with."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return info if info.lifecycle_stage == "active" else None


def _numbers(path: Path) -> Iterator[tuple[str, float, int, int]]:
    for line in read_metrics(path):
        milliseconds = int(line.get("time", 0) * 1000)
        for name, value in numbers(line).items():
            yield metric_name(name), value, milliseconds, line["step"]
