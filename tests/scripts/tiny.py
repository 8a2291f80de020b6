"""A network small enough to train in seconds, and what tests ask of its runs."""

from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "model": {
        "max_disp": 32,
        "feature_type": "cnn",
        "cnn": "edgenext_xx_small",
        "volume_dim": 4,
        "corr_groups": 2,
        "n_gru_layers": 1,
        "hidden_dims": [16],
        "context_dims": [8, 8, 8],
        "train_iters": 2,
        "valid_iters": 2,
    },
    "data": {
        "datasets": [{"name": "made", "type": "synthetic", "params": {"size": [128, 96], "length": 50, "max_disparity": 24}}],
        "image_sizes": [[96, 64], [64, 64]],
        "image_augmentation": ["jittering"],
        "workers": 0,
    },
    "loss": {"stereo": {"sequence": {"function": "sequence_loss"}, "initial": {"function": "initial_disparity_loss"}}},
    "validation": {"every": 0},
}
QUICK = ["--batch_size_forward", "2", "--num_iterations", "4", "--save_every", "2", "--log_every", "2", "--enable_mlflow", "false"]


class Outcome:
    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output

    @property
    def lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.strip()]


def weights(workspace: Path, step: int, part: str = "") -> dict[str, torch.Tensor]:
    return torch.load(workspace / "checkpoint" / f"{step:08d}{part}.pt", weights_only=True)["model"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, such as {different[:3]}"
