"""What is said to cost something, on networks small enough to count by hand, and on every registered one."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from core import MODELS
from scripts.benchmark import main
from tests.core.networks import TINIES
from tests.scripts.tiny import ROOT
from train.benchmark import (
    REST,
    Conditions,
    Subject,
    benchmark,
    counted_gflop,
    in_new_process,
    made_batch,
    summary,
    table,
    tensors_gib,
    timed,
    watched,
)
from train.benchmark_overhead import overhead
from train.benchmark_processes import processes, processes_line
from train.benchmark_scaling import growth, plot, scaling, scaling_table
from train.benchmark_targets import (
    PLANNED_TWINS,
    Row,
    fresh_memory_gib,
    growth_row,
    planned,
    ratios,
    run_memory_gib,
    table_head,
    table_line,
)
from train.config import RunConfig
from train.costs import NAMES
from utils.errors import UserError
from utils.versions import peak_memory_gib

CPU = torch.device("cpu")
DATA = {"datasets": [{"name": "made", "type": "synthetic"}], "image_sizes": [[64, 32]]}


def run_config(kind: str) -> RunConfig:
    loss = {"stereo": {"l": {"function": "uncertainty_loss" if "log_variance" in MODELS[kind].offers else "sequence_loss"}}}
    return RunConfig(model={"type": kind, **TINIES[kind]}, data=DATA, loss=loss)


def its_conditions(**changes) -> Conditions:
    return Conditions(**{"size": (64, 32), "device": CPU, "repeats": 3, "warmup": 0, "batch": 2} | changes)


def subject(kind: str, name: str = "", plain=(), **conditions) -> Subject:
    return Subject(name or kind, run_config(kind), its_conditions(**conditions), plain)


def peak_of_a_step(config: RunConfig, conditions: Conditions) -> float:
    Subject("", config, conditions).train_step()
    return peak_memory_gib(conditions.device)


def test_every_network_is_measured_side_by_side():
    found = benchmark([subject(kind, iterations=2) for kind in MODELS])
    assert list(found) == list(MODELS)
    for cost in found.values():
        assert 0 < cost["trained"] <= cost["parameters"]
        for what in ("train", "inference"):
            seconds = cost[what]["seconds"]
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
            assert cost[what]["gflop_per_second"] == pytest.approx(cost[what]["gflop"] / seconds["median"])
            assert cost[what]["share_of_peak"] > 0
        assert cost["train"]["samples_per_second"] == pytest.approx(2 / cost["train"]["seconds"]["median"])
        assert cost["train"]["gflop"] > 2 * 2 * cost["inference"]["gflop"]  # two samples, and a backward pass of twice the forward one
        assert {REST, "backward", "optimizer", "average"} <= cost["stages"].keys()
        assert all(stage["low"] <= stage["median"] <= stage["high"] for stage in cost["stages"].values())
        assert cost["stages"]["backward"]["low"] > 0
    first = found[next(iter(MODELS))]
    assert first["train"]["of_the_first"] == {"median": 1, "low": 1, "high": 1}
    assert {"backbone", "hourglass", "update", "upsample"} <= first["stages"].keys()
    assert all(f"| {kind} |" in table(found) for kind in MODELS)


def test_operations_are_those_of_the_layers():
    found = benchmark([subject("unet", repeats=1), subject("unet", "wide", size=(128, 32), repeats=1)])
    narrow, wide = found["unet"]["inference"]["gflop"], found["wide"]["inference"]["gflop"]
    once = 2 * 3 * 32 * 6  # the last layer of the pose, which is one per pair, however wide
    assert wide * 1e9 == pytest.approx(2 * narrow * 1e9 - once, rel=0, abs=0.5)
    head = 2 * 9 * 8 * 2 * 64 * 32  # a 3 x 3 convolution from 8 channels to 2: two operations for each product
    first = 2 * 9 * 6 * 8 * 64 * 32
    assert narrow * 1e9 > head + first


def test_a_stage_is_counted_once_and_by_the_outermost_name():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    network = nn.Sequential()
    network.inner = nn.Sequential(Slow(), Slow())
    network.last = nn.Sequential(Slow())
    start = time.perf_counter()
    with watched(network, CPU) as read:
        network(torch.zeros(1))
        network.last[0](torch.zeros(1))
    found = read()
    assert found.keys() == {"inner", "last", "last.0"}
    assert found["inner"] >= 0.04 and found["last"] >= 0.02 and found["last.0"] >= 0.02
    assert sum(found.values()) <= time.perf_counter() - start and not network.inner._forward_hooks


def test_a_gpu_is_timed_by_events_in_its_queue(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.ended = False

        def record(self, stream):
            self.at = queue

        def synchronize(self):
            self.ended = True

        def elapsed_time(self, end):
            assert end.ended
            return end.at - self.at  # milliseconds

    def work(milliseconds):
        nonlocal queue
        queue += milliseconds

    queue = 0.0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert timed(lambda: work(250), torch.device("cuda")) == 0.25


BESIDE = """
import torch
from train.benchmark import memory_gib
kept = torch.ones(2**24)  # 64 MiB
print(memory_gib(lambda: torch.ones(2**25).sum(), torch.device("cpu")), float(kept[0]))
"""


def test_memory_is_what_is_needed_beside_what_is_there():
    """In a process of its own: what other tests have freed would be used again, and not be seen."""
    done = subprocess.run([sys.executable, "-c", BESIDE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    taken = float(done.stdout.split()[0])
    assert 0.11 < taken < 0.2, taken  # 128 MiB


def test_tensors_are_counted_to_the_byte():
    def call():
        first = torch.ones(2**22)  # 16 MiB
        second = first + 1
        del first
        return second * 2

    assert tensors_gib(call, CPU) == pytest.approx(2 * 2**24 / 2**30, rel=1e-3)


def test_growth_tells_a_line_from_a_square():
    line, square = growth([1, 2, 3], [5, 8, 11]), growth([1, 2, 3], [1, 4, 9])
    assert (line["constant"], line["per_unit"], line["square_share"]) == pytest.approx((2, 3, 0))
    assert (square["exponent"], square["square_share"]) == pytest.approx((2, 1))
    assert line["exponent"] < 1


def test_how_a_step_grows_is_measured_on_every_axis(tmp_path):
    found = scaling(run_config("unet"), its_conditions(repeats=1, batch=1))
    assert found.keys() == {"width", "iterations", "batch", "max_disp"} and found["width"]["values"] == [64, 128, 192]
    assert found["width"]["growth"]["tensors_gib"]["exponent"] > found["iterations"]["growth"]["tensors_gib"]["exponent"]
    assert all(f"| {axis} " in scaling_table(found) for axis in found)
    costs = {"unet": {"stages": {stage: summary([seconds]) for stage, seconds in (("backward", 1.0), ("loss", 0.5))}}}
    plot(tmp_path / "b.png", costs, found)
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_two_processes_are_measured_against_one_alone():
    found = processes(run_config("unet"), its_conditions(repeats=2), 2)
    assert found["processes"] == 2 and found["together"]["median"] > 0
    assert found["samples_per_second"] == pytest.approx(2 * 2 / found["together"]["median"])
    low, high = found["alone"]["low"] / found["together"]["high"], found["alone"]["high"] / found["together"]["low"]
    assert 0.3 * low < found["efficiency"]["median"] < 3 * high
    assert f"efficiency {100 * found['efficiency']['median']:.0f} %" in processes_line(found)
    with pytest.raises(UserError, match="--processes 4096: there are"):
        processes(run_config("unet"), its_conditions(), 4096)


def test_a_plain_network_is_measured_against_the_fast_one():
    fast, plain = subject("foundation_stereo"), subject("foundation_stereo", "plain", plain=["gru"])
    assert counted_gflop(plain.infer) > counted_gflop(fast.infer)  # the context goes through the first convolutions in every iteration
    assert ratios([fast, plain], lambda one: one.infer)["median"] > 0
    with pytest.raises(UserError, match="unknown part 'lokup'; did you mean 'lookup'"):
        subject("foundation_stereo", plain=["lokup"])
    with pytest.raises(UserError, match="only foundation_stereo"):
        subject("unet", plain=["lookup"])


def test_memory_of_a_step_is_that_of_a_process_of_its_own():
    small, large = (fresh_memory_gib(run_config("unet"), its_conditions(size=(width, 256))) for width in (256, 1024))
    assert all(0 < 2 * one < other for one, other in zip(small, large, strict=True)), (small, large)


def test_what_a_gpu_would_hold_is_planned_without_one():
    """Of the tiny network here as much as of the large one in the table."""
    config, conditions = run_config("foundation_stereo"), its_conditions(size=(128, 64), iterations=4, precision="bf16")
    ours, kept, theirs = (
        planned(config, one, parts)
        for one, parts in ((replace(conditions, gradient_checkpointing=True), ()), (conditions, ()), (conditions, PLANNED_TWINS))
    )
    assert ours.kept < kept.kept < theirs.kept
    assert ours.weights == theirs.weights and ours.optimizer > ours.weights  # two states of all that is trained


def test_memory_of_a_run_holds_what_a_run_keeps():
    """Beside a step's: an average and two states of the optimizer, each as large as the weights."""
    config, conditions = run_config("unet"), its_conditions()
    config = config.model_copy(update={"model": {"type": "unet", "dims": [8, 16, 256, 512, 1024]}})
    weights = sum(p.numel() * p.element_size() for p in Subject("", config, conditions).network.parameters()) / 2**30
    run, step = in_new_process(run_memory_gib, config, conditions), in_new_process(peak_of_a_step, config, conditions)
    assert 2.5 * weights < run - step < 4 * weights, (run, step, weights)


@pytest.mark.slow
def test_nothing_grows_with_the_square_of_width_or_range():
    row = growth_row(run_config("foundation_stereo"), its_conditions(size=(64, 64), batch=1, iterations=1, precision="fp32"))
    assert row.met and "at width 256 operations " in row.measured and "at max_disp 384 operations " in row.measured, row.measured


def test_targets_say_what_was_not_measured():
    rows = [Row("a", "b", "c", True), Row("d", "e", "f", False), Row("g", "h", "i", None)]
    assert [table_line(row).split(" | ")[-1] for row in rows] == ["met |", "missed |", "not measured |"]
    assert all(table_line(row).count("|") == table_head().splitlines()[1].count("|") for row in rows)


def test_what_a_run_does_beside_its_steps_is_spread_over_them():
    share, wait = overhead(run_config("unet"), its_conditions(batch=1), with_mlflow=False)
    assert share.keys() == set(NAMES) and all(0 < one < 1 for one in share.values()), share
    assert share["previews"] < share["ema"]  # eight pictures, but once in thousands of steps
    assert 0 <= wait < 1


def test_a_summary_is_median_and_quartiles():
    assert summary([5, 1, 2, 4, 3]) == {"median": 3, "low": 2, "high": 4}


def test_a_made_pair_has_the_disparity_that_it_says():
    batch = made_batch(2, (32, 16), "stereo")
    assert torch.equal(batch.left[..., 4:], batch.right[..., :-4]) and (batch.disparity == 4).all() and batch.valid.all()


def test_the_command_writes_a_table_and_a_file(tmp_path):
    small = "unet model.dims=[8,8,8,8,8]"
    options = ["unet", small, "--size", "64", "32", "--repeats", "1", "--warmup", "0", "--output", str(tmp_path / "b.json")]
    result = CliRunner().invoke(main, [*options, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "b.json").read_text())
    assert list(content["networks"]) == ["unet", small] and content["conditions"]["size"] == [64, 32]
    assert content["networks"]["unet"]["parameters"] > content["networks"][small]["parameters"]
    for wrong, words in ((["nothing"], "no such file"), (["unet", "unet"], "give each once"), (["unet", "--size", "60", "32"], "60 x 32")):
        result = CliRunner().invoke(main, [*wrong, "--device", "cpu"])
        assert result.exit_code == 2 and result.output.startswith("error: ") and words in result.output, result.output


def test_numbers_are_not_written_where_the_plot_goes(tmp_path):
    result = CliRunner().invoke(main, ["unet", "--output", str(tmp_path / "b.png")])
    assert result.exit_code == 2 and "b.png: does not end in .json; expected a file such as b.json" in result.stderr
