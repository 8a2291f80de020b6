"""Measure what networks cost, side by side: `python scripts/benchmark.py unet raft_stereo --size 256 128`. How is in `train.benchmark`."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("configs", nargs=-1)
@click.option("--size", nargs=2, type=click.IntRange(min=16), default=(736, 320), help="Width and height.")
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Samples of a train step; inference is of one pair.")
@click.option("--iterations", type=click.IntRange(min=1), help="Of training and inference.  [default: each network's own]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--gradient_checkpointing", is_flag=True, help="Compute activations again rather than keep them.")
@click.option("--freeze_backbone", is_flag=True, help="The monocular branch is frozen, as with pretrained weights.")
@click.option("--wins", is_flag=True, help="Also the first configuration with each of its fast parts computed in the plain way.")
@click.option("--scaling", is_flag=True, help="Also how a step of the first grows with width, max_disp, iterations and batch.")
@click.option("--processes", type=click.IntRange(min=2), help="Also what so many processes make of a step of the first, and of one alone.")
@click.option("--targets", is_flag=True, help="Only this: the stated targets, and what is reached here. Sizes are those of the targets.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds that count.")
@click.option("--warmup", type=click.IntRange(min=0), default=1, help="Rounds before them.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of every configuration. Repeatable.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("workspace/benchmark.json"), help="Where the numbers go.")
def main(**options) -> None:
    """Time, memory and operations of a train step (forward, loss, backward) and of inference, for the networks of CONFIGS in turns.

    A configuration may carry changes of its own: "stereo_v1 model.correlation_implementation=reg"; "stereo_v1 plain" and "stereo_v1
    plain=lookup,gru" compute parts of FoundationStereo as the published network does. Medians, and half the distance of the quartiles;
    ratios are to the first. Memory is what is needed beside the weights: of the process, and of tensors alone.
    """
    try:
        _measure(**options)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _measure(
    configs: tuple[str, ...],
    overrides: tuple[str, ...],
    output: Path,
    device: str | None,
    *,
    wins: bool,
    scaling: bool,
    processes: int | None,
    targets: bool,
    **conditions,
) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported; its lines of a missing GPU look like errors
    from tqdm import tqdm  # --help needs neither this nor torch

    from core.plain import TWINS
    from train.benchmark import Conditions, Subject, benchmark, table
    from train.benchmark_processes import processes as measure_processes
    from train.benchmark_processes import processes_line
    from train.benchmark_scaling import plot, scaling_table
    from train.benchmark_scaling import scaling as measure_scaling
    from train.benchmark_targets import table_head, table_line
    from train.benchmark_targets import targets as measure_targets
    from train.predictors import choose_device
    from train.run_file import find_config, load_config
    from utils.files import check_json_target

    check_json_target(output)
    configs = configs or (("stereo_v1",) if targets else ())
    if len(set(configs)) < len(configs) or not all(config.split() for config in configs) or not configs:
        raise UserError("no configuration, two that are the same, or one that is empty; give each once")
    asked = Conditions(device=choose_device(device), **conditions)
    if wins:
        configs = (*configs, *(f"{configs[0]} plain={part}" for part in TWINS), f"{configs[0]} plain")
    parsed = []
    for config in configs:
        name, *words = config.split()
        plain = [part for word in words if _is_plain(word) for part in (word[6:].split(",") if word[6:] else TWINS)]
        changes = [word for word in words if not _is_plain(word)]
        parsed.append((config, load_config(find_config(_file(name)), [*overrides, *changes]), plain))

    def bar(total: int, unit: str) -> tqdm:
        return tqdm(total=total, unit=unit, dynamic_ncols=True, disable=None)

    if targets:
        click.echo(table_head())
        rows = []
        for row in measure_targets(parsed[0][1], asked):
            click.echo(table_line(row))
            rows.append(row._asdict())
        _write(output, asked, {"targets": rows})
        return
    subjects = [Subject(config, loaded, asked, plain) for config, loaded, plain in parsed]
    with bar(asked.warmup + asked.repeats, "round") as shown:
        found = benchmark(subjects, shown.update)
    click.echo(table(found))
    del subjects
    grown, together = {}, None
    if processes is not None:
        together = measure_processes(parsed[0][1], asked, processes, parsed[0][2])
        click.echo(f"\n{processes_line(together)}")
    if scaling:
        with bar(4, "axis") as shown:
            grown = measure_scaling(parsed[0][1], asked, shown.update)
        click.echo(f"\n{scaling_table(grown)}")
    _write(output, asked, {"networks": found, "scaling": grown, "processes": together})
    plot(output.with_suffix(".png"), found, grown)


def _is_plain(word: str) -> bool:
    return word == "plain" or word.startswith("plain=")


def _write(output: Path, asked, content: dict) -> None:
    from utils.files import write_atomic
    from utils.versions import versions

    about = {key: str(value) if key == "device" else value for key, value in asdict(asked).items()}
    try:
        write_atomic(output, json.dumps({"conditions": about, **content, "versions": versions()}, indent=2))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    click.echo(f"written to {output}")


def _file(name: str) -> str:
    """Names of shipped configurations without their ending too."""
    return name if Path(name).suffix else f"{name}.json"


if __name__ == "__main__":
    main()
