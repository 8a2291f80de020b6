"""How a run went, as one picture or page: `python scripts/report.py workspace/quickstart`. What is drawn is in `train.run_report`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command()
@click.argument("run")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A .png, or a .html that needs no other file.  [default: report.png in the workspace]"
)
def main(run: str, output: Path | None) -> None:
    """Draw losses, errors per data set, learning rates, throughput and the newest previews of RUN, a workspace or an MLflow run id."""
    try:
        from train.run_report import write_run_report  # takes seconds, and --help needs none of it

        click.echo(f"report: {write_run_report(run, output)}")
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
