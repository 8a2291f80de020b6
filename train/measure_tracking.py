"""Results of a measurement as numbers of the MLflow run that the weights came from."""

import math
from pathlib import Path

from core.weight_files import newest_weights, read_about
from train.measure import Record
from train.predictors import SGBM
from train.trackers import RUN_FILE, remembered
from utils.errors import UserError


def track(record: Record, checkpoint: str, report: Path | None) -> str:
    """Add the means as `eval/<suite>/...` to the run of the workspace that holds `checkpoint`, and the report's files; the run's id.

    Raises UserError where there is no such run, or the store cannot be reached: who asked for it wants to know.
    """
    from train.tracker_backends import MlflowTracker

    workspace = find_workspace(Path(checkpoint))
    run_id = None if workspace is None else remembered(workspace / RUN_FILE)
    if checkpoint == SGBM or run_id is None:
        raise UserError(
            f"--tracker: {checkpoint} does not lie in a workspace with a {RUN_FILE}; leave --tracker out, or pass such a checkpoint"
        )
    tracker = MlflowTracker(experiment="stereofoundry", run_name=Path(checkpoint).name, run_id=run_id)
    setting = f"eval/{Path(record.about['suite']).stem}"
    for key, unit in (("iterations", "it"), ("cascades", "c")):
        if record.about.get(key) not in (None, 1):
            setting += f"/{unit}{record.about[key]}"
    numbers = {f"{setting}/{label}": value for label, value in record.mean.items() if math.isfinite(value)}
    try:
        tracker.log(numbers | {f"{setting}/seconds": record.seconds}, step_of(Path(checkpoint)))
        if report is not None:
            tracker.artifact(report, "eval")
    except Exception as error:  # whatever a client library raises
        raise UserError(f"--tracker: MLflow did not take the numbers ({type(error).__name__}: {error}); is the store reachable?") from None
    return run_id


def find_workspace(path: Path) -> Path | None:
    """The workspace that a checkpoint, or a folder, is of or in."""
    return next((folder for folder in (path, *path.resolve().parents) if (folder / RUN_FILE).is_file()), None)


def step_of(path: Path) -> int:
    """That of a checkpoint, by its name or by what it says itself; of a workspace that of its newest; 0 where there is none."""
    path = newest_weights(path) if path.is_dir() else path
    if path.suffix == ".safetensors":
        return int(read_about(path).get("step") or 0)
    digits = path.stem.partition("_")[0]
    return int(digits) if digits.isdigit() else 0
