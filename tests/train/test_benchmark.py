"""What is said to cost something, on networks small enough to count by hand, and on every registered one."""

import json
import time

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from core import MODELS
from scripts.benchmark import main
from tests.core.networks import TINIES
from train.benchmark import REST, Conditions, Subject, benchmark, made_batch, memory_gib, summary, table, watched
from train.config import RunConfig

CPU = torch.device("cpu")
DATA = {"datasets": [{"name": "made", "type": "synthetic"}], "image_sizes": [[64, 32]]}


def subject(kind: str, name: str = "", **conditions) -> Subject:
    loss = {"stereo": {"l": {"function": "uncertainty_loss" if "log_variance" in MODELS[kind].offers else "sequence_loss"}}}
    config = RunConfig(model={"type": kind, **TINIES[kind]}, data=DATA, loss=loss)
    return Subject(
        name or kind, config, Conditions(**{"size": (64, 32), "device": CPU, "repeats": 3, "warmup": 0, "batch": 2} | conditions)
    )


def test_every_network_is_measured_side_by_side():
    found = benchmark([subject(kind, iterations=2) for kind in MODELS])
    assert list(found) == list(MODELS)
    for cost in found.values():
        assert 0 < cost["trained"] <= cost["parameters"]
        for what in ("train", "inference"):
            seconds = cost[what]["seconds"]
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
            assert cost[what]["gflop_per_second"] == pytest.approx(cost[what]["gflop"] / seconds["median"])
        assert cost["train"]["samples_per_second"] == pytest.approx(2 / cost["train"]["seconds"]["median"])
        assert cost["train"]["gflop"] > 2 * 2 * cost["inference"]["gflop"]  # two samples, and a backward pass of twice the forward one
        assert cost["stages"]["backward"] > 0 and REST in cost["stages"]
    first = found[next(iter(MODELS))]
    assert first["train"]["of_the_first"] == {"median": 1, "low": 1, "high": 1}
    assert {"backbone", "hourglass", "update", "upsample"} <= first["stages"].keys()
    assert all(f"| {kind} |" in table(found) for kind in MODELS)


def test_operations_are_those_of_the_layers():
    found = benchmark([subject("unet", repeats=1), subject("unet", "wide", size=(128, 32), repeats=1)])
    narrow, wide = found["unet"]["inference"]["gflop"], found["wide"]["inference"]["gflop"]
    assert wide == pytest.approx(2 * narrow)
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
    with watched(network, CPU) as found:
        network(torch.zeros(1))
        network.last[0](torch.zeros(1))
    assert found.keys() == {"inner", "last", "last.0"}
    assert found["inner"] >= 0.04 and found["last"] >= 0.02 and found["last.0"] >= 0.02
    assert sum(found.values()) <= time.perf_counter() - start and not network.inner._forward_hooks


def test_memory_is_what_is_needed_beside_what_is_there():
    kept = torch.ones(2**24)  # 64 MiB
    taken = memory_gib(lambda: torch.ones(2**25).sum(), CPU)
    assert 0.11 < taken < 0.2, taken  # 128 MiB
    assert kept[0] == 1


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
