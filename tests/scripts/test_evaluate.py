"""The command that measures: its numbers against independent ones, its files, sweeps, processes, and what it says of wrong input."""

import csv
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core import build_model, load_model
from scripts.evaluate import main
from tests.scripts.tiny import ROOT, TINY
from train.checkpoint import Checkpoints
from train.datasets.synthetic import Synthetic
from train.marks import mark
from train.measure import short_names
from train.measure_tracking import step_of
from utils.images import read_image, write_image

SCENES = 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for i in range(SCENES):
        sample = Synthetic(None, size=(96, 64), seed=5, max_disparity=20, noise=0.0).load(i)
        folder = root / f"scene{i}"
        folder.mkdir()
        write_image(folder / "left.png", sample.left)
        write_image(folder / "right.png", sample.right)
        np.savez(folder / "disparity.npz", disparity=sample.disparity, valid=sample.valid, nocc=sample.valid & ~sample.occluded)
    return root


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "00000005.pt"
    torch.save({"model_config": {"type": "foundation_stereo", **TINY["model"]}, "model": build_model(TINY["model"]).state_dict()}, path)
    return path


def evaluate(*options):
    result = CliRunner().invoke(main, [str(option) for option in options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_results_are_what_an_independent_computation_finds(scenes, tmp_path):
    from train.baselines import sgbm
    from utils.images import read_image

    result = evaluate("--checkpoint", "sgbm", "--suite", "scenes", "--data_root", scenes, "--output", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["protocol"]["mask"] == "all" and content["protocol"]["averaging"] == "image"
    assert set(content["scenes"]) == {f"scene{i}" for i in range(SCENES)}
    errors = []
    for i in range(SCENES):
        folder = scenes / f"scene{i}"
        truth = np.load(folder / "disparity.npz")
        found = sgbm(read_image(folder / "left.png"), read_image(folder / "right.png"), truth["disparity"].max())
        error = np.abs(found - truth["disparity"])
        errors.append(error.mean())
        scene = content["scenes"][f"scene{i}"]
        assert scene["epe"] == pytest.approx(error.mean(), rel=1e-5)
        assert scene["bad_2"] == pytest.approx(100 * (error > 2).mean(), rel=1e-6)
        assert scene["noc/epe"] == pytest.approx(error[truth["nocc"]].mean(), rel=1e-5)
    assert content["mean"]["epe"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert "scene0" in result.output and "mean by mask" in result.output


def test_a_sweep_is_a_table_a_plot_and_a_page(scenes, weights_file, tmp_path):
    result = evaluate(
        "--checkpoint", weights_file, "sgbm", "--suite", "scenes", "--data_root", scenes, "--iterations", 1, 3, "--cascades", 1, 2,
        "--output", tmp_path / "r.json", "--report", tmp_path / "report", "--pictures", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [(row["iterations"], row["cascades"]) for row in rows] == [("1", "1"), ("3", "1"), ("1", "2"), ("3", "2"), ("-", "1")]
    assert rows[-1]["model"] == "sgbm" and len({row["epe"] for row in rows}) == 5
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [run["iterations"] for run in runs] == [1, 3, 1, 3, None] and all(run["memory_gib"] > 0 for run in runs)
    assert [run["scales"] for run in runs] == [[1.0], [1.0], None, None, None]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "sweep.png" in page and (tmp_path / "report" / "sweep.png").stat().st_size > 10_000
    assert len(list((tmp_path / "report").glob("*scene*.png"))) == 5


def test_torchvisions_table_in_its_layout(scenes, weights_file, tmp_path):
    """Iterations x cascades, its columns in its order; here of the scenes, reduced to 64 x 32, where disparity is two thirds."""
    shipped = json.loads(re.sub(r"(?m)^ *//.*", "", (ROOT / "configs" / "eval" / "torchvision.json").read_text()))
    protocol = shipped["protocol"] | {"resolution": [64, 32]}
    (tmp_path / "s.json").write_text(json.dumps({"protocol": protocol, "datasets": [{"name": "scenes", "type": "scenes", "path": "."}]}))
    options = [
        "--suite",
        tmp_path / "s.json",
        "--data_root",
        scenes,
        "--iterations",
        2,
        5,
        "--cascades",
        1,
        2,
        "--output",
        tmp_path / "r.json",
    ]
    result = evaluate("--checkpoint", weights_file, *options)
    assert result.exit_code == 0, result.output
    header, *rows = (line.split() for line in result.output.splitlines()[:5])
    metrics = ["mae", "rmse", "1px", "3px", "5px", "relepe", "fl-all"]
    assert header == ["model", "iterations", "cascades", *metrics, "s", "per", "pair", "GiB"]
    assert [row[1:3] for row in rows] == [["2", "1"], ["5", "1"], ["2", "2"], ["5", "2"]] and len({row[3] for row in rows}) == 4
    run = json.loads((tmp_path / "r.json").read_text())["runs"][0]
    assert list(run["mean"]) == metrics and run["protocol"]["resolution"] == [64, 32] and run["runtime"]["scene0"]["size"] == [64, 32]
    found = []
    for i in range(SCENES):
        left, right = (
            cv2.resize(read_image(scenes / f"scene{i}" / f"{eye}.png"), (64, 32), interpolation=cv2.INTER_AREA) for eye in ("left", "right")
        )
        truth = np.load(scenes / f"scene{i}" / "disparity.npz")["disparity"] * 2 / 3
        error = np.abs(load_model(weights_file).infer(left, right, iters=2) - cv2.resize(truth, (64, 32), interpolation=cv2.INTER_LINEAR))
        found.append(error.mean())
    assert run["mean"]["mae"] == pytest.approx(np.mean(found), rel=0.03)  # edges of the ground truth are not blurred there


def test_two_processes_find_what_one_does(scenes, weights_file, tmp_path):
    options = ["--checkpoint", weights_file, "--suite", "scenes", "--data_root", scenes, "--iterations", 2, "--output"]
    assert evaluate(*options, tmp_path / "one.json").exit_code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / "scripts" / "evaluate.py"]
    done = subprocess.run(
        [*map(str, command), *map(str, options), str(tmp_path / "two.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    for key in ("scenes", "datasets", "mean", "protocol"):
        assert one[key] == two[key]
    assert list(one["scenes"]) == list(two["scenes"])


def test_changes_of_the_network_change_its_numbers(scenes, weights_file, tmp_path):
    numbers = []
    for change in ([], ["--set", "model.disparity_attention=heads"]):
        options = ["--checkpoint", weights_file, "--suite", "scenes", "--data_root", scenes, "--iterations", 1, "--max_samples", 1]
        assert evaluate(*options, *change, "--output", tmp_path / "r.json").exit_code == 0
        numbers.append(json.loads((tmp_path / "r.json").read_text())["mean"]["epe"])
    assert numbers[0] != numbers[1]


def test_results_reach_the_run_that_the_weights_are_of(scenes, weights_file, tmp_path, monkeypatch):
    from train import tracker_backends

    logged = []

    class Recorder:
        def __init__(self, **options):
            self.run_id = options["run_id"]

        def log(self, numbers, step):
            logged.append((self.run_id, step, numbers))

    monkeypatch.setattr(tracker_backends, "MlflowTracker", Recorder)
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint" / "00000005_ema.pt"
    path.write_bytes(weights_file.read_bytes())
    options = ["--suite", "scenes", "--data_root", scenes, "--iterations", 3, "--tracker", "--max_samples", 1, "--checkpoint"]
    refused(evaluate(*options, path), "--tracker", "mlflow_run.json")
    (tmp_path / "mlflow_run.json").write_text('{"run_id": "abc"}')
    result = evaluate(*options, path)
    assert result.exit_code == 0 and "recorded in MLflow: abc" in result.output, result.output
    ((run, step, numbers),) = logged
    assert (run, step) == ("abc", 5) and numbers["eval/scenes/it3/epe"] > 0


def test_a_result_is_of_the_step_that_its_weights_are_of(weights_file, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    content = torch.load(weights_file, weights_only=True)
    best = content | {"step": 7, "validation": {"step": 7, "metrics": {"epe": 1.0}}}
    at = content | {"step": 10}
    mark(checkpoints.write(10, {"model": at, "optimizer": {}, "ema": at, "best": best}))
    for name, step in (("checkpoint/best.safetensors", 7), ("checkpoint/last.safetensors", 10), (".", 10), ("checkpoint/00000010.pt", 10)):
        assert step_of(tmp_path / name) == step, name
    assert step_of(weights_file.parent / "weights.pth") == 0


def refused(result, *words):
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(lines) == 1 and all(word in lines[0] for word in words), result.output


def test_networks_are_called_by_what_their_paths_do_not_share():
    assert short_names(["/runs/one/ema.pt", "/runs/two/ema.pt"]) == ["one/ema.pt", "two/ema.pt"]
    assert short_names(["/runs/one/ema.pt", "sgbm"]) == ["/runs/one/ema.pt", "sgbm"]


def test_wrong_input_is_one_line(scenes, weights_file, tmp_path):
    run = ["--suite", "scenes", "--checkpoint", "sgbm"]
    refused(evaluate(*run, "--data_root", tmp_path / "absent"), "no such folder")
    refused(evaluate("--suite", "scene", "--checkpoint", "sgbm"), "--suite scene", "did you mean 'scenes'")
    refused(evaluate("--suite", "scenes", "--data_root", scenes, "--checkpoint", tmp_path / "absent.pt"), "absent.pt")
    refused(evaluate(*run, "--data_root", scenes, "--device", "tpu"), "--device tpu")
    network = ["--suite", "scenes", "--checkpoint", weights_file, "--data_root", scenes]
    refused(evaluate(*network, "--set", "data.workers=1"), "only keys of the network")
    for option in (["--iterations", 3], ["--cascades", 2], ["--precision", "bf16"], ["--set", "model.max_disp=64"]):
        refused(evaluate(*run, "--data_root", scenes, *option), f"{option[0]}: does nothing with sgbm; leave it out")
    refused(evaluate(*network, "--pictures", 2), "--pictures: does nothing without --report")
    refused(
        evaluate(*run, "--data_root", scenes, "--output", tmp_path / "r.csv"),
        "r.csv: does not end in .json; expected a file such as r.json",
    )
    broken = tmp_path / "broken" / "scene0"
    broken.mkdir(parents=True)
    for name in ("left.png", "right.png", "disparity.npz"):
        (broken / name).write_bytes((scenes / "scene0" / name).read_bytes())
    (broken / "left.png").write_bytes(b"")
    refused(evaluate(*run, "--data_root", tmp_path / "broken"), "scene0", "not be comparable")
    (tmp_path / "file").write_text("")
    refused(evaluate(*run, "--data_root", scenes, "--max_samples", 1, "--output", tmp_path / "file" / "r.json"), "cannot be written")


@pytest.mark.data
def test_the_baseline_on_the_real_pairs_is_what_others_measured(shared, tmp_path):
    """Figures of an independent computation: EPE 1.72, bad-1 16.7, bad-2 12.6, bad-3 10.7, the mean of the 18 development scenes."""
    options = ["--suite", "scenes", "--data_root", shared / "data" / "real", "--output", tmp_path / "r.json"]
    assert evaluate("--checkpoint", "sgbm", *options).exit_code == 0
    mean = json.loads((tmp_path / "r.json").read_text())["mean"]
    assert [round(mean["epe"], 2), *(round(mean[f"bad_{n}"], 1) for n in (1, 2, 3))] == [1.72, 16.7, 12.6, 10.7]
