"""What the planner says before a step against what torch's allocator counts in it, and what a run is told where it does not fit."""

from bisect import bisect
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from core import MODELS, build_model, correlation
from core.inference import predict
from tests.core.networks import bf16_of, tiny_of
from tests.scripts.tiny import TINY, tiny_run
from train import memory
from train.loop import update
from train.losses import Objective
from train.memory import (
    GIB,
    Memory,
    Planner,
    Setting,
    Trace,
    check_memory,
    memory_table,
    planner_of,
    setting_of,
    state_bytes,
    validation_line,
    with_batch,
)
from train.plan import dry_run
from train.run_file import find_config, load_config
from train.utils import build_optimizer
from utils.errors import UserError

SIZE = (192, 128)
CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")
SHIPPED = [  # run file, changes of its network, setting
    # Of one sample in float32, columns of a CPU's convolutions are not planned.
    pytest.param("light", {}, Setting(1, (96, 64), "fp32", True), id="light"),
    pytest.param("unet", {}, Setting(1, (96, 64), "bf16", False), id="unet"),
    pytest.param("stereo_v1", {"train_iters": 1}, Setting(2, (64, 32), "bf16", True), id="stereo_v1", marks=pytest.mark.slow),
]


def planner(kind, *, early=False, **changes):
    model = tiny_of(kind, **changes)
    optimizer = build_optimizer(model, {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 1e-4}]})
    return Planner(model, Objective(tiny_run(kind)["loss"]), optimizer, labels=["stereo"], early=early)


def measured(network, step):
    """Peak of what torch's allocator hands out during a step, in bytes: of a convolution what it returns, without its scratch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step(network)
    events = found.profiler.kineto_results.events()
    inside = sorted((e.start_ns(), e.end_ns()) for e in events if e.name() in CONVOLUTIONS)
    now = peak = 0
    for time, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        last = bisect(inside, (time, time)) - 1
        if last < 0 or time > inside[last][1]:
            peak = max(peak, now, now + size)
        now += size
    return peak


def ratio(plan, objective, setting):
    """Estimated of measured."""
    found, network = plan.estimate(setting), plan._network
    network.gradient_checkpointing = setting.checkpointing
    batch = plan._batch(setting)
    for value in (batch.left, batch.right, batch.disparity):
        value.zero_()
    batch.valid = batch.disparity == 0

    def step(network):
        inputs = replace(batch, **{name: getattr(batch, name).clone() for name in ("left", "right", "disparity", "valid")})
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == "bf16"):
            output = network(inputs.left, inputs.right)
        objective(output, inputs)[0].backward()
        network.zero_grad()

    step(network)  # what libraries set up once is not of a step
    return (found.gradients + found.kept + found.working) / measured(network, step)


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_is_what_torch_allocates(kind, checkpointing, precision):
    found = ratio(planner(kind), Objective(tiny_run(kind)["loss"]), Setting(2, SIZE, precision, checkpointing))
    assert 0.97 < found < 1.03, f"{found:.4f}"


@pytest.mark.parametrize(("name", "changes", "setting"), SHIPPED)
def test_the_estimate_of_a_shipped_run_is_what_torch_allocates(name, changes, setting):
    config = load_config(find_config(f"{name}.json"))
    network, objective = build_model({**config.model, **changes}), Objective(config.loss)
    plan = Planner(network, objective, build_optimizer(network, config.optimizer), labels=["stereo"])
    found = ratio(plan, objective, setting)
    assert 0.97 < found < 1.03, f"{found:.4f}"


def test_the_network_and_the_generators_stay_as_they_were():
    plan = planner("foundation_stereo", dropout=0.5)
    before, generator = {name: value.clone() for name, value in plan._network.state_dict().items()}, torch.get_rng_state()
    plan.estimate(Setting(1, (64, 64), "fp32", True))
    assert all(torch.equal(value, before[name]) for name, value in plan._network.state_dict().items())
    assert all(value.grad is None for value in plan._network.parameters()) and not plan._network.gradient_checkpointing
    assert torch.equal(torch.get_rng_state(), generator)


def test_samples_add_the_same_each_and_the_largest_batch_just_fits():
    plan, setting = planner("raft_stereo"), Setting(2, (96, 64), "fp32", False)
    totals = [plan.estimate(replace(setting, batch=batch)).total for batch in (2, 3, 9)]
    assert totals[2] == pytest.approx(totals[0] + 7 * (totals[1] - totals[0]), rel=1e-3)
    assert plan.largest_batch(setting, totals[2]) == 9 and plan.largest_batch(setting, totals[2] - 1) == 8
    assert plan.largest_batch(setting, 1000) == 0


def test_a_batch_is_known_to_the_byte_from_two_others():
    plan, setting = planner("unet"), Setting(2, (64, 64), "bf16", True)
    found = [plan.estimate(replace(setting, batch=batch)) for batch in (3, 2, 7)]
    assert [one.batch for one in plan._traces] == [3, 2]
    assert found[2] == planner("unet").estimate(replace(setting, batch=7))


def trace(order, sizes, gradients=(0, 0), forward=2):
    return Trace(np.array(order), np.array(sizes), np.array(gradients), forward)


def test_what_does_not_grow_evenly_is_not_known_from_two_others():
    first, second = trace([0, 1, -1, -2], [20, 7]), trace([0, 1, -1, -2], [40, 7])
    assert with_batch(5, (2, first), (4, second)).sizes.tolist() == [50, 7]
    assert first.peak() == (27, 0, 27) and trace([0, 1, -1, -2], [20, 7], (0, 3), 1).peak() == (27, 3, 20)
    for other in (
        trace([0, -1, 1, -2], [40, 7]),
        trace([0, 1, -1, -2], [40, 7], gradients=(0, 1)),
        trace([0, 1, -1, -2], [40, 7], forward=3),
        trace([0, 1, -1, -2], [41, 7]),
        trace([0, 1, -1, -2], [80, 7]),  # as the square of the batch
        trace([0, 1, -1, -2], [18, 7]),
    ):
        assert with_batch(5, (2, first), (4, other)) is None


def test_batches_of_several_label_types_are_each_followed():
    plan, setting = planner("unet"), Setting(2, (64, 64), "fp32", False)
    plan._labels = ["stereo", "other"]
    plan._objective = Objective({label: tiny_run("unet")["loss"]["stereo"] for label in plan._labels})
    for batch in (2, 4, 3):
        plan.estimate(replace(setting, batch=batch))
    assert [one.batch for one in plan._traces] == [2, 4, 3]


def test_a_batch_of_one_is_followed_itself():
    plan = planner("unet", batch_norm="frozen")
    for batch in (2, 3, 1):
        plan.estimate(Setting(batch, (64, 64), "fp32", False))
    assert [one.batch for one in plan._traces] == [2, 3, 1]


@pytest.mark.parametrize("kind", ["unet", "raft_stereo"])
def test_a_gpu_keeps_what_is_planned_on_a_cpu(kind, monkeypatch):
    """Autocast of a GPU computes more in float32; on tensors without content it can be asked what it makes of the forward pass."""
    monkeypatch.setattr(correlation, "forms_for", lambda tensor: correlation.VECTORISED)
    kept = {}
    for device in ("cpu", "cuda"):
        with FakeTensorMode(), torch.device(device):
            network = tiny_of(kind)
            network.gradient_checkpointing = True
            live = memory._Live([*network.parameters(), *network.buffers()])
            with live:
                views = [torch.empty(2, 3, 64, 96) for _ in range(2)]
                with bf16_of(device):
                    output = network(*views)
                assert output.disparities.requires_grad
                kept[device] = live.trace(len(live.order)).peak()[2]
    assert kept["cuda"] == pytest.approx(kept["cpu"], rel=0.1), kept


def test_gradients_that_are_there_from_the_start_are_counted_whole():
    plan, setting = planner("unet"), Setting(2, (64, 64), "fp32", False)
    late, weights = plan.estimate(setting), sum(value.numel() * 4 for value in plan._network.parameters())
    early = planner("unet", early=True).estimate(setting)
    assert early.gradients == weights > late.gradients
    assert late.total < early.total <= late.total + weights


@pytest.mark.parametrize(("kind", "values"), [("AdamW", 2), ("Adam", 2), ("SGD", 0), ("RMSprop", 1), ("Adadelta", 2)])
def test_states_of_an_optimizer_are_counted_as_it_makes_them(kind, values):
    model = tiny_of("unet")
    optimizer = build_optimizer(model, {"type": kind, "params": [{"params": {"include": ["*"]}, "lr": 1e-4}]})
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    expected = state_bytes(optimizer)
    optimizer.step()
    kept = sum(
        entry.numel() * 4 for state in optimizer.state.values() for entry in state.values() if torch.is_tensor(entry) and entry.dim()
    )
    assert kept == values * 4 * sum(value.numel() for value in model.parameters())
    assert expected == pytest.approx(kept, rel=1e-3)


def test_a_plan_counts_averages_and_the_states_that_a_run_will_have(build):
    run = build(config=tiny_run("unet"), batch_size_forward=2)
    found = planner_of(run).estimate(setting_of(run))
    weights = sum(value.numel() * value.element_size() for value in run.network.state_dict().values())
    statistics = sum(value.numel() * value.element_size() for value in run.network.buffers())
    assert (found.weights, found.copies) == (weights, weights + statistics)
    update(run, 0)
    states = [entry for state in run.optimizer.state.values() for entry in state.values()]
    assert found.optimizer == pytest.approx(sum(entry.numel() * 4 for entry in states), rel=1e-3)


def test_the_table_adds_up():
    found = Memory(weights=GIB, copies=2 * GIB, optimizer=3 * GIB, gradients=4 * GIB, kept=5 * GIB, working=6 * GIB)
    lines = memory_table(Setting(4, (640, 480), "bf16", True), found, 22.5 * GIB, 7)
    assert lines[0] == "memory of a process, estimated (4 x 640 x 480, bf16, gradient checkpointing on)"
    assert [float(line.split()[-2]) for line in lines[1:8]] == [1, 2, 3, 4, 5, 6, 21]
    assert "22.50 GiB" in lines[8] and lines[9].split()[-1] == "7"


def test_what_does_not_fit_is_told_what_would():
    plan, setting = planner("raft_stereo"), Setting(4, (96, 64), "fp32", False)
    found = plan.estimate(setting)
    check_memory(plan, setting, found, found.total)
    least = {name: plan.estimate(replace(setting, **change)).total for name, change in
             (("saving", {"checkpointing": True}), ("low", {"precision": "bf16"}))}  # fmt: skip
    with pytest.raises(UserError, match=r"^memory: 4 x 96 x 64 in fp32 needs about 0\.\d+ GiB .*--batch_size_forward 3 with") as one:
        check_memory(plan, setting, found, found.total - 1)
    assert "--enable_gradient_checkpointing true" in str(one.value) and "--precision bf16" in str(one.value)
    with pytest.raises(UserError) as two:
        check_memory(plan, setting, found, max(least.values()) - 1)
    named = [name for name, option in (("saving", "checkpointing true"), ("low", "precision bf16")) if option in str(two.value)]
    assert named == [min(least, key=least.get)]
    with pytest.raises(UserError, match="what fits: smaller crops"):
        check_memory(plan, setting, found, 1000)


def test_a_run_that_cannot_fit_ends_before_its_first_step_and_writes_nothing(build, tmp_path):
    with pytest.raises(UserError, match=r"^memory: 2 x 64 x 64 in fp32 needs about"):
        build(config=tiny_run("unet"), memory_gb=0.001, batch_size_forward=2)
    assert not (tmp_path / "run0").exists()


def test_a_step_is_the_same_where_memory_is_limited(build):
    plain, limited = build(config=tiny_run("unet")), build(config=tiny_run("unet"), memory_gb=64.0)
    for run in (plain, limited):
        update(run, 0)
    assert all(torch.equal(value, limited.network.state_dict()[name]) for name, value in plain.network.state_dict().items())


def test_validation_is_planned_as_torch_allocates_it():
    plan = planner("raft_stereo")
    network = plan._network.eval()
    views = [torch.zeros(1, 3, 100, 150) for _ in range(2)]

    def step(network):
        with torch.no_grad():
            predict(network, *(view.clone() for view in views), iters=5)

    step(network)
    before = plan.validation((150, 100), "fp32")
    assert (before - plan._weights - plan._optimizer) / measured(network, step) == pytest.approx(1, abs=0.03)
    gradients = sum(value.nbytes for value in network.parameters())
    plan._early = True
    assert plan.validation((150, 100), "fp32") == before + gradients


def test_a_dry_run_says_what_validation_needs(build):
    config = tiny_run("unet") | {"validation": {"every": 5, "fraction": 0.3}}
    for changes, size in (([], (128, 96)), (["validation.size=[64, 32]"], (64, 32))):
        run = build(*changes, config=config)
        planned = planner_of(run)
        needed = planned.validation(size, "fp32")
        line = f"  {'validation, 1 x {} x {}'.format(*size):<32} {needed / GIB:>9.2f} GiB"
        assert validation_line(run, planned, needed) == line
        assert validation_line(run, planned, needed - 1) == f"{line}, more than can be used; validation.size makes it smaller"
    _, plan, _ = dry_run(run)
    assert line in plan.splitlines()[-1]


def test_what_cannot_be_estimated_does_not_stop_a_run(build, monkeypatch, caplog):
    def fails(self, setting):
        raise NotImplementedError("no form without content\nand more")

    monkeypatch.setattr(Planner, "estimate", fails)
    with caplog.at_level("WARNING", "stereofoundry"):
        build(config=TINY, memory_gb=64.0)
    assert "memory: cannot be estimated (no form without content)" in caplog.text
    plan, step = dry_run(build(config=TINY))
    assert "one step: " in step and "memory of a process" not in plan


def test_the_memory_of_a_container_counts(build, monkeypatch, tmp_path):
    run = build(config=tiny_run("unet"))
    free = memory.available_bytes(run)
    assert free is not None and free > 2**20
    monkeypatch.setattr(memory, "_container_limits", lambda: iter([2**20]))
    held = memory.available_bytes(run)
    assert held is not None and 2**20 < held < 2**27
