"""Disparity of two cameras as they see it: `python scripts/live_view.py --left 0 --right 2 --checkpoint P`. Reading cameras is in
`train.cameras`, what is shown in `train.live`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from scripts.options import CALIBRATIONS_OWN, NETWORKS_OWN, POSITIVE, SCALE, refuse_idle
from utils.errors import UserError

SIZE = {"nargs": 2, "type": click.IntRange(min=1), "metavar": "WIDTH HEIGHT"}


@click.command(context_settings={"show_default": True})
@click.option("--left", help="Number of a camera (see scripts/list_cameras.py), a video, or an address such as rtsp://...")
@click.option("--right", help="The same of the right eye.")
@click.option("--side_by_side", help="In place of both: one that gives the left view in the left half.")
@click.option("--swap", is_flag=True, help="Exchange the eyes.")
@click.option("--camera_size", **SIZE, help="Of the pictures that a camera is asked for.  [default: its own]")
@click.option("--patience", type=POSITIVE, default=30.0, help="Seconds that a lost camera is waited for.")
@click.option("--checkpoint", help="A weight file of any kind, the workspace of a run, or sgbm.  [default: sgbm, OpenCV's]")
@click.option("--run_id", help="In place of --checkpoint: a run in MLflow.")
@click.option("--watch_checkpoint", is_flag=True, help="Use newer weights as the run saves them.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="For depth: OpenCV's file, which also rectifies, or as of scripts/infer.py."
)
@click.option(
    "--calibration_size", **SIZE, help="What the calibration belongs to, if its file does not say.  [default: the pictures' size]"
)
@click.option("--baseline_unit", type=click.Choice(["m", "cm", "mm"]), help="Of the baseline in that file.  [default: the format's own]")
@click.option("--cameras", type=click.Choice(["grey", "colour"]), help="Of KITTI's calibration.")
@click.option("--no_rectify", is_flag=True, help="The pictures are rectified already.")
@click.option("--iterations", type=click.IntRange(min=1), help="Refinement iterations; fewer are faster.  [default: the network's own]")
@click.option("--scale", type=SCALE, default=1.0, help="Of the pictures before the network sees them; 0.5 is faster.")
@click.option("--max_disparity", type=POSITIVE, help="Pixels that are shown as nearest.  [default: what is seen]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--compile", "compiled", is_flag=True, help="By torch.compile: minutes at first, then faster.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Write what would be shown as a video (.mp4, .avi, .mkv) or PNGs (a folder)."
)
@click.option("--window/--no_window", default=None, help="[default: a window, unless --record is given]")
@click.option("--frames", type=click.IntRange(min=1), help="End after so many pairs.")
@click.option("--snapshots", type=click.Path(path_type=Path), default=Path("workspace/snapshots"), help="Folder of what the key s keeps.")
@click.option("--width", type=click.IntRange(min=64), default=1280, help="Of the picture with all panels.")
def main(**options) -> None:
    """Live disparity, and with a calibration depth at the mouse, of two cameras, two videos or one side-by-side stream.

    Keys: q or Esc ends, s keeps a snapshot (pair, disparity, depth, points), space pauses.
    """
    try:
        _live_view(**options)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _live_view(
    left: str | None, right: str | None, side_by_side: str | None, swap: bool, camera_size: tuple[int, int] | None, patience: float,
    checkpoint: str | None, run_id: str | None, watch_checkpoint: bool, calibration: Path | None, calibration_size: tuple[int, int] | None,
    baseline_unit, cameras, no_rectify: bool, compiled: bool, device: str | None, record: Path | None, window: bool | None,
    frames: int | None, snapshots: Path, width: int, **settings,
) -> None:  # fmt: skip
    window = record is None if window is None else window
    if not window and record is None:
        raise UserError("--no_window: nothing would be seen of it; add --record FILE")
    if checkpoint is not None and run_id is not None:
        raise UserError("--run_id: stands in place of --checkpoint; leave one of them out")
    from contextlib import ExitStack  # what follows takes seconds, and --help needs none of it
    from dataclasses import asdict

    from train.cameras import Capture, open_source
    from train.inference import SGBM, Settings, build_estimator
    from train.live import Looker, Recorder, Screen, Snapshots, view
    from train.live_watch import Watcher, watched_folder
    from train.live_window import Window, check_window
    from train.load import find_weights
    from train.predictors import choose_device
    from utils.calibration_formats import Choices, can_rectify, read_calibration

    def report(line: str) -> None:
        click.echo(line, err=True)

    if window:
        check_window()
    spec, asked, place = run_id or checkpoint or SGBM, Settings(**settings, scales=(1.0,)), choose_device(device)  # one pass: time counts
    if spec == SGBM and watch_checkpoint:
        raise UserError("--watch_checkpoint: nothing trains OpenCV's matching; pass the workspace of a run as --checkpoint, or a --run_id")
    if spec == SGBM:
        refuse_idle(NETWORKS_OWN, "with sgbm")
    if calibration is None:
        refuse_idle(CALIBRATIONS_OWN, "without --calibration")
    if checkpoint is None and run_id is None:
        report("no --checkpoint: shown is OpenCV's StereoSGBM, no network")

    def load(path: object):
        return build_estimator(str(path), place, asked, compiled=compiled)

    with ExitStack() as stack:
        source = open_source(left, right, side_by_side, swap=swap, camera_size=camera_size)
        known = None
        if calibration is not None:
            rectify = not no_rectify if can_rectify(calibration) else None
            choices = Choices(unit=baseline_unit, size=calibration_size, cameras=cameras, rectify=rectify)
            known = read_calibration(calibration, source.size, choices, images=left or "")
            report(f"calibration: {known.description}")
        rectification, geometry = (known.rectification, known.calibration) if known else (None, None)
        folder = watched_folder(spec) if watch_checkpoint else None
        path = Path(SGBM) if spec == SGBM else stack.enter_context(find_weights(spec))
        estimator = load(path)
        watcher = None if folder is None else stack.enter_context(Watcher(folder, path, load, report))
        capture = Capture(source, report, paced=window, patience_s=patience)
        about = {"checkpoint": spec, "settings": asdict(asked), "calibration": asdict(geometry) if geometry else None}
        kept = Snapshots(snapshots, geometry, about)
        recorder = None if record is None else Recorder(record, None if source.live else source.fps or None, source.files)
        summary = view(
            capture,
            Looker(capture.pairs, estimator, path.name, report, rectification=rectification, watcher=watcher),
            Screen(geometry, width=width, max_disparity=asked.max_disparity),
            display=stack.enter_context(Window()) if window else None,
            recorder=recorder,
            snapshots=kept,
            frames=frames,
            report=report,
        )
    click.echo(
        f"{summary.frames} pairs, {summary.frames / summary.seconds:.1f} per second; {summary.reason}"
        + (f"; recorded in {record}" if record else "")
        + (f"; {kept.count} snapshots in {snapshots}" if kept.count else "")
    )


if __name__ == "__main__":
    main()
