"""One training run from its configuration to its last checkpoint: build, continue, step. Every other concern is one call into its own file;
what is asked for and what is printed is the command's business.
"""

import logging
import math
import resource
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, broadcast
from torch import Tensor, nn
from tqdm import tqdm

from core import build_model
from train.checkpoint import Checkpoint, Checkpoints
from train.config import RunConfig, differences
from train.dataloader import Mixture, TrainLoader, build_sources, default_workers, torch_seed
from train.ema import Ema
from train.evaluation import ValidationSet, constant_epe, validate
from train.losses import Objective
from train.metrics import Means, MetricSums
from train.preview import save_previews
from train.trackers import Tracker, build_trackers
from train.utils import build_lr_scheduler, build_optimizer
from utils.errors import UserError
from utils.files import format_config, write_atomic
from utils.versions import versions

log = logging.getLogger("stereofoundry")

PREVIEWS = 8
TRAIN_METRICS = ("epe", "bad_1", "d1_all")


@dataclass(frozen=True)
class Options:
    """Where a run is stored and how big it is: the options of `scripts/train.py` that are not the configuration."""

    workspace: Path
    checkpoint: str | None = None
    batch_size_forward: int = 4
    gradient_accumulation_steps: int = 1
    enable_gradient_checkpointing: bool = True
    precision: str = "fp32"
    enable_ema: bool = True
    num_iterations: int = 100_000
    save_every: int = 5_000
    log_every: int = 500
    vis_every: int = 0
    enable_mlflow: bool = True
    seed: int = 0
    overfit: int = 0
    dry_run: bool = False
    config_suffix: str = ".json"

    def dump(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass
class Run:
    """Everything that a step needs. Built once by `build_run`."""

    config: RunConfig
    options: Options
    accelerator: Accelerator
    model: nn.Module
    network: nn.Module  # `model` without what accelerate wraps around it
    optimizer: Any
    schedule: Any
    objective: Objective
    ema: Ema | None
    mix: Mixture
    held: ValidationSet
    loader: TrainLoader
    checkpoints: Checkpoints
    tracker: Tracker
    first_step: int
    means: Means
    metrics: MetricSums
    skipped: int = 0
    skipped_in_row: int = 0
    recent_keys: list[str] = field(default_factory=list)

    @property
    def measured(self) -> nn.Module:
        """The network that validation, previews and people use: the averaged one where there is an average."""
        return self.network if self.ema is None else self.ema.module

    @property
    def samples_per_step(self) -> int:
        return self.options.batch_size_forward * self.options.gradient_accumulation_steps * self.accelerator.num_processes


# ---- build ------------------------------------------------------------------------------------------------------------------------------


def build_run(config: RunConfig, options: Options) -> Run:
    """Everything up to the first step. Raises UserError for what the user can mend; nothing was overwritten then."""
    accelerator = _build_accelerator(options)
    checkpoints = Checkpoints(options.workspace / "checkpoint")
    start = _find_start(checkpoints, options)

    torch.manual_seed(options.seed)
    network = build_model(config.model)
    network.gradient_checkpointing = options.enable_gradient_checkpointing
    check_sizes(config, network.multiple)
    mix, held = build_data(config, options)
    if start is not None:
        load_weights(network, start.load("model"), start.path("model"), config)
    if accelerator.num_processes > 1 and config.model.get("sync_batchnorm"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(accelerator.device)

    optimizer = build_optimizer(network, config.optimizer)
    schedule = build_lr_scheduler(optimizer, config.lr_scheduler, options.num_iterations)
    ema = Ema(network, config.ema.decay) if options.enable_ema else None
    model, optimizer = accelerator.prepare(network, optimizer)  # not the schedule: a prepared one steps once per process

    objective = Objective(config.loss)
    names = [source.name for source in mix.sources]
    run = Run(
        config=config,
        options=options,
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        objective=objective,
        ema=ema,
        mix=mix,
        held=held,
        loader=None,  # type: ignore[arg-type]  # needs the first step, which `restore` knows
        checkpoints=checkpoints,
        tracker=Tracker(),
        first_step=0,
        means=Means([*objective.keys, "grad_norm"], accelerator.device),
        metrics=MetricSums(names, TRAIN_METRICS, device=accelerator.device),
    )
    run_id = restore(run, start) if start is not None else None
    run.loader = TrainLoader(
        mix,
        config.data,
        first_step=run.first_step,
        steps=options.num_iterations,
        batch=options.batch_size_forward,
        accumulate=options.gradient_accumulation_steps,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        workers=default_workers(accelerator.num_processes) if config.data.workers is None else config.data.workers,
    )
    if accelerator.is_main_process and not options.dry_run:
        _open_workspace(run, start, run_id)
    accelerator.wait_for_everyone()
    return run


def _build_accelerator(options: Options) -> Accelerator:
    on_cpu = not torch.cuda.is_available()
    if options.precision == "fp16" and on_cpu:
        raise UserError("--precision fp16 / --enable_mixed_precision true: needs a GPU, and none is visible; on a CPU use --precision bf16")
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(options.precision, options.precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=options.gradient_accumulation_steps, sync_with_dataloader=False, adjust_scheduler=False
        ),
        cpu=on_cpu,
        step_scheduler_with_optimizer=False,
    )


def _find_start(checkpoints: Checkpoints, options: Options) -> Checkpoint | None:
    """Where the run begins; UserError rather than writing over a run that is already there."""
    if options.checkpoint is not None:
        start = checkpoints.find(options.checkpoint)
        if start is None:
            log.info("no checkpoint in %s yet: starting from step 0", checkpoints.folder)
        return start
    if checkpoints.steps() and not options.dry_run:
        raise UserError(
            f"{options.workspace}: already holds a run, saved at steps {_shorten(checkpoints.steps())}; continue it with --checkpoint latest, "
            "or pass another --workspace"
        )
    return None


def check_sizes(config: RunConfig, multiple: int) -> None:
    """Raises UserError for a crop that the network cannot take."""
    for where, sizes in (("data.image_sizes", config.data.image_sizes), ("validation.size", [config.validation.size])):
        for i, size in enumerate(sizes):
            if size is not None and any(side % multiple for side in size):
                nearest = [max(multiple, round(side / multiple) * multiple) for side in size]
                at = f"{where}[{i}]" if len(sizes) > 1 or where.endswith("s") else where
                raise UserError(f"{at}: found {list(size)}; width and height must be multiples of {multiple}, for example {nearest}")


def build_data(config: RunConfig, options: Options) -> tuple[Mixture, ValidationSet]:
    """The mixture to train on, and what is measured on."""
    data, validation = config.data, config.validation
    measured = validation.every > 0
    fraction = 0.0 if validation.datasets or not measured else validation.fraction
    kept, held = build_sources(data.datasets, data, "data.datasets", fraction)
    if validation.datasets and measured:
        kept_for_validation, _ = build_sources(
            validation.datasets, data.model_copy(update={"stereo_augmentation": False}), "validation.datasets"
        )
        held = kept_for_validation
    mix = Mixture(tuple(kept), tuple(data.image_sizes), options.seed, data.max_disparity, options.overfit)
    return mix, ValidationSet(held if measured else [], validation, data.max_disparity)


def load_weights(network: nn.Module, content: dict[str, Any], path: Path, config: RunConfig) -> None:
    """Strictly. Raises UserError that names what the two models differ in."""
    state = content.get("model")
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no 'model'; expected a weights file <step>.pt of this project")
    own = network.state_dict()
    wrong = [name for name in {*own, *state} if name not in own or name not in state or own[name].shape != state[name].shape]
    if wrong:
        differing = differences(config.model, content.get("model_config", {}))
        raise UserError(
            f"{path}: a checkpoint of another model, {len(wrong)} tensors differ (such as {min(wrong)}); "
            f"configuration / checkpoint: {', '.join(differing) or 'the same keys'}; pass the configuration it was trained with"
        )
    network.load_state_dict(state)


def restore(run: Run, start: Checkpoint) -> str | None:
    """Optimizer, schedule, scaler, average and counters as they were. Returns the tracker's run id where the run goes on in its workspace."""
    state = start.load("optimizer")
    missing = {"step", "optimizer", "lr_scheduler", "config", "options"} - state.keys()
    if missing:
        raise UserError(f"{start.path('optimizer')}: lacks {', '.join(sorted(missing))}; expected an _optimizer.pt file of this project")
    try:
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["lr_scheduler"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{start.path('optimizer')}: does not fit the optimizer or lr_scheduler of the configuration ({error})") from None
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    if run.ema is not None:
        if start.path("ema").exists():
            run.ema.load_state_dict(start.load("ema"))
        else:
            log.warning("%s: no averaged weights; the average starts from the weights", start.path("ema").name)
    if run.accelerator.is_main_process:  # they are sums over all processes
        run.means.load_state_dict(state["means"])
        run.metrics.load_state_dict(state["metrics"])
    run.skipped, run.skipped_in_row = state["skipped"], state["skipped_in_row"]
    run.first_step = state["step"]
    for name, ours, theirs in (("configuration", run.config.dump(), state["config"]), ("option", run.options.dump(), state["options"])):
        if changed := [line for line in differences(ours, theirs) if not line.startswith(("workspace:", "checkpoint:", "num_iterations:"))]:
            log.warning("continuing with another %s than before: %s", name, _shorten(changed))
    return state["run_id"] if start.folder.resolve() == run.checkpoints.folder.resolve() else None


def _open_workspace(run: Run, start: Checkpoint | None, run_id: str | None) -> None:
    """Claim the workspace: effective configuration, trackers, and later checkpoints set aside. On the main process only."""
    workspace = run.options.workspace
    try:
        for suffix in {".json", run.options.config_suffix}:
            write_atomic(workspace / f"config{suffix}", format_config(run.config.dump(), suffix))
        if start is not None and (aside := run.checkpoints.rewind(start.step)) is not None:
            log.warning("continuing from step %d: the later checkpoints are now in %s", start.step, aside)
    except OSError as error:
        raise UserError(f"{workspace}: cannot be written ({error.strerror}); pass a --workspace that can") from None
    run.tracker = build_trackers(
        run.config.trackers, workspace, enable_mlflow=run.options.enable_mlflow, run_id=run_id, step=run.first_step
    )
    run.tracker.start(params={**run.config.dump(), "options": run.options.dump(), "versions": versions()})
    run.tracker.artifact(workspace / f"config{run.options.config_suffix}")


# ---- step -------------------------------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Steps from `run.first_step` to the end: measure, update, report, save, in that order."""
    options, config = run.options, run.config
    total = options.num_iterations
    if run.first_step >= total:
        log.info("nothing to do: step %d of %d is reached; raise --num_iterations to go on", run.first_step, total)
    elif len(run.held) and config.validation.at_start and run.first_step == 0:
        report_validation(run, 0)
    bar = tqdm(
        total=total, initial=run.first_step, disable=not run.accelerator.is_main_process, unit="step", mininterval=1.0, dynamic_ncols=True
    )
    pace = Pace(run)
    for step in range(run.first_step, total):
        update(run, step)
        done = step + 1
        bar.update()
        pace.show(bar)
        if due(done, options.log_every, total):
            report_training(run, done, pace)
        if due(done, config.validation.every, total) and len(run.held):
            report_validation(run, done)
        if due(done, options.vis_every, total if options.vis_every else 0):
            report_previews(run, done)
        if due(done, options.save_every, total):
            save(run, done)
    bar.close()
    finish(run)


def due(done: int, every: int, total: int) -> bool:
    """Every `every` steps and at the last one; never for 0."""
    return every > 0 and (done % every == 0 or done == total)


def update(run: Run, step: int) -> None:
    """One optimizer update from all micro-batches of `step`. A gradient that is not finite moves nothing, on any process."""
    torch.manual_seed(torch_seed(run.options.seed, step, run.accelerator.process_index))
    run.model.train()
    keys: list[str] = []
    for batch in run.loader.batches(step):
        with run.accelerator.accumulate(run.model):
            batch = batch.to(run.accelerator.device)
            output = run.model(batch.left, batch.right, iters=run.config.training.iterations)
            loss, parts = run.objective(output, batch)
            run.accelerator.backward(loss)
        run.means.add(parts, run.objective.counts(batch))
        run.metrics.add(output.disparity, batch.disparity, batch.valid, batch.datasets)
        keys += [f"{name}/{key}" for name, key in zip(batch.datasets, batch.keys, strict=True)]
    norm = run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.training.clip_norm)
    apply_update(run, norm, step, keys)


def apply_update(run: Run, norm: Tensor, step: int, keys: list[str]) -> None:
    """Optimizer, schedule and average move together or not at all. The norm was taken after the reduction, so all processes decide alike."""
    finite = math.isfinite(norm)
    if finite or run.accelerator.scaler is not None:  # the scaler skips by itself, and must see the step to lower its scale
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if finite and not run.accelerator.optimizer_step_was_skipped:
        run.means.add({"grad_norm": norm})
        run.schedule.step()
        if run.ema is not None:
            run.ema.update(run.network)
        run.skipped_in_row = 0
        return
    run.skipped += 1
    run.skipped_in_row += 1
    log.warning("step %d skipped: the gradient norm is %s; samples of this process: %s", step, float(norm), _shorten(keys))
    if run.skipped_in_row >= run.config.training.max_skipped:
        raise UserError(
            f"{run.skipped_in_row} updates in a row had a gradient that is not finite (training.max_skipped), the last at step {step} with the "
            f"samples {_shorten(keys)}; look at these samples, lower the learning rate, or use --precision bf16 in place of fp16"
        )


# ---- report -----------------------------------------------------------------------------------------------------------------------------


class Pace:
    """Samples per second and time waited for data since the last report; what the progress bar shows in between."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shown = 0.0
        self.reset()

    def reset(self) -> None:
        self._start, self._steps = time.perf_counter(), 0
        self._run.loader.wait_s = 0.0

    def show(self, bar: tqdm) -> None:
        """Once a second at most: reading the loss waits for the device."""
        self._steps += 1
        now = time.perf_counter()
        if bar.disable or now - self._shown < 1.0:
            return
        self._shown = now
        losses, errors = self._run.means.peek(), self._run.metrics.reduce()
        rate = self._steps * self._run.samples_per_step / max(now - self._start, 1e-9)
        lr = self._run.schedule.get_last_lr()[0]
        bar.set_postfix_str(f"loss {losses.get('loss', math.nan):.3f}, EPE {errors['epe']:.2f} px, lr {lr:.1e}, {rate:.1f} samples/s")

    def measure(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        return {
            "samples_per_s": self._steps * self._run.samples_per_step / elapsed,
            "data_wait_s": self._run.loader.wait_s / max(self._steps, 1),
            "data_wait_share": self._run.loader.wait_s / elapsed,
        }


def report_training(run: Run, done: int, pace: Pace) -> None:
    """Means since the last report, over all processes."""
    speed = pace.measure()
    losses = run.means.reduce(_sum_over_processes(run))
    errors = run.metrics.reduce(_sum_over_processes(run))
    run.metrics.reset()
    rates = {f"lr/{i}" if i else "lr": rate for i, rate in enumerate(run.schedule.get_last_lr())}
    record = {f"train/{name}": value for name, value in {**losses, **errors}.items()}
    record |= (
        rates | speed | {"memory_gib": peak_memory_gib(run.accelerator.device), "skipped": run.skipped, "broken": len(run.loader.broken)}
    )
    run.tracker.log(record, done)
    log.info(
        "step %d/%d: loss %.4f, EPE %.3f px, bad-1 %.1f %%, lr %.2e, %.2f samples/s, waited %.1f %% for data, %.1f GiB%s",
        done, run.options.num_iterations, losses.get("loss", math.nan), errors["epe"], errors["bad_1"], rates["lr"],
        speed["samples_per_s"], 100 * speed["data_wait_share"], record["memory_gib"], f", {run.skipped} skipped" if run.skipped else "",
    )  # fmt: skip
    pace.reset()


def report_validation(run: Run, done: int) -> None:
    """Metrics on the held samples. All processes measure the weights and statistics of the first."""
    start = time.perf_counter()
    if run.accelerator.num_processes > 1:
        for buffer in run.measured.buffers():
            buffer.copy_(broadcast(buffer))
    with run.accelerator.autocast():
        found = validate(
            run.measured,
            run.held,
            iterations=run.config.validation.iterations,
            rank=run.accelerator.process_index,
            ranks=run.accelerator.num_processes,
            reduce=_sum_over_processes(run),
        )
    record = {f"val/{name}": value for name, value in found.items()} | {"val/seconds": time.perf_counter() - start}
    if done == 0 and run.accelerator.is_main_process:
        record["val/epe_constant"] = constant_epe(run.held)
        log.info("validation on %d samples; the best constant disparity has EPE %.3f px", len(run.held), record["val/epe_constant"])
    run.tracker.log(record, done)
    log.info("validation at step %d: EPE %.3f px, bad-1 %.1f %%, D1 %.1f %%", done, found["epe"], found["bad_1"], found["d1_all"])


def report_previews(run: Run, done: int) -> None:
    """Pictures of the first held samples (of fixed training samples where none is held), drawn by the first process."""
    run.accelerator.wait_for_everyone()
    if not run.accelerator.is_main_process:
        return
    batch = preview_batch(run)
    with run.accelerator.autocast(), torch.no_grad():
        pictures = [run.measured.infer(l, r, iters=run.config.validation.iterations) for l, r in zip(batch.left, batch.right, strict=True)]
    folder = run.options.workspace / "vis" / f"step_{done:08d}"
    for path in save_previews(folder, batch, pictures, PREVIEWS):
        run.tracker.image(path, path.stem, done)


# ---- save -------------------------------------------------------------------------------------------------------------------------------


def save(run: Run, done: int) -> None:
    """The three files of a step, by the first process. What must be summed over processes is summed before."""
    means, metrics = run.means.state_dict(_sum_over_processes(run)), run.metrics.state_dict(_sum_over_processes(run))
    if not run.accelerator.is_main_process:
        return
    about = {"step": done, "model_config": run.config.model, "config": run.config.dump()}
    scaler = run.accelerator.scaler
    parts: dict[str, dict[str, Any]] = {
        "model": about | {"model": run.network.state_dict()},
        "optimizer": about
        | {
            "optimizer": run.optimizer.state_dict(),
            "lr_scheduler": run.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "means": means,
            "metrics": metrics,
            "skipped": run.skipped,
            "skipped_in_row": run.skipped_in_row,
            "options": run.options.dump(),
            "versions": versions(),
            "run_id": run.tracker.run_id,
        },
    }
    if run.ema is not None:
        parts["ema"] = about | run.ema.state_dict()
    checkpoint = run.checkpoints.save(done, parts)
    if run.config.trackers.log_checkpoints == "all":
        for part in parts:
            run.tracker.artifact(checkpoint.path(part), "checkpoint")
    run.tracker.tag("checkpoint", str(checkpoint.path("model").resolve()))


def finish(run: Run) -> None:
    """Hand the averaged weights to the trackers and close everything."""
    run.loader.close()
    if run.accelerator.is_main_process and not run.options.dry_run:
        last = run.checkpoints.latest()
        if last is not None and run.config.trackers.log_checkpoints == "final":
            run.tracker.artifact(last.path("ema" if last.path("ema").exists() else "model"), "checkpoint")
        run.tracker.close()
    run.accelerator.end_training()


# ---- small things -----------------------------------------------------------------------------------------------------------------------


def _sum_over_processes(run: Run):
    return lambda tensor: run.accelerator.reduce(tensor, "sum")


def peak_memory_gib(device: torch.device) -> float:
    """Peak of this process since its start: allocated on the GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _shorten(items: list[Any], most: int = 6) -> str:
    names = [str(item) for item in items]
    return ", ".join(names if len(names) <= most else [*names[: most - 1], f"... and {len(names) - most + 1} more"])
