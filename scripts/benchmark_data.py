"""Measure how fast samples are made on one core: `python scripts/benchmark_data.py [CONFIG] [--reference] [--synthetic]`."""

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("config", required=False)
@click.option(
    "--reference", is_flag=True, help="A 960x540 PNG pair with PFM to a 720x320 crop, against a plain pipeline of the same steps."
)
@click.option("--synthetic", is_flag=True, help="Pairs per second of the renderer at 512x384.")
@click.option("--samples", type=click.IntRange(min=8), default=200, help="Samples to measure, of each.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("workspace/benchmark_data.json"), help="Where the numbers go.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG. Repeatable.")
def main(config: str | None, reference: bool, synthetic: bool, samples: int, output: Path, overrides: tuple[str, ...]) -> None:
    """Samples per second and core, and the share of each stage: of the mixture of CONFIG, of the renderer, against a plain pipeline.

    One process without threads of its own; multiply by the number of workers. Stages: `read` is the files' bytes, `decode` what the data
    set does with them, `augment` geometry and colours, `collate` the batch.
    """
    try:
        _measure(config, reference, synthetic, samples, output, overrides)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _measure(name: str | None, reference: bool, synthetic: bool, samples: int, output: Path, overrides: tuple[str, ...]) -> None:
    if name is None and not reference and not synthetic:
        raise UserError("nothing to measure; pass a CONFIG, --reference or --synthetic")
    from tqdm import tqdm  # --help needs neither this nor torch

    from train.benchmark_data import measure_against_reference, measure_config, measure_synthetic, table, use_one_thread
    from train.run_file import find_config, load_config
    from utils.files import check_json_target, write_atomic
    from utils.versions import versions

    check_json_target(output)
    use_one_thread()
    found = {}
    count = sum((name is not None, reference, synthetic))
    with tqdm(total=count * samples, unit="sample", dynamic_ncols=True, disable=None) as bar:
        if name is not None:
            found[name] = measure_config(load_config(find_config(name), overrides), samples, bar.update)
        if synthetic:
            found["synthetic"] = measure_synthetic(samples, progress=bar.update)
        if reference:
            with tempfile.TemporaryDirectory() as folder:
                found["reference"] = measure_against_reference(Path(folder), samples, bar.update)
    click.echo(table(found))
    try:
        write_atomic(output, json.dumps(found | {"versions": versions()}, indent=2))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    click.echo(f"written to {output}")


if __name__ == "__main__":
    main()
