"""A run of the real command that trains the right camera's pose, and what such a run is refused for."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from core import load_model
from scripts.infer import main as infer
from tests.core.networks import TINIES
from tests.scripts.tiny import QUICK
from train.datasets import build_dataset
from utils.images import write_image

PARAMS = {"size": [96, 64], "length": 4, "max_disparity": 20, "residual_pose": [1.0, 0.05]}
MADE = {"name": "made", "type": "synthetic", "params": PARAMS}
RUN = {
    "model": {"type": "unet", **TINIES["unet"]},
    "data": {"datasets": [MADE], "image_sizes": [[96, 64]], "stereo_augmentation": False, "workers": 0},
    "loss": {
        "stereo": {
            "disparity": {"function": "smooth_l1_loss", "weight": 0.1},
            "likelihood": {"function": "uncertainty_loss", "weight": 0.1},
            "pose": {"function": "pose_loss", "weight": 10000},
        }
    },
    "optimizer": {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 3e-3}]},
    "ema": {"decay": 0.5},
    "validation": {"every": 60, "datasets": [{**MADE, "name": "same"}]},
}
PLAIN = ["--enable_gradient_checkpointing", "false"]


@pytest.fixture
def run_file(tmp_path):
    def write(content=RUN):
        path = tmp_path / "pose.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_the_pose_of_four_pairs_is_learned_and_written(train, run_file, tmp_path):
    """Far below the best constant, through a cache that keeps the labels; then `infer` gives it for a pair."""
    cache = f'data.cache={{"root": "{tmp_path / "cache"}"}}'
    options = ["--batch_size_forward", 4, "--overfit", 4, "--num_iterations", 60, "--save_every", 60, "--log_every", 20]
    outcome = train("--config", run_file(), "--workspace", "run", *PLAIN, *options, "--enable_mlflow", "false", "--set", cache)
    assert outcome.code == 0, outcome.output
    logged = {}
    for line in (tmp_path / "run" / "metrics.jsonl").open():
        logged |= {name: value for name, value in json.loads(line).items() if "pose" in name}
    assert logged["val/pose_mse"] < 0.35 * logged["val/pose_mse_constant"] and logged["train/pose"] < 0.01 * logged["val/pose_mse_constant"]
    assert logged["val/same/pose_mse"] == logged["val/pose_mse"] and "pose MSE" in outcome.output

    sample = build_dataset("synthetic", None, PARAMS, "data").load(0)
    for eye in ("left", "right"):
        write_image(tmp_path / f"{eye}.png", getattr(sample, eye))
    views = [f"--{eye}={tmp_path / eye}.png" for eye in ("left", "right")]
    done = CliRunner().invoke(infer, ["--checkpoint", str(tmp_path / "run"), *views, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (pair,) = json.loads((tmp_path / "out" / "inference.json").read_text())["pairs"]
    found = np.array([*pair["pose"]["rotation_rad"], *pair["pose"]["position_baselines"]])
    assert np.square(found - sample.pose).mean() < 0.5 * np.square(sample.pose).mean()
    assert load_model(tmp_path / "run").offers == {"log_variance", "pose"}


def without(part, key):
    content = json.loads(json.dumps(RUN))
    if part == "loss":
        del content["loss"]["stereo"][key]
    elif part == "model":
        del content["model"][key]
    else:
        del content["data"]["datasets"][0]["params"][key]
    return content


@pytest.mark.parametrize(
    ("part", "key", "words"),
    [
        ("model", "predict_pose", ("loss.stereo.pose.function: pose_loss needs", "set model.predict_pose to true, or remove the loss")),
        ("loss", "pose", ("model.predict_pose: true, but no loss is of the network's 'pose'", "of weight 0 to leave it untrained")),
        ("data", "residual_pose", ("loss.stereo.pose: no data set of label type 'stereo' has poses", "residual_pose")),
    ],
)
def test_a_run_that_could_not_learn_it_is_one_line(train, run_file, part, key, words):
    outcome = train(*QUICK, *PLAIN, "--config", run_file(without(part, key)))
    (line,) = (line for line in outcome.lines if line.startswith("error: "))
    assert outcome.code == 2 and all(word in line for word in ("pose.json: ", *words)), outcome.output
