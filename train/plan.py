"""What a run would be, in words and tables, with the memory it takes, and one step to prove it. Nothing is written."""

import math
import time
from collections.abc import Iterator

from train.loop import update
from train.memory import (
    available_bytes,
    check_memory,
    estimate_or_warn,
    memory_table,
    planner_of,
    setting_of,
    usable_bytes,
    validation_line,
)
from train.run import Run
from train.start import weights_table
from train.utils import parameter_table
from utils.versions import peak_memory_gib, reset_peak_memory


def dry_run(run: Run) -> Iterator[str]:
    """Say what the run would be and what memory it would take; then take a step, and say how it was. Nothing is written.

    Raises UserError for a run that does not fit. One that fits into `--memory_gb` and not into this machine is not tried.
    """
    yield describe(run)
    planner, setting, usable = planner_of(run), setting_of(run), usable_bytes(run)
    found = estimate_or_warn(planner, setting)
    if found is not None:
        lines = memory_table(setting, found, usable, None if usable is None else planner.largest_batch(setting, usable))
        if len(run.held):
            lines.append(validation_line(run, planner, usable))
        yield "\n" + "\n".join(lines)
        if usable is not None:
            check_memory(planner, setting, found, usable)
        here = available_bytes(run)
        if here is not None and found.total > here:
            yield f"\nno step is taken: {here / 2**30:.2f} GiB are free here"
            return
    yield "\n" + take_step(run)


def take_step(run: Run) -> str:
    """The first step; on a GPU a second one, whose peak holds the optimizer's states as all later ones do."""
    start, device = time.perf_counter(), run.accelerator.device
    update(run, run.first_step)
    seconds = time.perf_counter() - start
    losses, errors = run.means.reduce(), run.metrics.reduce()
    if device.type == "cuda" and run.options.num_iterations > run.first_step + 1:
        reset_peak_memory(device)
        update(run, run.first_step + 1)
    return (
        f"one step: {seconds:.1f} s with start-up, loss {losses.get('loss', math.nan):.4f}, EPE {errors['epe']:.3f} px, "
        f"gradient norm {losses.get('grad_norm', math.nan):.3g}, measured peak memory {peak_memory_gib(device):.2f} GiB"
        f"{' of the whole process, with its libraries' if device.type == 'cpu' else ''}"
    )


def describe(run: Run) -> str:
    """The plan of a run in words and tables: network, data, what a step holds, what is descended."""
    options, config = run.options, run.config
    shares = 100 * run.mix.shares()
    held = dict.fromkeys((source.name for source in run.mix.sources), 0) | run.held.counts()
    data = [
        f"  {source.name:<32} {len(source.indices):>9} to train on {held.pop(source.name):>6} held {share:6.1f} % of the samples"
        for source, share in zip(run.mix.sources, shares, strict=True)
    ]
    data += [f"  {name:<32} {count:>28} held" for name, count in held.items()]
    terms = [
        f"  {label}: {name} = {term.weight:g} x {term.function}" for label, found in config.loss.items() for name, term in found.items()
    ]
    sizes = ", ".join(f"{width} x {height}" for width, height in config.data.image_sizes)
    return "\n".join(
        [
            parameter_table(run.network, run.optimizer),
            "weights",
            *weights_table(run.network, run.sources),
            "data",
            *data,
            "losses",
            *terms,
            f"step: {run.samples_per_step} samples ({options.batch_size_forward} x {options.gradient_accumulation_steps} accumulated x "
            f"{run.accelerator.num_processes} processes) of {sizes}, {options.precision} on {run.accelerator.device.type}, gradient "
            f"checkpointing {'on' if options.enable_gradient_checkpointing else 'off'}, EMA {'on' if run.ema else 'off'}",
            f"steps: {run.first_step} to {options.num_iterations}; workspace {options.workspace}",
        ]
    )
