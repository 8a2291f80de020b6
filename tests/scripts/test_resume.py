"""A run that was stopped and continued is the run that was not, bit for bit: on one process, on two, and on another number of them."""

import json
import os
import resource
import signal

import pytest
import torch

from tests.core.networks import TINIES
from tests.scripts.tiny import assert_same, assert_same_run, logged, marked, weights
from train import loop
from train import run as run_module
from train.checkpoint import Checkpoints

COMMON = [
    "--batch_size_forward",
    1,
    "--save_every",
    100,
    "--log_every",
    2,
    "--enable_mlflow",
    "false",
    "--enable_gradient_checkpointing",
    "false",
]
COMMON += ["--set", "data.image_sizes=[[64, 64]]"]
MEASURED = ["--set", "validation.every=2", "--set", "validation.max_samples=1", "--set", "validation.fraction=0.3", "--vis_every", 3]


@pytest.fixture
def stopping(monkeypatch):
    """stopping(step, *signals): the process gets them while it is in that step."""
    asked = {}
    update = loop.update

    def signalled(run, step):
        update(run, step)
        for number in asked.pop(step, ()):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "update", signalled)
    return lambda step, *signals: asked.update({step: signals})


def with_scaler(accelerator):
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    return accelerator


# bf16 takes few steps: processors without instructions for it emulate them. Dropout is on in all.
@pytest.mark.parametrize(
    ("precision", "accumulate", "steps", "more"),
    [("fp32", 1, 5, MEASURED), ("fp32", 3, 3, []), ("bf16", 1, 3, []), ("bf16", 3, 2, []), ("scaled", 1, 3, [])],
)
def test_stopped_after_every_single_step_a_run_is_the_same(
    train, tiny, tmp_path, monkeypatch, stopping, precision, accumulate, steps, more
):
    common = ["--config", tiny, *COMMON, *more, "--num_iterations", steps, "--gradient_accumulation_steps", accumulate]
    if precision == "scaled":  # with fp16's loss scaling, which accelerate has on a GPU only
        build = run_module._build_accelerator
        monkeypatch.setattr(run_module, "_build_accelerator", lambda options: with_scaler(build(options)))
    else:
        common += ["--precision", precision]
    assert train(*common, "--workspace", "whole").code == 0
    for step in range(steps):
        if step < steps - 1:
            stopping(step, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[step % 3])
        outcome = train(*common, "--workspace", "parts", "--checkpoint", "latest")
        assert outcome.code == 0, outcome.output
        end = f"stopped by a signal after step {step + 1} of {steps}; to continue, --workspace parts --checkpoint latest"
        assert (end if step < steps - 1 else "done: weights in") in outcome.output
    assert_same_run(tmp_path / "whole", tmp_path / "parts", steps)
    state = Checkpoints(tmp_path / "parts" / "checkpoint").latest().load("optimizer")
    assert state["scaler"] == ({**state["scaler"], "scale": 2048.0, "_growth_tracker": 1} if precision == "scaled" else None)
    if more:
        assert {step for step, name in logged(tmp_path / "parts") if name == "val/epe"} == {0, 2, 4, 5}
        assert {path.name for path in (tmp_path / "parts" / "vis").iterdir()} == {"step_00000003", "step_00000005"}


def test_a_run_continues_in_another_workspace_from_a_path(train, tiny, tmp_path):
    common = ["--config", tiny, *COMMON, "--num_iterations", 3, "--save_every", 2, "--log_every", 3]
    assert train(*common, "--workspace", "whole").code == 0
    outcome = train(*common, "--workspace", "other", "--checkpoint", tmp_path / "whole" / "checkpoint" / "00000002.pt")
    assert outcome.code == 0, outcome.output
    assert_same_run(tmp_path / "whole", tmp_path / "other", 3)


def test_stopped_in_its_last_step_a_run_is_measured_by_the_next(train, tiny, tmp_path, stopping):
    common = ["--config", tiny, *COMMON, *MEASURED, "--num_iterations", 1]
    assert train(*common, "--workspace", "whole").code == 0
    stopping(0, signal.SIGTERM)
    assert "stopped by a signal after step 1 of 1" in train(*common, "--workspace", "parts").output
    assert "nothing to do" in train(*common, "--workspace", "parts", "--checkpoint", "latest").output
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 1)


def test_a_second_interrupt_ends_the_run_at_once(train, tiny, tmp_path, stopping):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]  # a job in the background ignores SIGINT
    stopping(1, signal.SIGINT, signal.SIGINT)
    outcome = train("--config", tiny, *COMMON, "--num_iterations", 3, "--save_every", 1, "--workspace", "run")
    assert outcome.code == 1 and "Aborted" in outcome.output
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint").glob("0*.json"))[-1] == "00000001.json"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_stopped_without_checkpoints_a_run_says_that_nothing_is_saved(train, tiny, tmp_path, stopping):
    stopping(0, signal.SIGUSR1)
    outcome = train("--config", tiny, *COMMON, "--num_iterations", 3, "--save_every", 0, "--workspace", "run")
    assert outcome.code == 0 and "after step 1 of 3, which is not saved, as --save_every 0 asks" in outcome.output


# ---- a disk that is full -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """full_disk(first, last): from the one step to the other no file grows beyond 100 kB. Writing fails midway, as on a full disk."""
    update, before = loop.update, resource.getrlimit(resource.RLIMIT_FSIZE)

    def between(first, last):
        def limited(run, step):
            run.saver.wait()  # what is being written belongs to the step before
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if first <= step <= last else before[0], before[1]))
            update(run, step)

        monkeypatch.setattr(loop, "update", limited)

    yield between
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(train, tiny, tmp_path, full_disk):
    common = ["--config", tiny, *COMMON, "--num_iterations", 4, "--save_every", 1]
    assert train(*common, "--workspace", "whole").code == 0
    full_disk(1, 2)
    outcome = train(*common, "--workspace", "run", "--set", "checkpoints.keep_last=2")
    assert outcome.code == 0, outcome.output
    for step in (2, 3):
        assert outcome.output.count(f"the checkpoint of step {step} cannot be written (File too large); the run goes on") == 1
    assert {path.name for path in (tmp_path / "run" / "checkpoint").glob("0*.json")} == {"00000001.json", "00000004.json"}
    for part in ("", "_ema"):
        assert_same(weights(tmp_path / "whole", 4, part), weights(tmp_path / "run", 4, part))
    for name in ("last.json", "last.safetensors"):
        assert marked(tmp_path / "whole" / "checkpoint" / name) == marked(tmp_path / "run" / "checkpoint" / name)


def test_a_disk_that_stays_full_ends_in_an_error_with_the_last_good_step_in_place(train, tiny, tmp_path, full_disk):
    full_disk(1, 2)
    outcome = train("--config", tiny, *COMMON, "--num_iterations", 3, "--save_every", 1, "--workspace", "run")
    assert outcome.code == 2
    (line,) = [line for line in outcome.lines if line.startswith("error: ")]
    assert "the last checkpoint, of step 3, cannot be written; the newest complete one is of step 1; make room and continue" in line
    assert Checkpoints(tmp_path / "run" / "checkpoint").latest().step == 1


# ---- several processes ------------------------------------------------------------------------------------------------------------------

PLAIN = ["--set", "model.batch_norm=frozen_statistics", "--set", "model.dropout=0"]  # nothing depends on how a step is split
PLAIN += ["--set", 'optimizer={"type": "SGD", "params": [{"params": {"include": ["*"]}, "lr": 0.01}]}']  # Adam blows rounding up


# Not finite, in a step each, on one process or both; the first and the last step are clean.
FAULTS = [[1, 1, "image", "nan"], [2, 0, "truth", "nan"], [3, None, "loss", "inf"], [4, 1, "gradient", "nan"], [5, 0, "loss", "nan"]]
FAULTS += [[6, None, "image", "inf"], [7, None, "gradient", "inf"]]
UNET = [
    "--set",
    f"model={json.dumps({'type': 'unet', **TINIES['unet'], 'predict_pose': False})}",
    "--set",
    'loss={"stereo": {"all": {"function": "smooth_l1_loss"}}}',
]
UNET += ["--set", "data.image_sizes=[[64, 64]]", "--num_iterations", 9]
FAULTY = [("fp32", 1), ("bf16", 2), ("scaled", 4)]


def faulty(common, precision, accumulate):
    scaled = precision == "scaled"
    argv = [*common, *UNET, "--workspace", precision, "--gradient_accumulation_steps", accumulate]
    return {"argv": [*argv, *([] if scaled else ["--precision", precision])], "faults": FAULTS, "scaled": scaled}


def test_what_is_not_finite_on_one_process_or_both_moves_neither(commands_on_two, tiny, tmp_path):
    outcomes = commands_on_two(*(faulty(["--config", tiny, *COMMON], *case) for case in FAULTY))
    for (precision, _), said in zip(FAULTY, outcomes, strict=True):
        (first, *numbers), second = (line.split()[2:] for line in said.splitlines() if line.startswith("came to "))
        assert said.count('wrapped with {"find_unused_parameters": false, "gradient_as_bucket_view": true}') == 2, said
        assert [first, *numbers] == second and numbers == ["7", "2", "2"]  # skipped; updates that the schedule and the average have seen
        assert all(said.count(f"step {step} skipped: the gradient norm is ") == 1 for step, *_ in FAULTS), said
        assert said.count("not finite in made/") == 3, said  # of images and ground truth; of the others only the scalar was spoilt
        state = Checkpoints(tmp_path / precision / "checkpoint").latest().load("optimizer")
        assert state["skipped"] == 7 and state["skipped_in_row"] == 0
        assert (state["scaler"] or {"scale": 1024 / 2**7})["scale"] == 1024 / 2**7
        for part in ("", "_ema"):
            assert all(value.isfinite().all() for value in weights(tmp_path / precision, 9, part).values())


def test_two_processes(commands_on_two, train, tiny, tmp_path):
    """One start of two processes, which takes seconds, for all that is claimed of them; each command is a run of its own."""
    common = ["--config", tiny, *COMMON]
    three, threefold = ["--num_iterations", 3], ["--num_iterations", 3, "--gradient_accumulation_steps", 3]
    started = ["--num_iterations", 4, "--gradient_accumulation_steps", 2]
    started += ["--set", "training.coarse_scale=0.5", "--set", "model.start_cost=0.5"]
    steady = ["--config", tiny, *COMMON, *PLAIN, "--num_iterations", 4, "--save_every", 2, "--log_every", 1]
    latest = ["--checkpoint", "latest"]
    bf16 = ["--precision", "bf16"]
    whole = train(*steady, "--workspace", "one", "--batch_size_forward", 2)  # on one process, to be continued on two
    assert whole.code == 0, whole.output
    outcomes = commands_on_two(
        {"argv": [*common, *three, *MEASURED, "--workspace", "whole"]},
        {"argv": [*common, *three, *MEASURED, "--workspace", "parts"], "rank": 1, "step": 0, "signal": "SIGUSR1"},
        {"argv": [*common, *three, *MEASURED, "--workspace", "parts", *latest]},
        {"argv": [*common, *started, "--workspace", "started"]},
        {"argv": [*common, *started, "--workspace", "parts_started"], "rank": 0, "step": 1, "signal": "SIGTERM"},
        {"argv": [*common, *started, "--workspace", "parts_started", *latest]},
        {
            "argv": [*common, "--num_iterations", 3, "--gradient_accumulation_steps", 2, "--workspace", "bad"],
            "rank": 1,
            "step": 1,
            "poison": 1,
        },
        {"argv": [*steady, "--workspace", "two"]},
        {"argv": [*steady, "--workspace", "onto_two", "--checkpoint", tmp_path / "one" / "checkpoint" / "00000002.pt"]},
        {"argv": [*common, *threefold, *bf16, "--workspace", "whole16"]},
        {"argv": [*common, *threefold, *bf16, "--workspace", "parts16"], "rank": 1, "step": 0, "signal": "SIGINT"},
        {"argv": [*common, *threefold, *bf16, "--workspace", "parts16", *latest]},
    )
    for name, parts, steps in (("whole", "parts", 3), ("started", "parts_started", 4), ("whole16", "parts16", 3)):
        assert_same_run(tmp_path / name, tmp_path / parts, steps)
        # Told while in a step, one of them; the other hears of it during the next. Both leave after the same.
        assert (tmp_path / parts / "checkpoint" / f"{steps - 1:08d}.json").exists()
    for i, (done, steps) in {1: (2, 3), 4: (3, 4), 10: (2, 3)}.items():  # 4: the next step begins with a coarse start
        assert f"stopped by a signal after step {done} of {steps}" in outcomes[i]

    # An infinite loss on the second process alone: both skip, the first names the sample, everything stays finite and in step.
    state = torch.load(tmp_path / "bad" / "checkpoint" / "00000003_optimizer.pt", weights_only=True)
    assert (state["skipped"], state["skipped_in_row"], state["lr_scheduler"]["last_epoch"]) == (1, 0, 2)
    assert outcomes[6].count("step 1 skipped") == 1 and "not finite in made/" in outcomes[6]
    bad = torch.load(tmp_path / "bad" / "checkpoint" / "00000003_ema.pt", weights_only=True)
    assert bad["num_updates"] == 2 and all(value.isfinite().all() for value in bad["model"].values())
    assert outcomes[6].partition("not finite in ")[2].splitlines()[0] == outcomes[6].partition("poisoned ")[2].splitlines()[0]

    # The same global batch on another number of processes, from the start and from the middle: the same losses.
    back = train(*steady, "--workspace", "onto_one", "--batch_size_forward", 2, "--checkpoint", tmp_path / "two/checkpoint/00000002.pt")
    split = train(
        *steady, "--workspace", "split", "--gradient_accumulation_steps", 2, "--checkpoint", tmp_path / "two/checkpoint/00000002.pt"
    )
    assert back.code == 0 and split.code == 0, back.output + split.output
    assert "the 2 samples of each step are the same, on 1 processes, not 2" in back.output and "continuing with" not in back.output
    one = logged(tmp_path / "one")
    for name in ("two", "onto_two", "onto_one", "split"):
        other = logged(tmp_path / name)
        steps = {step for step, _ in other}
        assert steps == ({1, 2, 3, 4} if name == "two" else {3, 4})
        for step in steps:
            for metric in ("train/loss", "train/epe", "train/grad_norm"):
                assert other[step, metric] == pytest.approx(one[step, metric], rel=1e-4), (name, step, metric)
    first, second = weights(tmp_path / "one", 4), weights(tmp_path / "onto_two", 4)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_how_the_optimizer_computes_is_not_taken_from_the_file(train, tiny, tmp_path):
    """A checkpoint of a version, or a machine, whose Adam was not fused goes on with the one of this run."""
    common = ["--config", tiny, *COMMON, "--save_every", 1, "--num_iterations", 2, "--workspace"]
    assert train(*common, "run").code == 0
    before = weights(tmp_path / "run", 2)
    path = tmp_path / "run" / "checkpoint" / "00000001_optimizer.pt"
    content = torch.load(path, weights_only=True)
    assert content["optimizer"]["param_groups"][0]["fused"]
    content["optimizer"]["param_groups"][0]["fused"] = None
    torch.save(content, path)
    path.with_name("00000001.json").unlink()  # the digests of what it was
    outcome = train(*common, "run", "--checkpoint", 1)
    assert outcome.code == 0, outcome.output
    assert_same(weights(tmp_path / "run", 2), before)
    after = torch.load(path.with_name("00000002_optimizer.pt"), weights_only=True)
    assert after["optimizer"]["param_groups"][0]["fused"]


def test_another_optimizer_does_not_go_on_with_the_state_of_the_first(train, tiny):
    common = ["--config", tiny, *COMMON, "--save_every", 1, "--workspace", "run", "--num_iterations"]
    assert train(*common, 1).code == 0
    for kind in ("SGD", "Adam", "NAdam"):  # failed in its first step; went on in silence; was refused otherwise
        outcome = train(*common, 2, "--checkpoint", "latest", "--set", f"optimizer.type={kind}")
        (line,) = [line for line in outcome.lines if line.startswith("error: ")]
        assert outcome.code == 2 and f"00000001_optimizer.pt: is of AdamW, and optimizer.type is {kind}; go on with AdamW, or" in line
        assert "--init_only" in line
