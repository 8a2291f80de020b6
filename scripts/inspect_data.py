"""Look at data before training on it: `python scripts/inspect_data.py CONFIG`. What is looked for is in `train.inspection`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("config")
@click.option("--samples", type=click.IntRange(min=1), default=32, help="Pairs of each data set that are read and checked.")
@click.option("--pictures", type=click.IntRange(min=0), default=4, help="Augmented pairs of each data set on the sheet.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the report.  [default: workspace/inspect/<name of CONFIG>]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the augmentations on the sheet.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: --set data.datasets[0].path=...  Repeatable.")
def main(config: str, samples: int, pictures: int, output: Path | None, seed: int, overrides: tuple[str, ...]) -> None:
    """Count, check and draw the data sets of a run file, and say what should be mended.

    Among the checks: the right image, warped by the ground truth, must be the left one; wrong scales, signs, swapped eyes and rows that do
    not meet are named. Exit code 0: nothing to mend; 1: something is; 2: the run file or a folder is wrong.
    """
    try:
        text, flagged = _inspect(config, samples, pictures, output, seed, overrides)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(text)
    sys.exit(1 if flagged else 0)


def _inspect(name: str, samples: int, pictures: int, output: Path | None, seed: int, overrides: tuple[str, ...]) -> tuple[str, bool]:
    from tqdm import tqdm  # these take seconds, and --help needs none of them

    from train.inspection import augmented, find_duplicates, find_leaks, inspect_source
    from train.inspection_report import all_flags, as_text, write_report
    from train.run_file import find_config, load_config, naming
    from train.sources import build_sources

    path = find_config(name)
    config = load_config(path, overrides)
    share = config.validation.fraction  # for entries that name a part; of the others everything is looked at, and always the files
    with naming(path):
        trained, _ = build_sources(config.data.datasets, config.data, "data.datasets", share, part="all", cached=False)
        measured, _ = build_sources(config.validation.datasets, config.data, "validation.datasets", share, part="all", cached=False)
    sources = [*trained, *measured]
    with tqdm(total=sum(min(samples, len(source.indices)) for source in sources), unit="pair", disable=not sys.stderr.isatty()) as bar:
        limit = config.data.max_disparity or 192.0
        found = [inspect_source(source, samples=samples, max_disparity=limit, progress=bar.update) for source in sources]
    across = find_duplicates(sources) + find_leaks(trained, measured)
    folder = output or Path("workspace") / "inspect" / path.stem
    sheets = {source.name: augmented(source, pictures, config.data.image_sizes[0], seed) for source in trained}
    try:
        page = write_report(folder, str(path), found, across, sheets)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); pass an --output that can") from None
    return f"{as_text(found, across)}\nreport: {page}", bool(all_flags(found, across))


if __name__ == "__main__":
    main()
