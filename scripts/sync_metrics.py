"""Send MLflow what it missed of a run: `python scripts/sync_metrics.py WORKSPACE`. What is compared and sent is in `train`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("workspace", type=click.Path(path_type=Path))
@click.option("--status", type=click.Choice(["FINISHED", "FAILED", "KILLED"]), help="What the run came to; by default what the store says.")
def main(workspace: Path, status: str | None) -> None:
    """Upload the numbers of WORKSPACE/metrics.jsonl that the MLflow store lacks, because it was dead, slow or full.

    The store is that of MLFLOW_TRACKING_URI, by default the one in the working folder; the run is that of WORKSPACE/mlflow_run.json, and a
    new one, with the parameters of WORKSPACE/config.json, where the store does not know it. Called twice, the second call sends nothing.
    """
    try:
        _sync(workspace, status)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _sync(workspace: Path, status: str | None) -> None:
    from train.metrics_sync import connect, find_missing, send  # MLflow takes seconds, and --help needs none of it

    client = connect()
    numbers = find_missing(workspace, client)
    click.echo(f"run {numbers.run_id}{' (new)' if numbers.created else ''}: has {numbers.known} numbers, lacks {len(numbers.missing)}")
    with click.progressbar(length=len(numbers.missing), label="sending") as bar:
        for count in send(numbers, client, status):
            bar.update(count)


if __name__ == "__main__":
    main()
