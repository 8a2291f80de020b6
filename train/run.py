"""What a run is made of, and how it is put together: from a configuration to everything that the first step needs, new or continued.

The steps themselves are in `loop`.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TextIO

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, nn

from core import MODELS
from core.weight_files import locate, read_file
from train.anomaly import AnomalyDetector
from train.checkpoint import SUFFIXES, Checkpoint, Checkpoints
from train.compilation import compile_network
from train.config import RunConfig
from train.costs import Costs
from train.dataloader import Mixture, TrainLoader, default_workers
from train.ema import Ema, LastStatistics
from train.evaluation import ValidationSet
from train.losses import Objective
from train.marks import Best, mark, unmark
from train.memory import check_run
from train.metrics import Means, MetricSums
from train.preflight import claim_workspace, report_preflight
from train.run_file import differences, flatten
from train.saving import Saver
from train.sharding import check_launch, load_optimizer, prepare, shard, take, whole, without_plugin
from train.sources import check_caches, check_poses, open_sources
from train.start import Start, check_crops, load_weights, report_start, start_from_checkpoint, start_from_file, start_new
from train.trackers import PATIENCE_S, Tracker, build_trackers
from train.truth import Truth
from train.utils import HOW, build_lr_scheduler, build_optimizer
from utils.errors import UserError, shorten
from utils.files import format_config, remove_leftovers, write_atomic
from utils.versions import versions

log = logging.getLogger("stereofoundry")

TRAIN_METRICS = ("epe", "bad_1", "d1_all")
RESUMED = {
    "step", "optimizer", "lr_scheduler", "scaler", "means", "metrics", "skipped", "skipped_in_row", "broken", "unmeasured", "config",
    "options", "processes", "versions", "run_id",
}  # fmt: skip
NOT_COMPARED = {
    "workspace",
    "checkpoint",
    "init_only",
    "num_iterations",
    "dry_run",
    "detect_anomaly",
    "collective_timeout_s",
    "memory_gb",
    "checkpoints.keep_last",
    "checkpoints.keep_every",
}  # fmt: skip - what changes no number
SPLIT = {"batch_size_forward", "gradient_accumulation_steps"}  # how the samples of a step are shared out
STOP_PATIENCE_S = 15.0  # for the trackers of a run that was told to end


@dataclass(frozen=True)
class Options:
    """Where a run is stored and how big it is: the options of `scripts/train.py` that are not the configuration."""

    workspace: Path
    checkpoint: str | None = None
    init_only: bool = False
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
    detect_anomaly: bool = False
    collective_timeout_s: int = 1800
    memory_gb: float | None = None
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
    statistics: LastStatistics
    mix: Mixture
    held: ValidationSet
    loader: TrainLoader
    checkpoints: Checkpoints
    saver: Saver
    tracker: Tracker
    first_step: int
    means: Means
    metrics: MetricSums
    truth: Truth
    sources: dict[str, str]  # part of the network -> where its first weights came from
    carried: dict[str, Tensor]  # entries of published weights that the network has no place for; every checkpoint holds them
    versions: dict[str, str]
    best: Best | None  # None: nothing is measured, or no metric is named
    costs: Costs = field(default_factory=Costs)
    anomaly: AnomalyDetector | None = None
    claim: TextIO | None = None  # of the workspace, see `preflight.claim_workspace`; on the first process
    skipped: int = 0
    skipped_in_row: int = 0
    stopped: bool = False  # by a signal
    unmeasured: bool = False  # the run that it goes on from was stopped before it could validate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End workers, writer and trackers however the run ends; what it recorded says how."""
        self.loader.close()
        interrupted = kind is KeyboardInterrupt
        if not interrupted:
            self.saver.wait()
        status = "KILLED" if interrupted or self.stopped else "FINISHED" if kind is None else "FAILED"
        self.tracker.close(status, STOP_PATIENCE_S if status == "KILLED" else PATIENCE_S)
        if self.claim is not None:
            self.claim.close()
        if kind is None:
            self.accelerator.end_training()

    @property
    def measured(self) -> nn.Module:
        """The network that validation, previews and people use: the averaged one where there is an average. `sharding.whole` of it runs."""
        return self.network if self.ema is None else self.ema.module

    def sum_over_processes(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor.to(self.accelerator.device), "sum")

    @property
    def samples_per_step(self) -> int:
        return self.options.batch_size_forward * self.options.gradient_accumulation_steps * self.accelerator.num_processes


def build_run(config: RunConfig, options: Options) -> Run:
    """Everything up to the first step. Raises UserError for what the user can mend; nothing was overwritten then."""
    check_launch(config, options.precision)
    accelerator = _build_accelerator(options)
    checkpoints = Checkpoints(options.workspace / "checkpoint")
    start = on_first_process(accelerator, lambda: _find_start(checkpoints, options))
    mix, held = build_data(config, options)
    begun = _begin(config, options, accelerator, start)
    network, config = begun.network, begun.config
    shard(network, accelerator)
    optimizer = build_optimizer(network, config.optimizer)
    schedule = build_lr_scheduler(optimizer, config.lr_scheduler, options.num_iterations)
    ema = Ema(network, config.ema.decay) if options.enable_ema else None
    model, optimizer = prepare(accelerator, network, optimizer)  # not the schedule: a prepared one steps once per process
    forms = len(config.data.image_sizes) * (1 if config.training.coarse_scale is None else 2)
    compile_network(network, config.compile, forms)  # what accelerate has put into it as well
    objective = Objective(config.loss)
    state = None if start is None else start.load("optimizer")
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
        statistics=LastStatistics(network),
        mix=mix,
        held=held,
        loader=_build_loader(config, options, mix, accelerator, first_step=0 if state is None else state.get("step", 0)),
        checkpoints=checkpoints,
        saver=Saver(checkpoints, config.checkpoints, lambda checkpoint: _record_checkpoint(run, checkpoint)),
        tracker=Tracker(),
        first_step=0,
        means=Means([*objective.keys, "grad_norm"], accelerator.device),
        metrics=MetricSums([source.name for source in mix.sources], TRAIN_METRICS, device=accelerator.device),
        truth=Truth(source.name for source in mix.sources if source.weight and objective.needs_disparity(source.label_type)),
        sources=begun.sources,
        carried=begun.carried,
        versions=versions(),
        best=Best.of(config) if len(held) else None,
    )
    if start is not None and state is not None:
        restore(run, start, state)
    if options.detect_anomaly:
        run.anomaly = AnomalyDetector(network)
    report_preflight(run)
    if not options.dry_run:
        check_run(run)
    if accelerator.is_main_process and not options.dry_run:
        _open_workspace(run, start, state)
    accelerator.wait_for_everyone()
    return run


def _begin(config: RunConfig, options: Options, accelerator: Accelerator, start: Checkpoint | None) -> Start:
    """The network on its device, with the weights it starts from."""
    torch.manual_seed(options.seed)
    if options.init_only:
        begun = start_from_file(config, locate(options.checkpoint or ""))
    else:
        begun = start_new(config) if start is None else start_from_checkpoint(config, start)
    check_crops(begun.config, options.batch_size_forward)
    if accelerator.is_main_process:
        report_start(begun)
    network = begun.network
    network.gradient_checkpointing = options.enable_gradient_checkpointing
    if accelerator.num_processes > 1 and begun.config.model.get("sync_batchnorm"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return begun._replace(network=network.to(accelerator.device))


def _build_loader(config: RunConfig, options: Options, mix: Mixture, accelerator: Accelerator, first_step: int) -> TrainLoader:
    workers = config.data.workers
    return TrainLoader(
        mix,
        config.data,
        first_step=first_step,
        steps=options.num_iterations,
        batch=options.batch_size_forward,
        accumulate=options.gradient_accumulation_steps,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        workers=default_workers(accelerator.num_processes) if workers is None else workers,
    )


def _build_accelerator(options: Options) -> Accelerator:
    on_cpu = not torch.cuda.is_available()
    if options.precision == "fp16" and on_cpu:
        raise UserError("--precision fp16 / --enable_mixed_precision true: needs a GPU, and none is visible; on a CPU use --precision bf16")
    with without_plugin():
        return Accelerator(
            mixed_precision={"fp32": "no"}.get(options.precision, options.precision),
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=options.gradient_accumulation_steps, sync_with_dataloader=False, adjust_scheduler=False
            ),
            cpu=on_cpu,
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy of the gradients
                InitProcessGroupKwargs(timeout=timedelta(seconds=options.collective_timeout_s)),
            ],
            step_scheduler_with_optimizer=False,
        )


def _find_start(checkpoints: Checkpoints, options: Options) -> Checkpoint | None:
    """Where the run begins; UserError rather than writing over a run that is already there."""
    start = None
    if options.init_only:
        if options.checkpoint is None or options.checkpoint == "latest" or options.checkpoint.isdigit():
            raise UserError(
                f"--init_only: --checkpoint is {options.checkpoint or 'not given'}; expected the path of a weight file to start from: "
                "published (.pth), of this project (<step>.pt, <step>_ema.pt), or .safetensors; or a network that comes with the project"
            )
    elif options.checkpoint is not None:
        start = checkpoints.find(options.checkpoint)
        if start is None:
            log.info("no checkpoint in %s yet: starting from step 0", checkpoints.folder)
        if start is None or start.inside(checkpoints):
            return start
    if checkpoints.steps() and not options.dry_run:
        raise UserError(
            f"{options.workspace}: already holds a run, saved at steps {shorten(checkpoints.steps())}; continue it with "
            "--checkpoint latest, or pass another --workspace"
        )
    return start


def on_first_process(accelerator: Accelerator, function: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What `function` finds on the first process, on all: looking at the same files a moment later could find something else.

    Raises its UserError on all.
    """
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = function()
        except UserError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def check_sizes(config: RunConfig) -> None:
    """Raises UserError for a crop that the network cannot take."""
    multiple = MODELS[config.model["type"]].multiple
    for where, sizes in (("data.image_sizes", config.data.image_sizes), ("validation.size", [config.validation.size])):
        for i, size in enumerate(sizes):
            if size is not None and any(side % multiple for side in size):
                nearest = [max(multiple, round(side / multiple) * multiple) for side in size]
                at = f"{where}[{i}]" if len(sizes) > 1 or where.endswith("s") else where
                raise UserError(f"{at}: found {list(size)}; width and height must be multiples of {multiple}, for example {nearest}")


def build_data(config: RunConfig, options: Options) -> tuple[Mixture, ValidationSet]:
    """The mixture to train on, and what is measured on."""
    check_sizes(config)
    data = config.data
    kept, held = open_sources(config)
    check_caches(kept)
    check_poses(kept, Objective(config.loss))
    mix = Mixture(tuple(kept), tuple(data.image_sizes), options.seed, data.max_disparity, options.overfit)
    return mix, ValidationSet(held, config.validation, data.max_disparity)


def restore(run: Run, start: Checkpoint, state: dict[str, Any]) -> None:
    """Optimizer, schedule, scaler, average and counters as they were. Raises UserError for a file that does not fit."""
    if missing := RESUMED - state.keys():
        raise UserError(f"{start.path('optimizer')}: lacks {', '.join(sorted(missing))}; expected an _optimizer.pt file of this project")
    ours, theirs = run.config.optimizer["type"], state["config"]["optimizer"]["type"]
    if ours != theirs:  # torch would load most of them, and step with what the other kept or fail at the first step
        raise UserError(
            f"{start.path('optimizer')}: is of {theirs}, and optimizer.type is {ours}; go on with {theirs}, or start anew in another "
            f"--workspace with --checkpoint {start.path('model')} --init_only"
        )
    try:
        for group, built in zip(state["optimizer"]["param_groups"], run.optimizer.param_groups, strict=False):
            group |= {key: built[key] for key in HOW & built.keys()}  # how a step is computed is this program's business, not the file's
        load_optimizer(run.optimizer, state["optimizer"])
        run.schedule.load_state_dict(state["lr_scheduler"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{start.path('optimizer')}: does not fit the optimizer or lr_scheduler of the configuration ({error})") from None
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    if run.ema is not None:
        if start.path("ema").exists():
            average = start.load("ema")
            module = whole(run.ema.module)
            load_weights(module, average, start.path("ema"), run.config)
            take(run.ema.module, module)
            run.ema.num_updates = average.get("num_updates", 0)
        elif state["options"]["enable_ema"]:
            raise UserError(f"{start.path('ema')}: no such file, and the run that wrote the checkpoint had one; restore it")
        else:
            log.warning("%s: no averaged weights; the average starts from the weights", start.path("ema").name)
    rank, ranks = run.accelerator.process_index, run.accelerator.num_processes
    run.means.load_state_dict(state["means"], rank, ranks)
    run.metrics.load_state_dict(state["metrics"], rank, ranks)
    run.skipped, run.skipped_in_row, run.unmeasured = state["skipped"], state["skipped_in_row"], state["unmeasured"]
    if run.accelerator.is_main_process:  # each process counts its own, the checkpoint has the first one's
        run.loader.broken |= state["broken"]
    run.first_step = state["step"]
    _report_differences(run, state)
    best = start.best_so_far()
    counts = best is not None and run.best is not None and run.best.resume(best, run.config)
    if best is not None and counts and not start.inside(run.checkpoints) and run.accelerator.is_main_process:
        run.saver.hold(read_file(best))  # goes with the first step that is saved there


def _report_differences(run: Run, state: dict[str, Any]) -> None:
    """What is not as it was in the run that this one goes on from, as log lines of the first process."""
    if not run.accelerator.is_main_process:
        return
    options = state["options"]
    before = options["batch_size_forward"] * options["gradient_accumulation_steps"] * state["processes"]
    if before != run.samples_per_step:
        log.warning("a step now has %d samples, and had %d: the samples are others than without the break", run.samples_per_step, before)
    elif state["processes"] != run.accelerator.num_processes:
        log.info(
            "the %d samples of each step are the same, on %d processes, not %d", before, run.accelerator.num_processes, state["processes"]
        )
    if changed := differences(run.versions, state["versions"]):
        listed = ", ".join(f"{name} {state['versions'].get(name)} -> {run.versions.get(name)}" for name in sorted(changed))
        log.info("versions that differ from the checkpoint's: %s", listed)
    for name, ours, theirs in (("configuration", run.config.dump(), state["config"]), ("options", run.options.dump(), state["options"])):
        if changed := differences(flatten(ours), flatten(theirs)) - NOT_COMPARED - (SPLIT if before == run.samples_per_step else set()):
            log.warning("continuing with %s that differ from the checkpoint's in %s", name, shorten(sorted(changed)))
    if run.config.optimizer != state["config"]["optimizer"]:
        log.warning("the optimizer goes on with the rates and settings of the checkpoint, not with those of the configuration")


def _open_workspace(run: Run, start: Checkpoint | None, state: dict[str, Any] | None) -> None:
    """Claim the workspace: effective configuration, trackers, and later checkpoints set aside. On the main process only."""
    workspace = run.options.workspace
    same_run = start is not None and start.inside(run.checkpoints)
    try:
        run.claim = claim_workspace(workspace)
        for folder in (workspace, run.checkpoints.folder):
            remove_leftovers(folder)
        for suffix in {".json", run.options.config_suffix}:
            write_atomic(workspace / f"config{suffix}", format_config(run.config.dump(), suffix))
        step = start.step if same_run else 0
        if (aside := run.checkpoints.rewind(step)) is not None:
            log.warning("continuing from step %d: the files of later checkpoints are now in %s", step, aside)
        if not step:
            unmark(run.checkpoints.folder)
    except OSError as error:
        raise UserError(f"{workspace}: cannot be written ({error.strerror}); pass a --workspace that can") from None
    run_id = state["run_id"] if state is not None and same_run else None
    run.tracker = build_trackers(
        run.config.trackers, workspace, enable_mlflow=run.options.enable_mlflow, run_id=run_id, step=run.first_step
    )
    run.tracker.start(params={**run.config.dump(), "options": run.options.dump(), "versions": run.versions})
    run.tracker.artifact(workspace / f"config{run.options.config_suffix}")
    if same_run and start is not None:
        run.saver.newest = start
        mark(start)


def _record_checkpoint(run: Run, checkpoint: Checkpoint) -> None:
    """Bring best.* and last.* up to date, and tell the trackers of files that are on the disk."""
    mark(checkpoint)
    if run.config.trackers.log_checkpoints == "all":
        for path in filter(Path.exists, map(checkpoint.path, SUFFIXES)):
            run.tracker.artifact(path, "checkpoint")
    run.tracker.tag("checkpoint", str(checkpoint.path("model").resolve()))
