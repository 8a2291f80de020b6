"""Fill the sample cache of a run ahead of it: `python scripts/build_cache.py CONFIG`. What is stored, and how, is in `train`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError, shorten


@click.command(context_settings={"show_default": True})
@click.argument("config")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that decode; one per core where not given, 0 for none beside this one."
)
@click.option(
    "--verify", is_flag=True, help="Compare what is there already by content: read all entries and source files, mend what differs."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: --set data.cache.root=/fast. Repeatable.")
def main(config: str, workers: int | None, verify: bool, overrides: tuple[str, ...]) -> None:
    """Decode and resize the samples that CONFIG trains on, and store them where its `cache` says.

    CONFIG: a JSON or TOML file with data.cache, or the bare name of one in configs/train. What is stored already is left alone unless its
    source files have changed since, so a build that was stopped goes on, and several may run at a time.
    """
    try:
        _build(config, workers, verify, overrides)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _build(name: str, workers: int | None, verify: bool, overrides: tuple[str, ...]) -> None:
    from tqdm import tqdm

    from train.cache_build import build_cache, cached_sources  # torch takes seconds, and --help needs none of it
    from train.console import configure_logging
    from train.dataloader import default_workers
    from train.run_file import find_config, load_config, naming

    configure_logging()
    path = find_config(name)
    config = load_config(path, overrides)
    with naming(path):
        sources = cached_sources(config)
    workers = default_workers(1) if workers is None else workers
    for source in sources:
        with tqdm(total=len(source.indices), desc=source.name, unit="sample", dynamic_ncols=True, disable=None) as bar:
            built = build_cache(source, workers=workers, verify=verify, progress=bar.update)
        click.echo(
            f"{source.name}: {len(source.indices)} samples, {built.stored} stored now, {built.present} there already, "
            f"{built.bytes / 2**30:.3f} GiB in {source.dataset.folder}"
        )
        if built.broken:
            click.echo(
                f"{source.name}: {len(built.broken)} cannot be read, and a run with cache.require would stop: {shorten(built.broken)}"
            )


if __name__ == "__main__":
    main()
