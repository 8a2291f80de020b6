"""What a run would be, in words and tables, and one step to prove it. Nothing is written."""

import math
import time

from train.loop import update
from train.run import Run
from train.start import weights_table
from train.utils import parameter_table
from utils.versions import peak_memory_gib


def dry_run(run: Run) -> str:
    """Take one step, write nothing, and say what the run would be."""
    start = time.perf_counter()
    update(run, run.first_step)
    seconds = time.perf_counter() - start
    losses, errors = run.means.reduce(), run.metrics.reduce()
    return (
        f"{describe(run)}\n\none step: {seconds:.1f} s with start-up, loss {losses.get('loss', math.nan):.4f}, EPE {errors['epe']:.3f} px, "
        f"gradient norm {losses.get('grad_norm', math.nan):.3g}, peak memory {peak_memory_gib(run.accelerator.device):.2f} GiB"
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
