"""The trackers that need a library: MLflow and TensorBoard. Both may block and raise; `trackers.Background` keeps that from the run.

Everything that leaves here was scrubbed of credentials.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.trackers import PATIENCE_S, Tracker, remembered
from utils.errors import UserError
from utils.files import write_atomic
from utils.images import read_image
from utils.scrub import SECRET_KEY, scrub

log = logging.getLogger("stereofoundry")

MLFLOW_KEY, MLFLOW_VALUE, MLFLOW_BATCH, MLFLOW_METRICS = 250, 6000, 100, 1000  # MLflow's limits: letters, letters, entries, entries


class MlflowTracker(Tracker):
    """One MLflow run, through a client with an explicit run id; nothing global is active. Blocking, so wrap it in `Background`.

    run_id: the run to continue; a new one is made where the store does not know it. Its id is written to the file `remember`. A store that
    cannot be reached at the start is tried again at each call. client: for tests, in place of MlflowClient.
    """

    def __init__(
        self,
        *,
        experiment: str,
        run_name: str,
        run_id: str | None = None,
        remember: Path | None = None,
        tracking_uri: str | None = None,
        client: Any = None,
    ) -> None:
        self._experiment, self._run_name, self._uri, self._client = experiment, run_name, tracking_uri, client
        self._wanted, self._run_id, self._remember = run_id, None, remember
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        import_mlflow()  # here and not on the thread: a data worker forked in the middle of an import would inherit its lock

    @property
    def run_id(self) -> str | None:
        return self._run_id or self._wanted

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        self._params, self._tags = flatten(params), {key: scrub(value) for key, value in (tags or {}).items()}
        self._run()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        run_id, now = self._run(), int(time.time() * 1000)
        entries = [Metric(metric_name(key), float(value), now, step) for key, value in metrics.items() if math.isfinite(value)]
        for first in range(0, len(entries), MLFLOW_METRICS):
            self._client.log_batch(run_id, metrics=entries[first : first + MLFLOW_METRICS])

    def image(self, path: Path, name: str, step: int) -> None:
        self._client_of_run().log_artifact(self._run(), str(path), f"vis/step_{step:08d}")

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self._client_of_run().log_artifact(self._run(), str(path), folder)

    def tag(self, key: str, value: str) -> None:
        self._client_of_run().set_tag(self._run(), metric_name(key), scrub(value)[:MLFLOW_VALUE])

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        self._client_of_run().set_terminated(self._run(), status)

    def _client_of_run(self) -> Any:
        self._run()
        return self._client

    def _run(self) -> str:
        """The run id; the first time that the store answers, the run with its parameters and tags."""
        if self._run_id is None:
            if self._client is None:
                from mlflow.tracking import MlflowClient

                self._client = MlflowClient(tracking_uri=self._uri)
            known = self._continued()
            run_id = self._wanted if known is not None and self._wanted is not None else self._created()
            self._note(run_id)
            self._send_params(run_id, known or {})
            for key, value in self._tags.items():
                self._client.set_tag(run_id, metric_name(key), value[:MLFLOW_VALUE])
            self._run_id = run_id
        return self._run_id

    def _note(self, run_id: str) -> None:
        """Before anything else can fail, so that no second run is made. A full disk of the workspace is no fault of the store."""
        if self._remember is not None and remembered(self._remember) != run_id:
            try:
                write_atomic(self._remember, json.dumps({"experiment": self._experiment, "run_id": run_id}) + "\n")
            except OSError as error:
                log.warning("%s: cannot be written (%s); the MLflow run is %s", self._remember, error.strerror or error, run_id)

    def _continued(self) -> dict[str, str] | None:
        """Parameters of the run to be continued; None if there is none."""
        from mlflow.exceptions import MlflowException

        if self._wanted is None:
            return None
        try:
            run = self._client.get_run(self._wanted)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("MLflow: the store does not know the run %s of the checkpoint; a new run begins", self._wanted)
            return None
        if run.info.lifecycle_stage != "active":
            log.warning("MLflow: the run %s of the checkpoint was deleted; a new run begins", self._wanted)
            return None
        self._client.update_run(self._wanted, status="RUNNING")
        return dict(run.data.params)

    def _created(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        try:
            experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        except MlflowException:  # another run of the same experiment was a moment faster
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            experiment = found.experiment_id
        self._wanted = self._client.create_run(experiment, run_name=self._run_name).info.run_id
        return self._wanted

    def _send_params(self, run_id: str, known: Mapping[str, str]) -> None:
        """Parameters cannot be changed in MLflow; what differs in a continued run becomes a tag."""
        from mlflow.entities import Param, RunTag

        new = [Param(key, value) for key, value in self._params.items() if key not in known]
        changed = [RunTag(metric_name(f"changed.{key}"), value) for key, value in self._params.items() if known.get(key, value) != value]
        for first in range(0, len(new), MLFLOW_BATCH):
            self._client.log_batch(run_id, params=new[first : first + MLFLOW_BATCH])
        for first in range(0, len(changed), MLFLOW_BATCH):
            self._client.log_batch(run_id, tags=changed[first : first + MLFLOW_BATCH])


class TensorBoardTracker(Tracker):
    """Scalars and pictures in TensorBoard's files. step: events beyond it are hidden, since a resumed run writes them again."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            hint = "`uv sync --extra tensorboard` or `pip install tensorboard`"
            raise UserError(f"trackers.tensorboard: TensorBoard is not installed; {hint}, or set it to false") from None
        self._make = lambda: SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self._made: Any = None

    @property
    def _writer(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        rows = [f"| {key} | {value.replace('|', '/')} |" for key, value in flatten(params).items()]
        self._writer.add_text("parameters", "\n".join(["| key | value |", "| --- | --- |", *rows]))
        for key, value in (tags or {}).items():
            self.tag(key, value)
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, float(value), step)
        self._writer.flush()

    def image(self, path: Path, name: str, step: int) -> None:
        self._writer.add_image(f"vis/{name}", read_image(path), step, dataformats="HWC")
        self._writer.flush()

    def tag(self, key: str, value: str) -> None:
        self._writer.add_text(key, scrub(value))

    def close(self, status: str = "FINISHED", timeout_s: float = PATIENCE_S) -> None:
        if self._made is not None:
            self._made.close()


def import_mlflow() -> None:
    """MLflow without its messages, its telemetry and its four minutes of retries. Whoever set these variables keeps them."""
    for key, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(key, value)
    try:
        import mlflow.tracking  # noqa: F401
    except ImportError as error:
        raise UserError(f"MLflow cannot be imported ({error}); install it, or pass --enable_mlflow false") from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as texts by dotted key, within MLflow's limits: `{"data.datasets.0.weight": "1.0"}`. Without credentials."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif SECRET_KEY.search(key) and value:
            flat[metric_name(key)] = "***"
        else:
            flat[metric_name(key)] = scrub(value if isinstance(value, str) else json.dumps(value, default=str))[:MLFLOW_VALUE]
    return flat


def metric_name(name: str) -> str:
    """`name` in the letters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:MLFLOW_KEY]
