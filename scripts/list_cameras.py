"""The cameras of this machine: `python scripts/list_cameras.py`. How they are read is in `train.cameras`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click


@click.command(context_settings={"show_default": True})
@click.option("--numbers", type=click.IntRange(min=1), default=10, help="How many are looked for, from 0 on.")
def main(numbers: int) -> None:
    """List the cameras that can be opened: number for --left and --right of scripts/live_view.py, size, frames per second, backend."""
    from train.cameras import find_cameras

    cameras = find_cameras(numbers)
    if not cameras:
        click.echo(f"no camera can be opened (numbers 0 to {numbers - 1} were tried){_advice()}")
        return
    click.echo(f"{'number':<8}{'size':<14}{'fps':<8}backend")
    for camera in cameras:
        size = "no picture" if camera.size is None else f"{camera.size[0]} x {camera.size[1]}"
        click.echo(f"{camera.number:<8}{size:<14}{f'{camera.fps:g}' if camera.fps else 'unknown':<8}{camera.backend}")


def _advice() -> str:
    """Cameras that are there and closed to this user are a common reason on Linux."""
    present = sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))
    return f"; {', '.join(present)} are there: may this user read them (group video), and does another program use them?" if present else ""


if __name__ == "__main__":
    main()
