"""What would stop a run hours from now, looked at before its first step: disk, shared memory, devices, versions. A log line each, and only
where something is off. What the data and the weights look like is said by `sources` and `start`.
"""

import fcntl
import logging
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import torch
from accelerate.utils import gather_object

from train.checkpoint import Checkpoints
from train.run_file import load_config
from train.trackers import METRICS_FILE
from utils.errors import UserError, shorten
from utils.files import format_config

if TYPE_CHECKING:
    from train.run import Run

log = logging.getLogger("stereofoundry")

SHARED_MEMORY = Path("/dev/shm")
LOCK_FILE = ".lock"  # of a workspace
PIXEL_BYTES = 2 * 3 + 4 + 1  # of a batch: two images, disparity, mask
MOMENTS = 2  # values that an optimizer keeps per weight; SGD keeps fewer


def check_writable(workspace: Path) -> None:
    """Raises UserError for a workspace that could not be made or written; nothing is written to find out."""
    there = existing(workspace)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is not a folder" if not there.is_dir() else "no permission, or a file system that is read-only"
        raise UserError(f"{workspace}: cannot be written ({there}: {what}); pass a --workspace that can")


def check_config_file(file: Path, workspace: Path) -> None:
    """Raises UserError for a workspace that cannot be written, and where the effective configuration would take the place of what a person
    wrote: the run file itself, or a file in a folder without a run. A run may go on from the effective configuration in its own workspace.
    """
    check_writable(workspace)
    ours = (workspace / LOCK_FILE).exists() or (workspace / METRICS_FILE).exists() or Checkpoints(workspace / "checkpoint").steps()
    for suffix in sorted({".json", file.suffix}):
        place = workspace / f"config{suffix}"
        if not place.is_file():
            continue
        itself = place.samefile(file)
        if not ours or (itself and place.read_text(encoding="utf-8") != format_config(load_config(file).dump(), suffix)):
            what = "is the run file itself" if itself else "is there already, in a folder without a run"
            raise UserError(f"{place}: {what}; the effective configuration would be written over it; pass another --workspace")


def claim_workspace(workspace: Path) -> TextIO:
    """Its lock file, which is this process's alone until it is closed or the process ends, in whatever way. Raises OSError.

    Two runs in one workspace would delete each other's files. UserError that names the other run. The lock is one of POSIX, which a forked
    loading process does not inherit: one that outlives its run by some seconds does not hold up the next.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    file = open(workspace / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115 - to be kept
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        other = file.read(200).strip() or "another process"
        file.close()
        raise UserError(f"{workspace}: {other} is training there at this moment; end it first, or pass another --workspace") from None
    except OSError:  # a file system without locks
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def existing(path: Path) -> Path:
    """The path itself, or the nearest above it that exists."""
    path = path.absolute()
    return next(found for found in (path, *path.parents) if found.exists())


def report_preflight(run: "Run") -> None:
    """All checks, as log lines. Called by all processes together."""
    accelerator, options = run.accelerator, run.options
    everywhere = gather_object([run.versions])
    if accelerator.is_local_main_process:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        width, height = max(run.config.data.image_sizes, key=lambda size: size[0] * size[1])
        batch_bytes = options.batch_size_forward * width * height * PIXEL_BYTES
        _warn(shared_memory(here * run.loader.workers, run.config.data.prefetch, batch_bytes, _free(SHARED_MEMORY)))
        _warn(idle_devices(here, torch.cuda.device_count()))
    if not accelerator.is_main_process:
        return
    listed = ", ".join(f"{name} {found}" for name, found in run.versions.items() if name in ("python", "torch", "accelerate", "commit"))
    log.info("%d x %s; %s", accelerator.num_processes, device_name(accelerator.device), listed)
    _warn(other_versions(everywhere))
    _warn(nothing_held(run.config.validation.every, len(run.held)))
    if not options.dry_run:
        size, kept = checkpoint_bytes(run), kept_steps(run) - len(run.checkpoints.records())
        _warn(disk(options.workspace, size, kept, _free(existing(options.workspace)), beside=weight_bytes(run)))


def disk(workspace: Path, size: int, kept: int, free: int, *, beside: int = 0) -> str | None:
    """size: bytes of a checkpoint; kept: how many more there will be at once; beside: bytes of last.safetensors; free: bytes."""
    if kept <= 0 or free >= size * kept + beside:
        return None
    return (
        f"{workspace}: {free / 2**30:.1f} GiB are free, and {kept} checkpoints of about {size / 2**30:.2f} GiB are still to come; make "
        "room, save less often, or let checkpoints.keep_last delete old ones"
    )


def checkpoint_bytes(run: "Run") -> int:
    """About what the files of a step take, at most: where it has the best weights so far as well."""
    trained = sum(value.numel() * value.element_size() for value in run.network.parameters() if value.requires_grad)
    copies = 1 + (run.ema is not None) + (run.best is not None)
    return weight_bytes(run) * copies + trained * MOMENTS


def weight_bytes(run: "Run") -> int:
    return sum(value.numel() * value.element_size() for value in run.network.state_dict().values())


def kept_steps(run: "Run") -> int:
    """How many checkpoints the run will have on the disk at once, at most: a new one is complete before an old one goes."""
    options, keep = run.options, run.config.checkpoints
    if not options.save_every:
        return 0
    total = -(-options.num_iterations // options.save_every)
    if keep.keep_last is None:
        return total
    return min(total, keep.keep_last + 1 + (options.num_iterations // keep.keep_every if keep.keep_every else 0))


def shared_memory(workers: int, prefetch: int, batch_bytes: int, free: int) -> str | None:
    """workers: loading processes on this machine. Their batches lie in shared memory; where it is full, they die of a bus error."""
    needed = workers * (prefetch + 1) * batch_bytes
    if not SHARED_MEMORY.is_dir() or needed <= free:
        return None
    return (
        f"{SHARED_MEMORY}: {free / 2**20:.0f} MiB are free, and {workers} loading processes, {prefetch + 1} batches of "
        f"{batch_bytes / 2**20:.1f} MiB each, can take {needed / 2**20:.0f}; lower data.prefetch or data.workers, or give the container "
        "more (docker: --shm-size)"
    )


def idle_devices(processes: int, visible: int) -> str | None:
    """For this machine."""
    if visible <= processes:
        return None
    return f"{visible} GPUs are visible and {processes} are used; `accelerate launch --num_processes {visible}` uses all"


def other_versions(everywhere: list[dict[str, str]]) -> str | None:
    """everywhere: the versions on each process."""
    first = everywhere[0]
    differing = [
        f"process {rank} has {name} {found.get(name)}, process 0 {first.get(name)}"
        for rank, found in enumerate(everywhere)
        for name in first
        if found.get(name) != first[name]
    ]
    return f"versions differ between the processes: {shorten(differing)}; install the same everywhere" if differing else None


def nothing_held(every: int, held: int) -> str | None:
    """every: steps between two validations; held: samples to measure on."""
    if not every or held:
        return None
    return (
        f"validation.every: {every}, but nothing is measured: no sample is held back of a data set with fewer than 10, nor for a "
        "validation.fraction of 0; give validation.datasets, or set validation.every to 0"
    )


def device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type}, no GPU is visible" if device.type == "cpu" else device.type
    return f"{torch.cuda.get_device_name(device)} with {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.exists() else 0


def _warn(line: str | None) -> None:
    if line is not None:
        log.warning(line)
