"""The update under bad gradients: nothing moves, everything is counted, and the loop stays in step with accelerate."""

import json
import logging
import math

import pytest
import torch

import train.run
from tests.core.networks import TINIES
from train.loop import Seen, names, not_finite, update
from train.sample import StereoBatch
from utils.errors import UserError


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


def spoil(run, monkeypatch, what, value, step, micro):
    """Put `value` into one micro-batch of one step: into an image, the ground truth, the loss, or a gradient. Returns the sample's name."""
    batches, backward, per_step, at = run.loader.batches, run.accelerator.backward, run.options.gradient_accumulation_steps, []
    spoilt = []

    def spoilt_batches(now):
        for i, batch in enumerate(batches(now)):
            at[:] = [now, i]
            if (now, i) == (step, micro):
                spoilt.append(names(batch)[-1])
                if what == "image":
                    batch.left = batch.left.float() / 255
                    batch.left[-1, 0, 5, 5] = value
                elif what == "truth":
                    batch.disparity[-1, 8, 8], batch.valid[-1, 8, 8] = value, True
            yield batch

    def spoilt_backward(loss):
        backward(loss * value if what == "loss" and at == [step, micro] else loss)
        if what == "gradient" and at == [step, micro]:
            next(p for p in run.network.parameters() if p.grad is not None).grad.view(-1)[0] = value

    monkeypatch.setattr(run.loader, "batches", spoilt_batches)
    monkeypatch.setattr(run.accelerator, "backward", spoilt_backward)
    assert micro < per_step
    return spoilt


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("what", "value", "accumulate", "micro", "precision"),
    [
        ("gradient", INF, 1, 0, "fp32"), ("gradient", NAN, 2, 0, "bf16"), ("gradient", NAN, 4, 2, "fp32"), ("loss", INF, 2, 1, "fp32"),
        ("loss", NAN, 1, 0, "bf16"), ("truth", NAN, 2, 1, "fp32"), ("image", NAN, 1, 0, "fp32"), ("image", INF, 2, 0, "fp32"),
    ],
)  # fmt: skip
def test_what_is_not_finite_moves_nothing_and_the_next_step_is_whole(build, monkeypatch, caplog, what, value, accumulate, micro, precision):
    run = build(gradient_accumulation_steps=accumulate, precision=precision, batch_size_forward=2 if what in ("image", "truth") else 1)
    spoilt = spoil(run, monkeypatch, what, value, 1, micro)
    with caplog.at_level(logging.WARNING, "stereofoundry"):
        update(run, 0)
        before = snapshot(run)
        assert before["n"] == 1
        update(run, 1)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(run).items())
    assert run.skipped == 1 and "step 1 skipped" in caplog.text and spoilt[0] in caplog.text
    assert ("not finite in" in caplog.text) == (what in ("image", "truth"))  # of the others only the scalar, or its gradient, was spoilt
    update(run, 2)
    after = snapshot(run)
    assert after["n"] == before["n"] + 1 and after["lr"] == before["lr"] + 1
    assert all(torch.isfinite(value).all() for value in after.values())
    assert run.skipped == 1 and run.skipped_in_row == 0
    assert torch.isfinite(torch.tensor(list(run.means.reduce().values()))).all()


def test_infinite_ground_truth_is_beyond_the_limit_and_costs_nothing(build, monkeypatch, caplog):
    run = build(gradient_accumulation_steps=2)
    spoilt = spoil(run, monkeypatch, "truth", INF, 0, 0)
    with caplog.at_level(logging.WARNING, "stereofoundry"):
        update(run, 0)
    assert run.skipped == 0 and run.ema.num_updates == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"step 0: the loss is not finite, but its gradient is; left out of the means: {spoilt[0]}"
    assert all(math.isfinite(value) for value in [*run.means.reduce().values(), run.metrics.reduce()["epe"]])


def test_the_sample_that_is_not_finite_is_told_from_the_others_of_its_batch():
    good, bad = torch.ones(2, 4, 4), torch.ones(2, 4, 4)
    bad[1, 2, 2] = NAN
    images, parts = torch.ones(2, 3, 4, 4), {"loss": torch.tensor(NAN)}

    def seen(left=images, truth=good, disparity=good, parts=parts):
        return Seen(parts, disparity, StereoBatch(left, images, truth, truth > 0, ["a", "b"], ["x", "x"], ["stereo", "stereo"]))

    assert not_finite(seen(truth=bad)) == not_finite(seen(disparity=bad)) == [False, True]
    assert not_finite(seen(left=torch.where(torch.arange(2).view(2, 1, 1, 1) == 0, INF, images))) == [True, False]
    assert not_finite(seen()) == [True, True]  # the loss alone: any of them may be the cause
    assert not_finite(seen(parts={"loss": torch.tensor(1.0)})) == [False, False]


def build_scaled(build, monkeypatch, *overrides, **options):
    """A run and the real scaler of torch, on the CPU, in an otherwise fp32 run: accelerate makes one on a GPU only."""
    scaler, build_accelerator = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2), train.run._build_accelerator

    def with_scaler(options):
        accelerator = build_accelerator(options)
        accelerator.scaler = scaler
        return accelerator

    with monkeypatch.context() as patch:
        patch.setattr(train.run, "_build_accelerator", with_scaler)
        run = build(*overrides, **options)
    monkeypatch.setattr(run.accelerator, "unscale_gradients", lambda optimizer=None: scaler.unscale_(run.optimizer.optimizer))
    return run, scaler


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fp16_scaling_skips_lowers_its_scale_and_stays_in_step(build, monkeypatch, accumulate):
    run, scaler = build_scaled(build, monkeypatch, gradient_accumulation_steps=accumulate)
    plain = build(gradient_accumulation_steps=accumulate)
    update(run, 0)
    update(plain, 0)
    before, expected = snapshot(run), snapshot(plain)
    assert all(torch.equal(value, before[name]) for name, value in expected.items())  # the scale is a power of two: it changes no bit
    spoil(run, monkeypatch, "gradient", INF, 1, accumulate - 1)
    update(run, 1)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(run).items())
    assert run.skipped == 1 and scaler.get_scale() == 512
    for step in (2, 3):
        update(run, step)
    assert scaler.get_scale() == 1024 and run.ema.num_updates == run.schedule.last_epoch == 3


UNET = [
    f"model={json.dumps({'type': 'unet', **TINIES['unet'], 'predict_pose': False})}",
    'loss={"stereo": {"all": {"function": "smooth_l1_loss"}}}',
]
FAULTS = [(what, value) for what in ("image", "truth", "loss", "gradient") for value in (NAN, INF) if (what, value) != ("truth", INF)]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "scaled"])
def test_fault_after_fault_moves_nothing_in_any_precision(build, monkeypatch, caplog, precision, accumulate):
    """All of them in a row, each in another micro-batch, between two clean steps."""
    options = {"gradient_accumulation_steps": accumulate, "batch_size_forward": 2}
    scaler = None
    if precision == "scaled":
        run, scaler = build_scaled(build, monkeypatch, *UNET, **options)
    else:
        run = build(*UNET, precision=precision, **options)
    spoilt = [spoil(run, monkeypatch, *fault, step, step % accumulate) for step, fault in enumerate(FAULTS, 1)]
    update(run, 0)
    before = snapshot(run)
    with caplog.at_level(logging.WARNING, "stereofoundry"):
        for step in range(1, len(FAULTS) + 1):
            update(run, step)
            assert all(torch.equal(value, before[name]) for name, value in snapshot(run).items()), FAULTS[step - 1]
            assert run.skipped == run.skipped_in_row == step and f"step {step} skipped" in caplog.text
            if FAULTS[step - 1][0] in ("image", "truth"):
                assert spoilt[step - 1][0] in caplog.records[-1].getMessage().partition("not finite in")[2]
            assert scaler is None or scaler.get_scale() == 1024 / 2**step
    update(run, len(FAULTS) + 1)
    after = snapshot(run)
    assert (run.skipped_in_row, after["n"], after["lr"]) == (0, before["n"] + 1, before["lr"] + 1)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items() if name.startswith("ema."))


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


def test_every_second_step_starts_from_a_coarse_pass_that_is_not_learned_from(build, monkeypatch):
    run = build("training.coarse_scale=0.5", "model.start_cost=0.5", "model.initial_reach=null")
    given, forward = [], run.network.forward

    def listens(left, right, iters=None, init=None):
        given.append((left.shape[-1], None if init is None else init.requires_grad, run.network.training))
        return forward(left, right, iters=iters, init=init)

    monkeypatch.setattr(run.network, "forward", listens)
    for step in range(3):
        update(run, step)
    assert [one[1:] for one in given] == [(None, True), (None, False), (False, True), (None, True)]
    assert given[1][0] < given[2][0]
