"""What a run does beside its steps proper, as a share of their time: the average, metrics, log lines, checkpoints and pictures.

A short run does each of them; what one costs is then spread over how often a run does it by default.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from train.benchmark import Conditions, in_new_process
from train.config import DataConfig, RunConfig, ValidationConfig
from train.costs import NAMES
from train.loop import train
from train.losses import INVALID
from train.run import Options, build_run
from train.signals import StopSignals
from train.trackers import METRICS_FILE

STEPS = 3
EVERY = {"log": Options.log_every, "save": Options.save_every, "previews": Options.save_every}  # steps; the others are done in each


def overhead(config: RunConfig, conditions: Conditions, *, with_mlflow: bool = True) -> tuple[dict[str, float], float]:
    """Name (`costs.NAMES`) -> share of the time of the steps; and the share that steps spend waiting for data, which are the renderer's, in
    crops of `conditions.size`, made by as many processes as in a run.

    In a process of its own: a run sets up devices, logging and MLflow for all of its process.
    """
    return in_new_process(_overhead, _synthetic(config, conditions), conditions, with_mlflow)


def _synthetic(config: RunConfig, conditions: Conditions) -> RunConfig:
    size = list(conditions.size)
    label = next(label for label in config.loss if label != INVALID)
    pairs = {"name": "made", "type": "synthetic", "label_type": label, "params": {"size": size, "length": 8}}
    return config.model_copy(
        update={
            "data": DataConfig.model_validate({"datasets": [pairs], "image_sizes": [size]}),
            "validation": ValidationConfig.model_validate({"every": 0, "iterations": conditions.iterations}),
            "training": config.training.model_copy(update={"iterations": conditions.iterations}),
        }
    )


def _overhead(config: RunConfig, conditions: Conditions, with_mlflow: bool) -> tuple[dict[str, float], float]:
    with tempfile.TemporaryDirectory(prefix="stereofoundry_") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        options = Options(
            Path(folder) / "run",
            batch_size_forward=conditions.batch,
            precision=conditions.precision,
            enable_gradient_checkpointing=conditions.gradient_checkpointing,
            num_iterations=STEPS,
            save_every=STEPS,
            vis_every=STEPS,
            log_every=1,
            enable_mlflow=with_mlflow,
        )
        with StopSignals() as stop, build_run(config, options) as run:
            train(run, stop)
        lines = [json.loads(line) for line in (options.workspace / METRICS_FILE).open()]
    steps = [line for line in lines if "step_s" in line]
    step, wait = (float(np.median([line[key] for line in steps])) for key in ("step_s", "data_wait_s"))
    totals = {name: run.costs.total(name) for name in NAMES}
    return {name: seconds / times / EVERY.get(name, 1) / step for name, (seconds, times) in totals.items()}, wait / step
