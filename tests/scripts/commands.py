"""Training commands one after another in one process, which is started by torchrun; no test of its own. `conftest.commands_on_two` uses it.

`commands.py FILE`: a JSON list of {"argv": [...]}, with "rank" and "step" and either "signal" (sent to itself) or "poison" (the micro-batch
whose loss becomes infinite), or with "faults" (see `spoil`); "environment" is set for a command alone. What process r says of command i
goes to `FILE.i.r`.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.nn.parallel import DistributedDataParallel

from scripts.train import main
from train import loop
from train import run as run_module
from train.dataloader import TrainLoader
from train.losses import Objective
from train.sharding import full, local

RANK = int(os.environ["RANK"])


def disturb(command: dict) -> None:
    """Do in `command["step"]` what the command asks for, on its rank."""
    update, objective, per_step = loop.update, Objective.__call__, []

    def disturbed_update(run, step):
        per_step[:] = [step]
        update(run, step)
        if step == command["step"] and command["rank"] == RANK and "signal" in command:
            os.kill(os.getpid(), getattr(signal, command["signal"]))

    def disturbed_loss(self, output, batch):
        loss, parts = objective(self, output, batch)
        per_step.append(None)
        if per_step[0] == command["step"] and command["rank"] == RANK and len(per_step) - 2 == command.get("poison"):
            sys.stdout.write(f"poisoned {', '.join(loop.names(batch))}\n")
            return loss * float("inf"), {**parts, "loss": parts["loss"] * float("inf")}
        return loss, parts

    loop.update, Objective.__call__ = disturbed_update, disturbed_loss


def spoil(command: dict) -> None:
    """Make numbers of whole steps not finite, as [step, rank or null for all, "image", "truth", "loss" or "gradient", "inf" or "nan"], with
    fp16's loss scaling in an otherwise fp32 run where "scaled" says so; at the end each process says what it has come to."""
    faults = {step: (what, float(value)) for step, rank, what, value in command["faults"] if rank in (None, RANK)}
    batches, objective, save, build = TrainLoader.batches, Objective.__call__, loop.save, run_module._build_accelerator
    now = ["", 0.0]

    def spoilt_batches(self, step):
        now[:] = faults.get(step, ("", 0.0))
        for batch in batches(self, step):
            if now[0] == "image":
                batch.left = batch.left.float() / 255
                batch.left[0, 0, 5, 5] = now[1]
            elif now[0] == "truth":
                batch.disparity[0, 8, 8], batch.valid[0, 8, 8] = now[1], True
            yield batch

    def spoilt_loss(self, output, batch):
        loss, parts = objective(self, output, batch)
        if now[0] == "gradient":
            loss.register_hook(lambda gradient, value=now[1]: gradient * value)
        return loss * now[1] if now[0] == "loss" else loss, parts

    def telling_save(run, done):
        numbers = [*run.network.parameters(), *run.ema.module.parameters()]
        digest = hashlib.sha256(b"".join(full(value.detach()).numpy().tobytes() for value in numbers)).hexdigest()
        kept = [entry for states in run.optimizer.state.values() for entry in states.values() if entry.dim()]
        held = [sum(local(value.detach()).numel() for value in values) for values in (numbers, kept)]
        sys.stdout.write(
            f"holds {' '.join(map(str, held))} of {' '.join(str(sum(map(torch.numel, values))) for values in (numbers, kept))}\n"
        )
        if isinstance(run.model, DistributedDataParallel):
            found = {name: getattr(run.model, name) for name in ("find_unused_parameters", "gradient_as_bucket_view")}
            sys.stdout.write(f"wrapped with {json.dumps(found)}\n")
        sys.stdout.write(f"came to {digest} {run.skipped} {run.schedule.last_epoch} {run.ema.num_updates}\n")
        save(run, done)

    def scaled(options):
        accelerator = build(options)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        accelerator.unscale_gradients = lambda optimizer=None: accelerator.scaler.unscale_(accelerator._optimizers[0].optimizer)
        return accelerator

    TrainLoader.batches, Objective.__call__, loop.save = spoilt_batches, spoilt_loss, telling_save
    if command.get("scaled"):
        run_module._build_accelerator = scaled


def run(command: dict, output: Path) -> int:
    """The exit code. Everything it says goes to the file."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    surroundings = dict(os.environ)
    os.environ.update(command.get("environment", {}))
    before = loop.update, loop.save, Objective.__call__, TrainLoader.batches, run_module._build_accelerator
    if "step" in command:
        disturb(command)
    if "faults" in command:
        spoil(command)
    try:
        main([str(argument) for argument in command["argv"]])
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        loop.update, loop.save, Objective.__call__, TrainLoader.batches, run_module._build_accelerator = before
        os.environ.clear()
        os.environ.update(surroundings)
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


torch.set_num_threads(1)
PartialState.destroy_process_group = lambda self, group=None: None  # the next command uses the connections of the last
listed = Path(sys.argv[1])
for i, command in enumerate(json.loads(listed.read_text())):
    if code := run(command, Path(f"{listed}.{i}.{RANK}")):
        os._exit(code)
