"""Train a stereo network: `accelerate launch scripts/train.py --config stereo_v1.json`. What a run is lives in `train`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path, and there `train` is this very file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from scripts.options import POSITIVE
from utils.errors import UserError

YES_NO = {"type": bool, "show_default": True}
COUNT = {"type": click.IntRange(min=1), "show_default": True}
EVERY = {"type": click.IntRange(min=0), "show_default": True}


@click.command(context_settings={"show_default": True})
@click.option(
    "--config", default="configs/train/stereo_v1.json", help="The run: a JSON or TOML file, or the bare name of one in configs/train."
)
@click.option(
    "--workspace", type=click.Path(path_type=Path), default=Path("workspace/stereo_train"), help="Folder of everything the run writes."
)
@click.option(
    "--checkpoint", help="Continue from 'latest' (from scratch when there is none), a step number, or the path of a <step>.pt file."
)
@click.option("--init_only", is_flag=True, help="Take only the weights of --checkpoint, any file of weights, for a new run from step 0.")
@click.option("--batch_size_forward", default=4, **COUNT, help="Samples per process and forward pass.")
@click.option("--gradient_accumulation_steps", default=1, **COUNT, help="Forward passes per update.")
@click.option("--enable_gradient_checkpointing", default=True, **YES_NO, help="Less memory for more time; changes no number.")
@click.option("--enable_mixed_precision", default=False, **YES_NO, help="FP16 with loss scaling; the same as --precision fp16.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of the network; fp32 unless mixed precision is enabled.")
@click.option("--enable_ema", default=True, **YES_NO, help="Keep averaged weights, and validate with them.")
@click.option("--num_iterations", default=100_000, **COUNT, help="Optimizer updates of the whole run.")
@click.option("--save_every", default=5_000, **EVERY, help="Updates between checkpoints; one more at the end. 0: none.")
@click.option("--log_every", default=500, **EVERY, help="Updates between log entries. 0: none.")
@click.option("--vis_every", default=0, **EVERY, help="Updates between previews, in <workspace>/vis. 0: none.")
@click.option("--enable_mlflow", default=True, **YES_NO, help="Record in MLflow; `mlflow ui` shows it.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of the weights, the samples and the dropout.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: --set data.datasets[0].weight=2. Repeatable.")
@click.option("--overfit", type=click.IntRange(min=0), default=0, metavar="N", help="Train on the same N augmented samples for ever.")
@click.option("--collective_timeout_s", default=1800, **COUNT, help="Seconds that processes wait for one another before the run ends.")
@click.option("--dry_run", is_flag=True, help="Print the plan and the memory it takes, take one step, write nothing.")
@click.option("--memory_gb", type=POSITIVE, help="GiB that a process may take.  [default: those of its GPU]")
@click.option("--detect_anomaly", is_flag=True, help="Name the first module whose output is not finite. Slow.")
def main(config: str, overrides: tuple[str, ...], enable_mixed_precision: bool, precision: str | None, **options) -> None:
    """Train a stereo network as a configuration says, and keep checkpoints, previews and metrics in a workspace."""
    try:
        if enable_mixed_precision and precision not in (None, "fp16"):
            raise UserError(f"--enable_mixed_precision true means --precision fp16, but --precision is {precision}; pass one of them")
        _train(config, overrides, {**options, "precision": precision or ("fp16" if enable_mixed_precision else "fp32")})
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _train(name: str, overrides: tuple[str, ...], options: dict) -> None:
    from train.console import configure_logging
    from train.failures import explained
    from train.loop import train
    from train.plan import dry_run
    from train.preflight import check_config_file
    from train.run import Options, build_run
    from train.run_file import find_config, load_config, naming  # torch and all that follows it take seconds, and --help needs none of it
    from train.signals import StopSignals

    configure_logging()
    path = find_config(name)
    config, settings = load_config(path, overrides), Options(**options, config_suffix=path.suffix)
    if not settings.dry_run:
        check_config_file(path, settings.workspace)
    with StopSignals() as stop, naming(path), explained(), build_run(config, settings) as run:
        if run.options.dry_run:
            for part in dry_run(run):
                click.echo(part)
        else:
            train(run, stop)


if __name__ == "__main__":
    main()
