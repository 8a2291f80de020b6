"""What the suite is for: a network learns. Four pairs by heart within a minute; fixed pairs it never saw, within half an hour of a CPU."""

import json

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
PLAIN = ["--enable_mlflow", "false", "--enable_gradient_checkpointing", "false", "--save_every", 0, "--workspace", "run"]


def logged(workspace, name: str) -> list[float]:
    return [line[name] for line in map(json.loads, (workspace / "metrics.jsonl").open()) if name in line]


def test_four_pairs_are_known_by_heart_to_less_than_a_pixel(train, tmp_path):
    (tmp_path / "minute.json").write_text(json.dumps(MINUTE))
    options = ["--overfit", 4, "--batch_size_forward", 4, "--num_iterations", 60, "--log_every", 10]
    assert train("--config", tmp_path / "minute.json", *PLAIN, *options).code == 0
    errors = logged(tmp_path / "run", "train/epe")
    assert errors[0] > 3 and errors[-1] < 1, errors
