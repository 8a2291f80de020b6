"""The training command as users meet it: what it writes, how it continues, what it says to bad input."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.claims import claimed_by_another_process
from tests.fsd_layout import write_pair
from tests.scripts.tiny import QUICK, ROOT, TINY, assert_same, tiny_run, weights
from train import memory, preflight

FEW = [*QUICK, "--config"]


def test_help_answers_at_once():
    best = min(_seconds([sys.executable, str(ROOT / "scripts" / "train.py"), "--help"]) for _ in range(3))
    assert best < 1.0


def _seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def test_options_are_exactly_the_documented_ones_with_their_defaults():
    from scripts.train import main

    found = {option.opts[0]: option.default for option in main.params}
    documented = {
        "--config": "configs/train/stereo_v1.json", "--batch_size_forward": 4, "--gradient_accumulation_steps": 1,
        "--enable_gradient_checkpointing": True, "--enable_mixed_precision": False, "--enable_ema": True, "--num_iterations": 100_000,
        "--save_every": 5000, "--log_every": 500, "--vis_every": 0, "--enable_mlflow": True, "--seed": 0,
    }  # fmt: skip
    assert {name: found[name] for name in documented} == documented
    assert str(found["--workspace"]) == "workspace/stereo_train"
    others = {"--workspace", "--checkpoint", "--init_only", "--precision", "--set", "--overfit", "--dry_run", "--detect_anomaly"}
    others |= {"--collective_timeout_s", "--memory_gb"}
    assert set(found) == {*documented, *others}


def test_a_run_leaves_checkpoints_configuration_metrics_and_previews(train, tiny, tmp_path):
    held = ["--set", "validation.every=2", "--set", "validation.max_samples=2", "--set", "validation.fraction=0.3"]
    outcome = train(*FEW, tiny, "--workspace", "run", "--vis_every", 2, *held)
    assert outcome.code == 0, outcome.output
    run = tmp_path / "run"
    names = {path.name for path in (run / "checkpoint").iterdir()}
    parts = (".pt", "_optimizer.pt", "_ema.pt", ".json")
    marks = {f"{name}{suffix}" for name in ("best", "last") for suffix in (".safetensors", ".json")}
    numbered = {name for name in names if not name.endswith("_best.safetensors")}
    assert numbered == {f"{step:08d}{part}" for step in (2, 4) for part in parts} | {"latest.pt"} | marks
    for name in names:
        if name.endswith(".pt"):
            torch.load(run / "checkpoint" / name, weights_only=True)
    effective = json.loads((run / "config.json").read_text())
    assert effective["optimizer"]["type"] == "AdamW" and effective["model"]["corr_radius"] == 4
    assert torch.load(run / "checkpoint" / "00000004_optimizer.pt", weights_only=True)["config"] == effective
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    merged = {key: value for line in lines for key, value in line.items()}
    expected = {
        "train/loss",
        "train/sequence",
        "train/epe",
        "train/made/epe",
        "train/grad_norm",
        "lr",
        "samples_per_s",
        "data_wait_s",
        "share/all",
    }
    assert expected | {"memory_gib", "val/epe", "val/made/d1_all", "val/epe_constant"} <= merged.keys()
    assert [line["step"] for line in lines if "val/epe" in line] == [0, 2, 4]
    saving = {line["step"]: line["share/save"] for line in lines if "share/save" in line}
    assert saving.keys() == {2, 4} and saving[2] == 0 < saving[4]  # the report of a step comes before it is saved
    assert re.search(r"saving 2 checkpoints held the loop up for \d+\.\d+ s, \d+\.\d{3} % of its steps' time", outcome.output)
    assert len(list((run / "vis" / "step_00000004").glob("*.png"))) == 2


def test_two_runs_do_not_share_a_workspace(train, tiny, tmp_path):
    """Started twice by mistake, or queued again while the first still saves, the second touches nothing."""
    assert train(*FEW, tiny, "--workspace", "run").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = [*FEW, tiny, "--workspace", "run", "--checkpoint", 2]
    with claimed_by_another_process(tmp_path / "run") as (process, _):
        refused(train(*again), f"run: process {process} on ", " is training there at this moment")
    del before[tmp_path / "run" / ".lock"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert train(*again).code == 0


def test_toml_is_accepted_and_kept(train, tmp_path):
    from utils.files import format_config

    (tmp_path / "run.toml").write_text(format_config(TINY, ".toml"))
    assert train(*FEW, "run.toml", "--workspace", "run").code == 0
    again = train(*FEW, "run/config.toml", "--workspace", "again")
    assert again.code == 0, again.output
    assert_same(weights(tmp_path / "run", 4), weights(tmp_path / "again", 4))


def test_latest_continues_and_starts_where_nothing_is(train, tiny, tmp_path):
    common = [*FEW, tiny, "--workspace", "run", "--checkpoint", "latest"]
    assert "starting from step 0" in train(*common).output
    outcome = train(*common)
    assert outcome.code == 0 and "nothing to do" in outcome.output
    outcome = train(*common, "--num_iterations", 6)
    assert outcome.code == 0 and (tmp_path / "run" / "checkpoint" / "00000006.pt").exists()


def test_going_back_sets_later_checkpoints_aside(train, tiny, tmp_path):
    common = [*FEW, tiny, "--workspace", "run"]
    assert train(*common).code == 0
    before = weights(tmp_path / "run", 4)
    outcome = train(*common, "--checkpoint", 2)
    assert outcome.code == 0 and "later checkpoints are now in" in outcome.output
    (aside,) = (tmp_path / "run" / "checkpoint").glob("set_aside_*")
    assert (aside / "00000004_optimizer.pt").exists()
    assert_same(before, weights(tmp_path / "run", 4))


def test_gradient_checkpointing_changes_no_weight(train, tiny, tmp_path):
    for enabled in ("true", "false"):
        assert train(*FEW, tiny, "--workspace", enabled, "--enable_gradient_checkpointing", enabled).code == 0
    assert_same(weights(tmp_path / "true", 4), weights(tmp_path / "false", 4))


def test_pairs_in_the_fsd_layout_train(train, tmp_path):
    from train.datasets import DATASETS

    made = DATASETS["synthetic"](None, size=(128, 96), length=12, max_disparity=24.0)
    for i in range(12):
        sample = made.load(i)
        write_pair(tmp_path / "data" / f"scene_{i % 2}" / "dataset" / "data", f"{i:04d}", sample.left, sample.right, sample.disparity)
    content = {**TINY, "data": {"datasets": [{"name": "mine", "path": "./data"}], "image_sizes": [[96, 64]], "workers": 1}}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    outcome = train(*FEW, "mine.json", "--workspace", "run", "--set", "validation.every=4")
    assert outcome.code == 0, outcome.output
    assert "validation on 1 samples" in outcome.output


@pytest.fixture
def light(tmp_path):
    """A run file of the network with the fewest operators: a plan goes through them five times."""
    path = tmp_path / "light.json"
    path.write_text(json.dumps(tiny_run("unet")))
    return path


def test_a_dry_run_prints_the_plan_and_writes_nothing(train, light, tmp_path):
    outcome = train(*FEW, light, "--workspace", "run", "--dry_run")
    assert outcome.code == 0, outcome.output
    words = ("parameters", "made", "stereo: sequence", "2 samples (2 x 1 accumulated x 1 processes)", "gradient norm", "kept for backward")
    for word in (*words, "memory of a process, estimated (2 x 64 x 64, fp32, gradient checkpointing on)", "largest --batch_size_forward"):
        assert word in outcome.output, word
    assert {path.name for path in tmp_path.iterdir()} == {"light.json"}


def test_a_dry_run_plans_for_a_memory_that_is_not_here(train, light, monkeypatch):
    plan = [*FEW, light, "--workspace", "run", "--dry_run", "--memory_gb"]
    refused(train(*plan, 0.001), "memory: 2 x 64 x 64 in fp32 needs about", "what fits")
    monkeypatch.setattr(memory, "_container_limits", lambda: iter([2**20]))
    outcome = train(*plan, 24)
    assert outcome.code == 0 and "can be used                          21.60 GiB" in outcome.output, outcome.output
    assert "no step is taken: 0.0" in outcome.output and "gradient norm" not in outcome.output


def test_a_run_says_what_it_is_short_of_and_what_it_runs_on(train, tiny, tmp_path, monkeypatch):
    free = {preflight.SHARED_MEMORY: 1000}
    monkeypatch.setattr(preflight, "_free", lambda folder: free.get(folder, 60 * 2**20))
    outcome = train(*FEW, tiny, "--num_iterations", 1, "--save_every", 1, "--workspace", "run", "--set", "data.workers=1")
    assert outcome.code == 0, outcome.output
    assert "nothing is measured" not in outcome.output  # nor was it asked for
    assert "1 x cpu, no GPU is visible; python" in outcome.output and "torch" in outcome.output
    assert "/dev/shm: 0 MiB are free" in outcome.output and "checkpoints of about" not in outcome.output  # one of 44 MB fits
    unmeasured = ["--set", "validation.every=1", "--set", "validation.fraction=0"]
    outcome = train(*FEW, tiny, "--num_iterations", 2, "--save_every", 1, "--workspace", "run", "--checkpoint", "latest", *unmeasured)
    assert "checkpoints of about" not in outcome.output  # one is there, one is to come
    assert "validation.every: 1, but nothing is measured" in outcome.output
    again = ["--num_iterations", 2, "--save_every", 1, "--workspace", "other", "--set", "checkpoints.keep_last=2"]
    outcome = train(*FEW, tiny, *again)
    assert "0.1 GiB are free, and 2 checkpoints of about 0.04 GiB are still to come" in outcome.output
    written = sum(path.stat().st_size for path in (tmp_path / "other" / "checkpoint").glob("00000002*.pt"))
    assert abs(written / 2**30 - 0.04) < 0.005


# ---- bad input --------------------------------------------------------------------------------------------------------------------------


def refused(outcome, *words):
    assert outcome.code == 2, outcome.output
    errors = [line for line in outcome.lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in outcome.output, outcome.output
    assert all(word in errors[0] for word in words), errors[0]


def test_no_data_says_how_to_lay_it_out_and_names_the_quick_start(train):
    refused(train(), "left/rgb", "right/rgb", "left/disparity", "quickstart.json", "data")


def test_an_empty_folder_and_unpaired_files_are_named(train, tmp_path):
    (tmp_path / "data").mkdir()
    refused(train(), "no sample under")
    made = np.zeros((32, 32, 3), np.uint8)
    from PIL import Image

    (tmp_path / "data" / "left" / "rgb").mkdir(parents=True)
    Image.fromarray(made).save(tmp_path / "data" / "left" / "rgb" / "0001.png")
    refused(train(), "unpaired", "0001", "right/rgb")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "nothing.json"], ["nothing.json", "no such file"]),
        (["--set", "loss.stereo.sequence.function=sequence_los"], ["loss.stereo.sequence.function", "'sequence_loss'"]),
        (["--set", "loss.stereo.sequence.params.gama=1"], ["params.gama", "'gamma'"]),
        (["--set", "data.image_sizes=[[100, 64]]"], ["data.image_sizes[0]", "[100, 64]", "multiples of 32", "[96, 64]"]),
        (["--set", "model.max_disp=100"], ["model.max_disp", "100", "32"]),
        (["--set", "optimizer.params[0].params.include=[\"nothing*\"]"], ["optimizer.params[0]"]),
        (["--set", "lr_scheduler.type=Cosine"], ["lr_scheduler", "Cosine"]),
        (["--checkpoint", "7"], ["--checkpoint 7", "no such step"]),
        (["--checkpoint", "other.pt"], ["other.pt", "no such file"]),
        (["--precision", "fp16"], ["fp16", "bf16"]),
        (["--enable_mixed_precision", "true", "--precision", "bf16"], ["--enable_mixed_precision", "--precision"]),
        (["--set", "validation.size=[100, 64]"], ["validation.size", "multiples of 32"]),
    ],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is refused on the CPU only")
def test_bad_input_is_one_line_and_exit_code_2(train, tiny, tmp_path, options, words):
    refused(train(*FEW, tiny, "--workspace", "run", *options), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("splitter", ["FSDP", "DEEPSPEED"])
def test_a_launch_configuration_that_splits_the_network_is_refused(train, tiny, tmp_path, monkeypatch, splitter):
    """Its state would be saved in pieces, and averaged in none."""
    monkeypatch.setenv(f"ACCELERATE_USE_{splitter}", "true")
    refused(train(*FEW, tiny, "--workspace", "run"), "launch configuration", splitter, "configs/accelerate")
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(train, tiny, tmp_path):
    assert train(*FEW, tiny, "--workspace", "run").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    refused(train(*FEW, tiny, "--workspace", "run", "--seed", 1), "already holds a run", "--checkpoint latest")
    wider = ["--set", "model.volume_dim=8", "--set", "model.corr_groups=4"]
    refused(train(*FEW, tiny, "--workspace", "run", "--checkpoint", "latest", *wider), "another model", "volume_dim: 8 / 4")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_run_file_is_not_written_over_by_its_run(train, tiny, tmp_path):
    (tmp_path / "proj").mkdir()
    mine = tiny.rename(tmp_path / "proj" / "config.json")
    before = mine.read_bytes()
    refused(train(*FEW, mine, "--workspace", "proj"), "proj/config.json: is the run file itself", "pass another --workspace")
    assert [path.name for path in (tmp_path / "proj").iterdir()] == ["config.json"] and mine.read_bytes() == before


def test_a_workspace_that_cannot_be_written_is_named(train, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    refused(train(*FEW, tiny, "--workspace", "file/run"), "file/run", "cannot be written")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        refused(train(*FEW, tiny, "--workspace", "closed/run"), "closed/run", "cannot be written")
