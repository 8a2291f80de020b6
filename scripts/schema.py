"""Print the JSON schema of a run file, for editors that complete and check it: `python scripts/schema.py > run.schema.json`."""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path, and there `train` is a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click


@click.command()
def main() -> None:
    """Print the JSON schema of the files in configs/train."""
    from train.run_file import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
