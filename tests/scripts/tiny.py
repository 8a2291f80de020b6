"""A network small enough to train in seconds, and what tests ask of its runs."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core import offered
from tests.core.networks import TINIES
from train.trackers import read_metrics

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
EVERY_TERM = {
    "initial": "initial_disparity_loss",
    "vertical": "vertical_loss",
    "log_variance": "uncertainty_loss",
    "pose": "pose_loss",
}
RESIDUAL_POSE = {"residual_pose": [1.0, 0.05]}  # without it there is nothing for a pose to be trained on
QUICK = ["--batch_size_forward", "2", "--num_iterations", "4", "--save_every", "2", "--log_every", "2", "--enable_mlflow", "false"]


def tiny_run(kind: str, **model: Any) -> dict[str, Any]:
    """A run file of any network, for seconds, with a loss of everything that it offers."""
    section = {"type": kind, **(model or TINIES[kind])}
    terms = {field: {"function": function} for field, function in EVERY_TERM.items() if field in offered(section)}
    loss = {"stereo": {"sequence": {"function": "sequence_loss"}, **terms}}
    data = copy.deepcopy(TINY["data"]) | {"image_sizes": [[64, 64]], "max_disparity": 32}
    data["datasets"][0]["params"] |= RESIDUAL_POSE if "pose" in terms else {}
    return {**TINY, "model": section, "data": data, "loss": loss}


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


def assert_same_run(first: Path, second: Path, step: int) -> None:
    """All that a step left in two workspaces, bit for bit: weights, averages, optimizer, schedule, counters, the best and the last weights
    with their metrics, and every logged number."""
    for part in ("", "_ema", "_optimizer"):
        contents = [torch.load(folder / "checkpoint" / f"{step:08d}{part}.pt", weights_only=True) for folder in (first, second)]
        for content in contents:
            for key in ("options", "versions", "run_id", "unmeasured"):
                content.pop(key, None)
        different = list(_differences(*contents))
        assert not different, f"{part or 'weights'}: {len(different)} entries differ, such as {different[:3]}"
    for name in ("best.json", "last.json", "best.safetensors", "last.safetensors"):
        marks = [folder / "checkpoint" / name for folder in (first, second)]
        there = [path.exists() for path in marks]
        assert there[0] == there[1] and (not there[0] or marked(marks[0]) == marked(marks[1])), name
    ours, theirs = logged(first), logged(second)
    assert ours == theirs


def marked(path: Path) -> object:
    """Of best.* or last.* what does not depend on where and how a run was started."""
    if path.suffix == ".json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}
    return {name: (one.dtype, one.shape, one.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, one in load_file(path).items()}


def _differences(first: object, second: object, at: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            yield from _differences(first.get(key), second.get(key), f"{at}.{key}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from _differences(one, other, f"{at}[{i}]")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield at
    elif first != second:
        yield f"{at}: {first!r} / {second!r}"


def logged(workspace: Path) -> dict[tuple[int, str], float | None]:
    """(step, name) -> every number in `metrics.jsonl` that does not measure time or memory. Each stands there once."""
    found: dict[tuple[int, str], float | None] = {}
    for line in read_metrics(workspace / "metrics.jsonl"):
        for name, value in line.items():
            if name.startswith(("train/", "lr", "val/", "skipped", "broken")) and name != "val/seconds":
                assert (line["step"], name) not in found, f"{name} at step {line['step']} stands there twice"
                found[line["step"], name] = value
    return found
