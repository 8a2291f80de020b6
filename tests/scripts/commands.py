"""Training commands one after another in one process, which is started by torchrun; no test of its own. `conftest.commands_on_two` uses it.

`commands.py FILE`: a JSON list of {"argv": [...]}, with "rank" and "step" and either "signal" (sent to itself) or "poison" (the micro-batch
whose loss becomes infinite). What process r says of command i goes to `FILE.i.r`.
"""

import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from scripts.train import main
from train import loop
from train.losses import Objective

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


def run(command: dict, output: Path) -> int:
    """The exit code. Everything it says goes to the file."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    before = loop.update, Objective.__call__
    if "step" in command:
        disturb(command)
    try:
        main([str(argument) for argument in command["argv"]])
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        loop.update, Objective.__call__ = before
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


torch.set_num_threads(1)
PartialState.destroy_process_group = lambda self, group=None: None  # the next command uses the connections of the last
listed = Path(sys.argv[1])
for i, command in enumerate(json.loads(listed.read_text())):
    if code := run(command, Path(f"{listed}.{i}.{RANK}")):
        os._exit(code)
