"""Trained networks by whatever names them: a weight file, the workspace of a run, its id in MLflow. What a file holds is read in `core`."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from core import load_model
from core.weight_files import locate, newest_weights, shipped
from utils.errors import UserError
from utils.scrub import scrub

RUN_ID = re.compile(r"[0-9a-f]{32}")
ARTIFACTS = "checkpoint"  # the folder of a run's artifacts that weights are stored in
WEIGHTS = re.compile(rf"{ARTIFACTS}/(\d+)(_ema)?\.pt")  # all of the path: what a store answers could lead out of the download's folder


def load_trained(spec: str | Path, changes: Mapping[str, Any] | None = None, *, client: Any = None) -> nn.Module:
    """The network that `spec` names, as `core.load_model` gives it; see `find_weights`."""
    with find_weights(spec, client=client) as path:
        return load_model(path, changes)


@contextmanager
def find_weights(spec: str | Path, *, client: Any = None) -> Iterator[Path]:
    """The weight file that `spec` names; it may be a download, which is there only as long as the context.

    spec: what `core.weight_files.locate` knows, or the id of an MLflow run, whose store MLFLOW_TRACKING_URI names: the newest weights of
    its workspace where that can be reached from here, else those among its artifacts. client: for tests, in place of MlflowClient. Raises
    UserError for what is none of these.
    """
    path = locate(spec)
    if path.exists() or not RUN_ID.fullmatch(str(spec)):
        if not path.exists():
            raise UserError(
                f"{spec}: no such file or folder; expected a weight file, the workspace of a run, the 32 digits of an MLflow run id, or a "
                f"network that comes with the project: {', '.join(shipped())}"
            )
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="stereofoundry_") as folder:
        yield _of_run(str(spec), client, folder)


def _of_run(run_id: str, client: Any, folder: str) -> Path:
    try:
        client = client or _client()
        tagged = client.get_run(run_id).data.tags.get("checkpoint")
        if tagged and Path(tagged).parent.is_dir():
            return newest_weights(Path(tagged).parent)
        stored = [entry.path for entry in client.list_artifacts(run_id, ARTIFACTS)]
        found = [(int(match[1]), bool(match[2]), path) for path in stored if (match := WEIGHTS.fullmatch(path))]
        if found:
            return Path(client.download_artifacts(run_id, max(found)[2], folder))
    except UserError:
        raise
    except Exception as error:  # whatever a client library raises
        reason = scrub(" ".join(str(error).split()))[:200]
        raise UserError(
            f"MLflow run {run_id}: not found in the store ({type(error).__name__}: {reason}); check MLFLOW_TRACKING_URI"
        ) from None
    raise UserError(
        f"MLflow run {run_id}: its checkpoint {tagged or '(none was saved)'} is not on this machine, and none is among its artifacts; pass "
        "the file or the workspace, or train with trackers.log_checkpoints 'final'"
    )


def _client() -> Any:
    from train.tracker_backends import import_mlflow

    import_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient()
