"""What several processes make of a train step: `processes` compares all of them, as a run has them, with one of them alone."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from train.benchmark import Conditions, Subject, summary, timed
from train.config import RunConfig
from utils.errors import UserError


def processes(config: RunConfig, conditions: Conditions, count: int, plain: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds of a train step of one process `alone`, and of `count` of them `together`, each with a batch of its own and gradients
    averaged; `efficiency` is their ratio, 1 where the others cost nothing. Steps alone and together take turns.

    plain: see `Subject`. On a CPU each has its share of the cores, alone as well; on GPUs each has one. Raises UserError for more than
    there are.
    """
    kind = conditions.device.type
    there = torch.cuda.device_count() if kind == "cuda" else len(os.sched_getaffinity(0))
    if count > there:
        raise UserError(f"--processes {count}: there are {there} {'GPUs' if kind == 'cuda' else 'cores'}; expected no more than that")
    with tempfile.TemporaryDirectory(prefix="stereofoundry_") as folder:
        found = Path(folder) / "found.pt"
        multiprocessing.spawn(
            _measure, (config, conditions, count, tuple(plain), max(1, there // count), Path(folder) / "meet", found), nprocs=count
        )
        alone, together = torch.load(found, weights_only=True)
    samples = conditions.batch * count / summary(together)["median"]
    efficiency = summary([one / every for one, every in zip(alone, together, strict=True)])
    return {
        "processes": count,
        "alone": summary(alone),
        "together": summary(together),
        "samples_per_second": samples,
        "efficiency": efficiency,
    }


def _measure(
    rank: int, config: RunConfig, conditions: Conditions, count: int, plain: Sequence[str], threads: int, meet: Path, found: Path
) -> None:
    device = torch.device("cuda", rank) if conditions.device.type == "cuda" else conditions.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", f"file://{meet}", rank=rank, world_size=count)
    try:
        conditions = replace(conditions, device=device)
        lone = Subject("lone", config, conditions, plain) if rank == 0 else None
        shared = Subject("shared", config, conditions, plain)
        shared.network = DistributedDataParallel(shared.network, gradient_as_bucket_view=True)  # as `run` asks accelerate for
        alone: list[float] = []
        together: list[float] = []
        for number in range(conditions.warmup + conditions.repeats):
            distributed.barrier()
            one = 0.0 if lone is None else timed(lone.train_step, device)
            distributed.barrier()
            every = timed(shared.train_step, device)
            if number >= conditions.warmup:
                alone.append(one)
                together.append(every)
        if rank == 0:
            torch.save((alone, together), found)
    finally:
        distributed.destroy_process_group()


def processes_line(found: dict[str, Any]) -> str:
    alone, together, efficiency = found["alone"], found["together"], found["efficiency"]
    return (
        f"{found['processes']} processes: a step of {together['median']:.3g} s, alone {alone['median']:.3g} s; "
        f"efficiency {100 * efficiency['median']:.0f} % ({100 * efficiency['low']:.0f} to {100 * efficiency['high']:.0f}), "
        f"{found['samples_per_second']:.3g} samples/s"
    )
