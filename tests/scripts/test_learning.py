"""What the suite is for: a network learns. Four pairs by heart within a minute; in half an hour, pairs that it never saw.

`OMP_NUM_THREADS=1 uv run pytest -m slow tests/scripts/test_learning.py --log-cli-level=INFO` is the half hour.
"""

import json
import logging

import pytest

log = logging.getLogger("tests.learning")

MINUTE = {
    "model": {
        "max_disp": 32, "feature_type": "cnn", "cnn": "mobilenetv4_conv_small_050", "volume_dim": 8, "corr_groups": 4, "n_gru_layers": 1,
        "hidden_dims": [16], "context_dims": [8, 8, 16], "train_iters": 2, "valid_iters": 2,
    },
    "data": {
        "datasets": [{"name": "made", "type": "synthetic", "params": {"size": [128, 80], "length": 50, "max_disparity": 24}}],
        "image_sizes": [[96, 64]],
        "workers": 0,
    },
    "loss": {
        "stereo": {
            "planes": {"function": "plane_cross_entropy"},
            "initial": {"function": "initial_disparity_loss"},
            "sequence": {"function": "sequence_loss"},
        }
    },
    "optimizer": {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 4e-3}]},
    "lr_scheduler": {"type": "WarmupCosine", "params": {"warmup_steps": 5}},
    "validation": {"every": 0},
}  # fmt: skip
HALF_HOUR, EPE_AFTER = 1600, 4.3  # steps of one crop; pixels
PLAIN = ["--enable_mlflow", "false", "--enable_gradient_checkpointing", "false", "--save_every", 0, "--workspace", "run"]


def logged(workspace, name: str) -> list[float]:
    return [line[name] for line in map(json.loads, (workspace / "metrics.jsonl").open()) if name in line]


def test_four_pairs_are_known_by_heart_to_less_than_a_pixel(train, tmp_path):
    (tmp_path / "minute.json").write_text(json.dumps(MINUTE))
    options = ["--overfit", 4, "--batch_size_forward", 4, "--num_iterations", 60, "--log_every", 10]
    assert train("--config", tmp_path / "minute.json", *PLAIN, *options).code == 0
    errors = logged(tmp_path / "run", "train/epe")
    assert errors[0] > 3 and errors[-1] < 1, errors


@pytest.mark.slow
def test_half_an_hour_teaches_the_light_network_pairs_it_never_saw(train, tmp_path):
    """The recipe of the network that comes with the project, on one process and for fewer steps; 24 fixed pairs of another seed."""
    options = ["--batch_size_forward", 1, "--num_iterations", HALF_HOUR, "--precision", "bf16", "--log_every", 50]
    outcome = train("--config", "light.json", *PLAIN, *options, "--set", f"validation.every={HALF_HOUR // 4}")
    assert outcome.code == 0, outcome.output
    errors = logged(tmp_path / "run", "val/epe")
    log.info("EPE on held pairs, every %d steps: %s", HALF_HOUR // 4, errors)
    assert errors[-1] < EPE_AFTER and errors[-1] < 0.3 * errors[0], errors
