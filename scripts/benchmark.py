"""Measure what networks cost, side by side: `python scripts/benchmark.py unet raft_stereo --size 256 128`. How is in `train.benchmark`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("configs", nargs=-1, required=True)
@click.option("--size", nargs=2, type=click.IntRange(min=16), default=(736, 320), help="Width and height.")
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Samples of a train step; inference is of one pair.")
@click.option("--iterations", type=click.IntRange(min=1), help="Of training and inference.  [default: each network's own]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--gradient_checkpointing", is_flag=True, help="Compute activations again rather than keep them.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds that count.")
@click.option("--warmup", type=click.IntRange(min=0), default=1, help="Rounds before them.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of every configuration. Repeatable.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("workspace/benchmark.json"), help="Where the numbers go.")
def main(**options) -> None:
    """Time, memory and operations of a train step (forward, loss, backward) and of inference, for the networks of CONFIGS in turns.

    A configuration may carry changes of its own: "stereo_v1 model.correlation_implementation=reg". Medians, and half the distance of the
    quartiles; ratios are to the first. Memory is what is needed beside the weights.
    """
    try:
        _measure(**options)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _measure(configs: tuple[str, ...], overrides: tuple[str, ...], output: Path, device: str | None, **conditions) -> None:
    from tqdm import tqdm  # --help needs neither this nor torch

    from train.benchmark import Conditions, Subject, benchmark, table
    from train.config import find_config, load_config
    from train.predictors import choose_device
    from utils.files import write_atomic
    from utils.versions import versions

    if len(set(configs)) < len(configs) or not all(config.split() for config in configs):
        raise UserError("two configurations are the same, or one is empty; give each once")
    asked = Conditions(device=choose_device(device), **conditions)
    subjects = []
    for config in configs:
        name, *changes = config.split()
        subjects.append(Subject(config, load_config(find_config(_file(name)), [*overrides, *changes]), asked))
    with tqdm(total=asked.warmup + asked.repeats, unit="round", dynamic_ncols=True, disable=None) as bar:
        found = benchmark(subjects, bar.update)
    click.echo(table(found))
    about = {key: str(value) if key == "device" else value for key, value in asdict(asked).items()}
    try:
        write_atomic(output, json.dumps({"conditions": about, "networks": found, "versions": versions()}, indent=2))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    click.echo(f"written to {output}")


def _file(name: str) -> str:
    """Names of shipped configurations without their ending too."""
    return name if Path(name).suffix else f"{name}.json"


if __name__ == "__main__":
    main()
