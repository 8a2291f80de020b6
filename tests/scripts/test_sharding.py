"""A network in shards, on two processes: the numbers of one that each of them holds whole, in files that do not say which it was.

The environment is the one that the launch file gives, the code the one that runs on GPUs; torch's `fully_shard` takes CPUs as well.
"""

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import nn

from tests.core.networks import tiny_of
from tests.scripts.test_resume import COMMON, FAULTS, MEASURED, UNET
from tests.scripts.tiny import ROOT, TINY, assert_same_run, logged, weights
from train.losses import Objective
from train.memory import Planner, Setting
from train.sharding import ON_CPU, REQUEST, gathered_bytes, local, shard, share

STEPS = 4
# Momentum, so that there is a state to be kept; unlike Adam it does not blow rounding up.
SGD = {"type": "SGD", "params": [{"params": {"include": ["*"]}, "lr": 0.01, "momentum": 0.9}]}
STEADY = [*COMMON, *UNET, "--set", "model.batch_norm=frozen_statistics", "--set", f"optimizer={json.dumps(SGD)}"]
STEADY += ["--num_iterations", STEPS, "--save_every", 2, "--log_every", 1, *MEASURED]
# What changes how a step is computed, with Adam's states; these are compared with themselves.
RICH = [*COMMON, *UNET, "--precision", "bf16", "--gradient_accumulation_steps", 2, "--enable_gradient_checkpointing", "true"]
RICH += ["--num_iterations", 3]
VIT = {**TINY["model"], "feature_type": "dinov2", "vit_size": "vits", "freeze_backbone": False, "start_cost": 0.5}
UNITS = [*COMMON, "--set", f"model={json.dumps(VIT)}", "--set", "training.coarse_scale=0.5", "--enable_gradient_checkpointing", "true"]
UNITS += ["--enable_ema", "false", "--num_iterations", 2, "--save_every", 0, "--log_every", 1]


@pytest.fixture(scope="module")
def sharded():
    """What accelerate's launcher adds to the environment of a process, by the launch file."""
    argv = ["--config_file", str(ROOT / "configs" / "accelerate" / "fsdp2.yaml"), "scripts/train.py"]
    arguments, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(argv))
    assert (arguments.use_fsdp, arguments.fsdp_version, arguments.num_processes, arguments.num_machines) == (True, 2, 8, 1)
    found = {key: value for key, value in prepare_multi_gpu_env(arguments).items() if key.startswith(("ACCELERATE_", "FSDP_"))}
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    return found


@pytest.mark.skipif(not ON_CPU, reason="fully_shard of this torch is for GPUs alone")
def test_two_processes_share_a_network(commands_on_two, train, tiny, tmp_path, sharded):
    """One start of two processes for all of it; each command is a run of its own."""
    common, latest = ["--config", tiny], ["--checkpoint", "latest"]
    unet = [*common, *COMMON, *UNET]
    commands = {
        "ddp": {"argv": [*common, *STEADY]},
        "shards": {"argv": [*common, *STEADY]},
        "onto_shards": {"argv": [*common, *STEADY, "--checkpoint", tmp_path / "ddp/checkpoint/00000002.pt"]},
        "whole": {"argv": [*common, *RICH]},
        "parts": {"argv": [*common, *RICH], "rank": 1, "step": 0, "signal": "SIGUSR1"},
        "parts again": {"argv": [*common, *RICH, *latest]},
        "units_ddp": {"argv": [*common, *UNITS]},
        "units_shards": {"argv": [*common, *UNITS]},
        "faults": {"argv": unet, "faults": FAULTS},
        "anomaly": {"argv": [*unet, "--num_iterations", 2, "--detect_anomaly"], "faults": [[0, 1, "gradient", "nan"]]},
        "dry": {"argv": [*unet, "--precision", "bf16", "--dry_run"]},
    }
    for name, command in commands.items():
        command["argv"] = [*command["argv"], "--workspace", name.split()[0]]
        command["environment"] = {} if name in ("ddp", "units_ddp") else sharded
    said = dict(zip(commands, commands_on_two(*commands.values()), strict=True))

    # The steps of DDP, in files of the same form; whatever it was, the other goes on with it.
    on_one = ["--batch_size_forward", 2, "--checkpoint", tmp_path / "shards/checkpoint/00000002.pt", "--workspace", "onto_one"]
    outcome = train(*common, *STEADY, *on_one)
    assert outcome.code == 0, outcome.output
    for name in ("shards", "onto_shards", "onto_one"):
        for part in ("", "_ema"):
            close(weights(tmp_path / "ddp", STEPS, part), weights(tmp_path / name, STEPS, part))
        optimizers = [torch.load(tmp_path / run / f"checkpoint/{STEPS:08d}_optimizer.pt", weights_only=True) for run in ("ddp", name)]
        states = [content["optimizer"]["state"] for content in optimizers]
        assert states[0].keys() == states[1].keys() and states[0]
        close(*({key: state["momentum_buffer"] for key, state in kept.items()} for kept in states))
        assert optimizers[0]["optimizer"]["param_groups"] == optimizers[1]["optimizer"]["param_groups"]
        first, second = logged(tmp_path / "ddp"), logged(tmp_path / name)
        later = second.keys() if name == "shards" else {at for at in second if at[0] > 2}
        assert len(later) > 20 and all(second[at] == pytest.approx(first[at], rel=1e-3, abs=1e-4) for at in later)
        for preview in (tmp_path / "ddp/vis/step_00000003").iterdir():
            assert (tmp_path / name / "vis/step_00000003" / preview.name).exists()
    assert "best.safetensors" in {path.name for path in (tmp_path / "shards/checkpoint").iterdir()}

    # Stopped and continued, it is bit for bit the run that was not.
    assert "stopped by a signal after step 2 of 3" in said["parts"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 3)

    # Units that are gathered one after another, with gradient checkpointing, and started from a coarse pass.
    first, second = (logged(tmp_path / name) for name in ("units_ddp", "units_shards"))
    assert first.keys() == second.keys() and (2, "train/grad_norm") in first
    norms = [[values.pop((step, "train/grad_norm")) for step in (1, 2)] for values in (first, second)]
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-5)
    # After an update rounding alone moves that of an untrained network by percents.
    assert norms[0][1] == pytest.approx(norms[1][1], rel=0.1)
    assert all(second[at] == pytest.approx(first[at], rel=1e-4) for at in first)

    # What is not finite on one process moves neither; and each holds half of weights, averages and states.
    came_to = [line.split()[2:] for line in said["faults"].splitlines() if line.startswith("came to ")]
    assert came_to[0] == came_to[1] and came_to[0][1:] == ["7", "2", "2"]
    for line in (line.split() for line in said["faults"].splitlines() if line.startswith("holds ")):
        held, there = ([int(word) for word in words] for words in (line[1:3], line[4:6]))
        assert all(0.4 < some / of_all < 0.6 for some, of_all in zip(held, there, strict=True)), line
    assert "--detect_anomaly: step 0" in said["anomaly"] and "gradients are not finite" in said["anomaly"]
    assert "gathered of the shards" in said["dry"] and "gradient norm" in said["dry"]


def close(first, second):
    """To what the order of sums may change."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert type(second[key]) is torch.Tensor and second[key].dtype == value.dtype
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=2e-6, msg=str(key))


# ---- on one process ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({"FSDP_VERSION": "1"}, [], ["FSDP 1", "fsdp_version: 2"]),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, [], ["MEGATRON_LM", "FSDP 2 alone"]),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, [], ["PARALLELISM_CONFIG", "FSDP 2 alone"]),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, [], ["fsdp_offload_params: true", "remove it"]),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, [], ["fsdp_reshard_after_forward: false", "remove it"]),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, [], ["fsdp_activation_checkpointing", "--enable_gradient_checkpointing"]),
        ({}, ["--precision", "fp16"], ["fp16", "bf16"]),
        ({}, ["--set", "compile.enabled=true"], ["compile.enabled", "false"]),
        ({}, ["--set", "optimizer.type=Adafactor"], ["optimizer.type: Adafactor", "AdamW"]),
    ],
)
def test_what_does_not_go_with_shards_is_refused_in_one_line(train, tiny, tmp_path, monkeypatch, sharded, environment, options, words):
    for key, value in (sharded | environment).items():
        monkeypatch.setenv(key, value)
    outcome = train("--config", tiny, *COMMON, "--workspace", "run", *options)
    errors = [line for line in outcome.lines if line.startswith("error: ")]
    assert outcome.code == 2 and len(errors) == 1 and all(word in errors[0] for word in words), outcome.output
    assert not (tmp_path / "run").exists()


def test_one_process_has_nobody_to_share_with(train, tiny, tmp_path, monkeypatch, sharded):
    common = ["--config", tiny, *COMMON, *UNET, "--num_iterations", 1]
    assert train(*common, "--workspace", "plain").code == 0
    for key, value in sharded.items():
        monkeypatch.setenv(key, value)
    assert train(*common, "--workspace", "asked").code == 0
    assert_same_run(tmp_path / "plain", tmp_path / "asked", 1)


@pytest.fixture
def of_two():
    """An accelerator that passes for the first of two processes; what it would get from the other is not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield SimpleNamespace(num_processes=2, is_main_process=True, device=torch.device("cpu"))
    torch.distributed.destroy_process_group()


def test_the_plan_counts_a_share_and_what_is_gathered(monkeypatch, of_two):
    monkeypatch.setenv(REQUEST, "true")
    network, setting = tiny_of("unet", predict_pose=False), Setting(2, (64, 64), "fp32", False)
    objective = Objective({"stereo": {"all": {"function": "smooth_l1_loss"}}})
    whole = sum(value.numel() for value in network.parameters())

    def plan():
        return Planner(network, objective, torch.optim.Adam(network.parameters()), labels=["stereo"], early=True).estimate(setting)

    expected = plan()
    shard(network, of_two)
    found = plan()
    assert sum(local(value.detach()).numel() for value in network.parameters()) == pytest.approx(whole / 2, rel=0.02)
    for name in ("weights", "optimizer", "gradients"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name) / 2, rel=0.02), name
    assert (found.kept, found.working, expected.gathered) == (expected.kept, expected.working, 0)
    assert found.gathered == 4 * 2 * whole  # it has no units
    assert found.total == found.weights + found.optimizer + found.gradients + found.kept + found.working + found.gathered


def test_of_units_one_is_whole_at_a_time_and_the_next_one_s_weights(monkeypatch, of_two):
    monkeypatch.setenv(REQUEST, "true")
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 20), nn.Linear(20, 1))
    network.units = [network[1], network[2]]
    network[2].requires_grad_(False)  # 140 values without gradients, beside 54 with them; 72 + 21 are in no unit
    assert gathered_bytes(network) == 0
    shard(network, of_two)
    assert gathered_bytes(network) == 4 * (2 * (72 + 21) + 2 * 140 + 54)
    assert local(network[3].bias.detach()).numel() == share(network[3].bias) == 1  # a row is not split: the first process has it
