"""The update under bad gradients: nothing moves, everything is counted, and the loop stays in step with accelerate."""

import json
import logging

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.scripts.tiny import TINY
from train.config import load_config
from train.loop import update
from train.run import Options, build_run
from utils.errors import UserError


@pytest.fixture
def build(tmp_path):
    """build(**options) -> a run on the tiny network, in this process."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    runs = []

    def run(*overrides, **options):
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        settings = {"batch_size_forward": 1, "num_iterations": 100, "enable_mlflow": False, "save_every": 0, **options}
        runs.append(build_run(load_config(path, overrides), Options(workspace=tmp_path / f"run{len(runs)}", **settings)))
        return runs[-1]

    yield run
    for built in runs:
        built.loader.close()


def snapshot(run):
    tensors = {**run.network.state_dict(), **{f"ema.{k}": v for k, v in run.ema.module.state_dict().items()}}
    return {k: v.clone() for k, v in tensors.items()} | {
        "lr": torch.tensor(run.schedule.last_epoch),
        "n": torch.tensor(run.ema.num_updates),
    }


def poison(run, monkeypatch, steps, micro=0):
    """Make the loss of these steps infinite, in one micro-batch."""
    calls = {"count": 0}
    objective = run.objective.__class__.__call__
    per_step = run.options.gradient_accumulation_steps

    def poisoned(self, output, batch):
        loss, parts = objective(self, output, batch)
        step, at = divmod(calls["count"], per_step)
        calls["count"] += 1
        return (loss * float("inf") if step in steps and at == micro else loss), parts

    monkeypatch.setattr(run.objective.__class__, "__call__", poisoned)


@pytest.mark.parametrize(("accumulate", "micro"), [(1, 0), (2, 0), (2, 1), (4, 2)])
def test_an_infinite_gradient_moves_nothing_and_the_next_step_is_whole(build, monkeypatch, caplog, accumulate, micro):
    run = build(gradient_accumulation_steps=accumulate)
    poison(run, monkeypatch, {1}, micro)
    logging.getLogger("stereofoundry").propagate = True
    update(run, 0)
    before = snapshot(run)
    with caplog.at_level(logging.WARNING, "stereofoundry"):
        update(run, 1)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(run).items())
    assert run.skipped == 1 and "step 1 skipped" in caplog.text and "made/" in caplog.text
    update(run, 2)
    after = snapshot(run)
    assert after["n"] == before["n"] + 1 and after["lr"] == before["lr"] + 1
    assert all(torch.isfinite(value).all() for value in after.values())
    assert run.skipped == 1 and run.skipped_in_row == 0
    assert torch.isfinite(torch.tensor(list(run.means.reduce().values()))).all()


def test_batch_norm_statistics_survive_a_forward_pass_that_is_not_finite(build):
    run = build()
    update(run, 0)
    before = snapshot(run)
    weight = next(p for n, p in run.network.named_parameters() if n.startswith("context.") and p.dim() == 4)
    good = weight.detach().clone()
    weight.data.fill_(float("inf"))
    update(run, 1)
    weight.data.copy_(good)
    assert run.skipped == 1
    assert all(torch.equal(value, before[name]) for name, value in snapshot(run).items())


def test_too_many_skipped_updates_in_a_row_end_the_run_with_their_samples(build, monkeypatch):
    run = build("training.max_skipped=2")
    poison(run, monkeypatch, {0, 1, 2})
    update(run, 0)
    with pytest.raises(UserError, match=r"2 updates in a row.*max_skipped.*made/\d+"):
        update(run, 1)


def test_the_schedule_counts_updates_and_not_micro_batches(build):
    run = build(gradient_accumulation_steps=3)
    for step in range(2):
        update(run, step)
    assert run.schedule.last_epoch == 2 and run.ema.num_updates == 2


def test_clipping_bounds_the_step(build):
    run = build("training.clip_norm=1e-3", 'optimizer={"type": "SGD", "params": [{"params": {"include": ["*"]}, "lr": 1.0}]}')
    run.schedule.base_lrs = [1.0]
    for group in run.optimizer.param_groups:
        group["lr"] = 1.0
    before = {name: value.detach().clone() for name, value in run.network.named_parameters()}
    update(run, 0)
    moved = torch.stack([(value - before[name]).norm() for name, value in run.network.named_parameters()]).norm()
    torch.testing.assert_close(moved.item(), 1e-3, rtol=1e-3, atol=0)
