"""The step loop of a run: update, report, measure, save. Every other concern is one call into its own file.

What a run is made of, and how it is built or continued, is in `run`.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from core.inference import Estimate, coarse_start, estimate
from train.compilation import plain
from train.dataloader import MixtureDataset, plan_batch, torch_seed
from train.ema import spread_statistics
from train.evaluation import constant_epe, constant_pose_mse, validate
from train.marks import mark, marked, of_validation
from train.metrics import POSE_MSE
from train.preview import save_previews
from train.run import Run
from train.sample import StereoBatch, StereoSample
from train.sharding import full, gathered, whole
from train.signals import StopSignals
from utils.errors import UserError, shorten
from utils.versions import peak_memory_gib

log = logging.getLogger("stereofoundry")

PREVIEWS = 8
UNLOGGED = 500  # steps between two looks at the ground truth of a run that logs nothing


def train(run: Run, stop: StopSignals) -> None:
    """Steps from `run.first_step` to the end, or to a signal: update, report, measure, save, in that order."""
    options, total = run.options, run.options.num_iterations
    if run.unmeasured or (run.config.validation.at_start and run.first_step == 0):
        measure(run, run.first_step)
    if run.first_step >= total:
        log.info("nothing to do: step %d of %d is reached; raise --num_iterations to go on", run.first_step, total)
    watched = run.accelerator.is_main_process and sys.stderr.isatty()  # elsewhere log lines say the same
    bar = tqdm(total=total, initial=run.first_step, disable=not watched, unit="step", mininterval=1.0, dynamic_ncols=True)
    pace, done = Pace(run), run.first_step
    for step in range(run.first_step, total):
        stop.spread(run.accelerator)
        with pace.step():
            update(run, step)
        done = step + 1
        run.stopped = stop.agreed()
        bar.update()
        pace.show(bar)
        if due(done, options.log_every or UNLOGGED, total):
            with run.costs.of("log"):
                report_training(run, done, pace)
        if not run.stopped:  # who asks for an end may not wait for it: what is due now is measured first by the run that goes on
            measure(run, done)
        if due(done, options.save_every, done if run.stopped else total):
            with run.costs.of("save"):
                save(run, done)
        if run.stopped:
            break
    bar.close()
    pace.report_saving()
    finish(run, done)


def due(done: int, every: int, total: int) -> bool:
    """Every `every` steps and at the last one; never for 0."""
    return every > 0 and (done % every == 0 or done == total)


def update(run: Run, step: int) -> None:
    """One optimizer update from all micro-batches of `step`. A gradient that is not finite moves nothing, on any process."""
    torch.manual_seed(torch_seed(run.options.seed, step, run.accelerator.process_index))
    run.model.train()
    seen: list[Seen] = []
    for batch in run.loader.batches(step):
        if run.anomaly is not None:
            run.anomaly.at(step, names(batch))
        with run.accelerator.accumulate(run.model):
            batch = batch.to(run.accelerator.device)
            output = run.model(batch.left, batch.right, iters=run.config.training.iterations, init=start(run, batch, step))
            loss, parts = run.objective(output, batch)
            run.accelerator.backward(loss)
        seen.append(Seen(parts, output.disparity.detach(), batch))
    if run.anomaly is not None and run.accelerator.scaler is None:  # with a scaler, infinite gradients are its business
        run.anomaly.look_at_gradients()
    norm = full(run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.training.clip_norm))
    taken, *counts = are_finite(norm, *(one.parts["loss"] for one in seen))
    apply_update(run, taken)
    if not taken:  # what it saw would make the means of its whole window NaN
        report_skipped(run, step, norm, seen)
        return
    with run.costs.of("metrics"):
        run.means.add({"grad_norm": norm})
        for one, counted in zip(seen, counts, strict=True):
            if not counted:  # L1 has a finite gradient where its value has none
                listed = shorten(name for name, bad in zip(names(one.batch), not_finite(one), strict=True) if bad)
                log.warning("step %d: the loss is not finite, but its gradient is; left out of the means: %s", step, listed)
                continue
            run.means.add(one.parts, run.objective.counts(one.batch))
            run.metrics.add(one.disparity, one.batch.disparity, one.batch.valid, one.batch.datasets)


def start(run: Run, batch: StereoBatch, step: int) -> Tensor | None:
    """Where the refinement of this step starts; None: from the network's own search."""
    scale = run.config.training.coarse_scale
    if scale is None or step % 2 == 0:
        return None
    spread_statistics(run.network)  # which it goes by; a run that was continued here has no others
    with run.accelerator.autocast(), plain():
        return coarse_start(run.network, batch.left, batch.right, scale=scale)


def apply_update(run: Run, taken: bool) -> None:
    """Optimizer, schedule, average and batch-norm statistics move together or not at all.

    taken: whether the norm of the reduced gradient is finite: all processes decide alike.
    """
    if taken:
        run.optimizer.step()
        run.schedule.step()
        with run.costs.of("ema"):
            if run.ema is not None:
                run.ema.update(run.network)
            run.statistics.keep()
        run.skipped_in_row = 0
    else:
        if run.accelerator.scaler is not None:  # it has seen the infinite gradients when they were unscaled, and lowers its scale
            run.accelerator.scaler.update()
        run.statistics.restore()
        run.skipped += 1
        run.skipped_in_row += 1
    run.optimizer.zero_grad(set_to_none=True)


def are_finite(*values: Tensor) -> list[bool]:
    """The one place where an update waits for the device: whether it is taken decides what the host does next."""
    return torch.stack([value.isfinite() for value in values]).tolist()


# ---- what was wrong with an update ------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A micro-batch and what came of it: the parts of its loss, (B, H, W) disparity in pixels."""

    parts: dict[str, Tensor]
    disparity: Tensor
    batch: StereoBatch


def names(batch: StereoBatch) -> list[str]:
    """Data set and key of every sample."""
    return [f"{name}/{key}" for name, key in zip(batch.datasets, batch.keys, strict=True)]


def report_skipped(run: Run, step: int, norm: Tensor, seen: list[Seen]) -> None:
    """Name the samples of a step, of all processes: those where something is not finite, or all. Too many such steps are a UserError."""
    mine = [(name, bad) for one in seen for name, bad in zip(names(one.batch), not_finite(one), strict=True)]
    found: list[tuple[str, bool]] = gather_object(mine)  # the norm is the same everywhere: all processes are here
    bad = [name for name, it_is in found if it_is]
    samples = f"not finite in {shorten(bad)}" if bad else f"loss and prediction are finite in {shorten(name for name, _ in found)}"
    if run.accelerator.is_main_process:
        log.warning("step %d skipped: the gradient norm is %s; %s", step, float(norm), samples)
    if run.skipped_in_row >= run.config.training.max_skipped:
        raise UserError(
            f"{run.skipped_in_row} updates in a row had a gradient that is not finite (training.max_skipped), the last at step {step}: "
            f"{samples}; look at these samples, lower the learning rate, or use --precision bf16 in place of fp16"
        )


def not_finite(seen: Seen) -> list[bool]:
    """Per sample, whether its images, ground truth or prediction are not; of a loss that is not finite without that, all are suspected."""
    batch = seen.batch
    values = (batch.left, batch.right, batch.disparity, seen.disparity)
    rows = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0).logical_not().tolist()
    return rows if any(rows) else [not math.isfinite(seen.parts["loss"])] * len(rows)


# ---- report -----------------------------------------------------------------------------------------------------------------------------


class Pace:
    """How fast the updates are, without what happens between them, how long saving holds them up, and what the progress bar shows."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shown = 0.0
        self._all_seconds = 0.0
        self._reset()

    def _reset(self) -> None:
        self._seconds, self._steps = 0.0, 0
        self._run.loader.wait_s = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._seconds += seconds
        self._all_seconds += seconds
        self._steps += 1

    def report_saving(self) -> None:
        """What the loop itself did of all saves, the copies and the waits for the one before, as a log line."""
        seconds, saves = self._run.costs.total("save")
        if saves:
            share, times = 100 * seconds / max(self._all_seconds, 1e-9), f"{saves} checkpoint{'s' if saves > 1 else ''}"
            log.info("saving %s held the loop up for %.3f s, %.3f %% of its steps' time", times, seconds, share)

    @property
    def samples_per_s(self) -> float:
        return self._steps * self._run.samples_per_step / max(self._seconds, 1e-9)

    def show(self, bar: tqdm) -> None:
        """Once a second at most: reading the loss waits for the device."""
        now = time.perf_counter()
        if bar.disable or now - self._shown < 1.0:
            return
        self._shown = now
        loss, error = self._run.means.peek().get("loss", math.nan), self._run.metrics.reduce()["epe"]
        lr = self._run.schedule.get_last_lr()[0]
        bar.set_postfix_str(f"loss {loss:.3f}, EPE {error:.2f} px, lr {lr:.1e}, {self.samples_per_s:.1f} samples/s")

    def take(self) -> dict[str, float]:
        """What was measured since the last call."""
        wait, seconds, steps = self._run.loader.wait_s, max(self._seconds, 1e-9), max(self._steps, 1)
        shares = self._run.costs.take(seconds) | {"data_wait_share": wait / seconds}
        found = {"samples_per_s": self.samples_per_s, "step_s": seconds / steps, "data_wait_s": wait / steps}
        self._reset()
        return found | shares


def report_training(run: Run, done: int, pace: Pace) -> None:
    """Means since the last report, over all processes, where they are asked for; and whether there was ground truth, which is always."""
    counts = run.metrics.counts(run.sum_over_processes)
    if run.options.log_every:
        log_training(run, done, pace)
    run.metrics.reset()
    run.truth.look(counts, last=run.first_step == 0 and done == run.options.num_iterations)


def log_training(run: Run, done: int, pace: Pace) -> None:
    """Into the trackers, and as a log line."""
    speed = pace.take()
    losses = run.means.reduce(run.sum_over_processes)
    errors = run.metrics.reduce(run.sum_over_processes)
    rates = {f"lr/{i}" if i else "lr": rate for i, rate in enumerate(run.schedule.get_last_lr())}
    record = {f"train/{name}": value for name, value in {**losses, **errors}.items()}
    record |= (
        rates | speed | {"memory_gib": peak_memory_gib(run.accelerator.device), "skipped": run.skipped, "broken": len(run.loader.broken)}
    )
    run.tracker.log(record, done)
    log.info(
        "step %d/%d: loss %.4f, EPE %.3f px, bad-1 %.1f %%, lr %.2e, %.2f samples/s, waited %.1f %% for data, %.1f %% overhead, "
        "%.1f GiB, %s left%s",
        done, run.options.num_iterations, losses.get("loss", math.nan), errors["epe"], errors["bad_1"], rates["lr"],
        speed["samples_per_s"], 100 * speed["data_wait_share"], 100 * speed["share/all"], record["memory_gib"],
        timedelta(seconds=round((run.options.num_iterations - done) * speed["step_s"])), f", {run.skipped} skipped" if run.skipped else "",
    )  # fmt: skip


def measure(run: Run, done: int) -> None:
    """Validation and previews, where they are due."""
    options, every = run.options, run.config.validation.every
    if len(run.held) and (done == 0 or due(done, every, options.num_iterations)):
        report_validation(run, done)
    if done and due(done, options.vis_every, options.num_iterations):
        with run.costs.of("previews"):
            report_previews(run, done)


def report_validation(run: Run, done: int) -> None:
    """Metrics on the held samples. All processes measure the weights and statistics of the first."""
    start, network = time.perf_counter(), whole(run.measured)
    spread_statistics(network)
    found = validate(
        run.held,
        lambda sample: predict(run, network, sample),
        rank=run.accelerator.process_index,
        ranks=run.accelerator.num_processes,
        reduce=run.sum_over_processes,
        strict=done == 0,  # later the run would lose its steps since the last checkpoint
    )
    record = {f"val/{name}": value for name, value in found.items()} | {"val/seconds": time.perf_counter() - start}
    if done == 0 and run.accelerator.is_main_process:
        record["val/epe_constant"] = constant_epe(run.held)
        log.info("validation on %d samples; the best constant disparity has EPE %.3f px", len(run.held), record["val/epe_constant"])
        if POSE_MSE in found:
            record["val/pose_mse_constant"] = constant_pose_mse(run.held)
    run.tracker.log(record, done)
    best = run.best is not None and "missing" not in found and run.best.improved(found)  # numbers of other samples do not compare
    more = f", pose MSE {found[POSE_MSE]:.3g}" if POSE_MSE in found else ""
    more += f"; without {found['missing']:g} samples that cannot be read" if "missing" in found else ""
    more += ", the best so far" if best else ""
    log.info("validation at step %d: EPE %.3f px, bad-1 %.1f %%, D1 %.1f %%%s", done, found["epe"], found["bad_1"], found["d1_all"], more)
    if best and run.accelerator.is_main_process:
        run.saver.hold(weights_of(run, done) | {"model": network.state_dict(), "validation": of_validation(done, found)})


def report_previews(run: Run, done: int) -> None:
    """Pictures of the first held samples (of fixed training samples where none is held), drawn by the first process."""
    run.accelerator.wait_for_everyone()
    network = whole(run.measured)
    if not run.accelerator.is_main_process:
        return
    folder = run.options.workspace / "vis" / f"step_{done:08d}"
    for path in save_previews(folder, preview_samples(run), lambda sample: predict(run, network, sample).disparity):
        run.tracker.image(path, path.stem, done)


def preview_samples(run: Run) -> list[tuple[str, StereoSample]]:
    """The same (data set, sample) at every call."""
    if len(run.held):
        loaded = ((run.held.name(i), run.held.load_if_there(i)) for i in range(min(PREVIEWS, len(run.held))))
        return [(name, sample) for name, sample in loaded if sample is not None]
    draws = plan_batch(run.mix, 0, range(PREVIEWS), PREVIEWS)
    return [(item.source.name, item.sample) for item in map(MixtureDataset(run.mix).__getitem__, draws)]


def predict(run: Run, network: nn.Module, sample: StereoSample) -> Estimate:
    """In the way and in the precision of the validation."""
    with run.accelerator.autocast(), plain():
        return estimate(network, sample.left, sample.right, iters=run.config.validation.iterations)


# ---- save -------------------------------------------------------------------------------------------------------------------------------


def save(run: Run, done: int) -> None:
    """Hand the three files of a step to the saver, on the first process. Sums are kept as each process has them."""
    means, metrics = run.means.state_dict(run.accelerator.gather), run.metrics.state_dict(run.accelerator.gather)
    network, optimizer = gathered(run.network.state_dict()), gathered(run.optimizer.state_dict())
    average = None if run.ema is None else gathered(run.ema.state_dict())
    if not run.accelerator.is_main_process:
        return
    weights = weights_of(run, done)
    scaler = run.accelerator.scaler
    parts: dict[str, dict[str, Any]] = {
        "model": weights | {"model": network},
        "optimizer": {
            "step": done,
            "model_config": run.config.model,
            "config": run.config.dump(),
            "optimizer": optimizer,
            "lr_scheduler": run.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "means": means,
            "metrics": metrics,
            "skipped": run.skipped,
            "skipped_in_row": run.skipped_in_row,
            "broken": run.loader.broken,
            "unmeasured": run.stopped,
            "options": run.options.dump(),
            "processes": run.accelerator.num_processes,
            "versions": run.versions,
            "run_id": run.tracker.run_id,
        },
    }
    if average is not None:
        parts["ema"] = weights | average
    run.saver.save(done, parts)


def weights_of(run: Run, done: int) -> dict[str, Any]:
    """What a file of weights of a step holds beside them."""
    return {"step": done, "model_config": run.config.model, "config": run.config.dump(), "carried": run.carried}


def finish(run: Run, done: int) -> None:
    """Wait for the last checkpoint, hand the best and the last weights to the trackers, and say where everything is or how to continue."""
    if not run.accelerator.is_main_process:
        return
    run.saver.finish()
    last = run.saver.newest
    if last is not None:
        mark(last)
    if run.stopped:
        saved = "" if last is not None and last.step == done else ", which is not saved, as --save_every 0 asks"
        how = f"to continue, --workspace {run.options.workspace} --checkpoint latest and the other options as they were"
        log.info("stopped by a signal after step %d of %d%s; %s", done, run.options.num_iterations, saved, how)
    elif last is None:
        log.info("done; no checkpoint was saved, as --save_every 0 asks")
    else:
        if run.config.trackers.log_checkpoints == "final":
            run.tracker.artifact(last.weights, "checkpoint")
        if run.config.trackers.log_checkpoints != "none":
            for path in marked(last.folder):
                run.tracker.artifact(path, "checkpoint")
        log.info("done: weights in %s", last.weights)
