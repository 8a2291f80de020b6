"""What is spent beside the steps is counted under its name and logged as a share of the steps' time."""

import time

import pytest

from tests.scripts.tiny import tiny_run
from train import loop
from train.costs import NAMES, Costs
from train.signals import StopSignals
from train.trackers import read_metrics


def test_shares_are_of_the_time_of_the_steps_and_begin_anew():
    costs = Costs()
    for _ in range(2):
        with costs.of("save"):
            time.sleep(0.02)
    found = costs.take(4.0)
    assert found.keys() == {f"share/{name}" for name in NAMES} | {"share/all"}
    assert found["share/save"] == found["share/all"] == pytest.approx(0.01, abs=0.009) and found["share/ema"] == 0
    assert costs.take(4.0)["share/all"] == 0


def test_a_run_logs_what_was_spent_since_the_line_before(build, monkeypatch):
    run = build(config=tiny_run("unet"), num_iterations=2, log_every=1, save_every=1)
    save = loop.save

    def slowly(run, done):
        time.sleep(0.5 if done == 1 else 0)
        save(run, done)

    monkeypatch.setattr(loop, "save", slowly)
    with StopSignals() as stop, run:
        loop.train(run, stop)
    first, second = (line for line in read_metrics(run.options.workspace / "metrics.jsonl") if "train/loss" in line)
    assert first["share/save"] == first["share/log"] == 0 < first["share/ema"]
    assert second["share/save"] * second["step_s"] > 0.5 and second["share/log"] > 0
    assert second["share/all"] == pytest.approx(sum(second[f"share/{name}"] for name in NAMES))
