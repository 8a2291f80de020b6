"""Disparity, depth and points of stereo pairs: `python scripts/infer.py --left L --right R`. What is done to a
pair is in `train.inference`, what is written of it in `train.inference_output`.
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
@click.option("--checkpoint", default="light", help="A weight file of any kind, the workspace of a run, an MLflow run id, or sgbm.")
@click.option("--left", help="A picture, a folder, a pattern in quotes ('scenes/*/im0.png'), or a video.")
@click.option("--right", help="The same of the right eye; paired with --left by names.")
@click.option("--side_by_side", help="In place of both: pictures or a video with the left view in the left half.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("workspace/infer"),
    help="Folder of everything that is written.",
)
@click.option("--calibration", help="For depth: calib.txt (Middlebury, KITTI), OpenCV's YAML, XML or NPZ, K.txt; or a pattern of these.")
@click.option("--calibration_size", **SIZE, help="What the calibration belongs to, if its file does not say.  [default: the images' size]")
@click.option("--baseline_unit", type=click.Choice(["m", "cm", "mm"]), help="Of the baseline in that file.  [default: the format's own]")
@click.option("--cameras", type=click.Choice(["grey", "colour"]), help="Of KITTI's calibration.  [default: by the images' folder]")
@click.option("--rectify/--no_rectify", default=None, help="The images are raw / rectified, where OpenCV's file allows both.")
@click.option("--formats", default="png,npy,colour,ply", help="Of png, pfm, npy (for every map), colour, ply.")
@click.option("--png_scale", type=POSITIVE, default=256.0, help="Stored units per pixel in disparity.png; 256 is KITTI's, up to 255.99 px.")
@click.option("--max_depth", type=POSITIVE, help="Metres beyond which points are left out of the cloud.")
@click.option("--iterations", type=click.IntRange(min=1), help="Refinement iterations.  [default: the network's own]")
@click.option("--cascades", type=click.IntRange(1, 6), default=1, help="Passes, each at twice the size of the one before.")
@click.option("--hierarchical", is_flag=True, help="A pass at half size first, as FoundationStereo's authors do it for large images.")
@click.option("--scale", type=SCALE, default=1.0, help="Of the images before the network sees them.")
@click.option("--tile", **SIZE, help="Cut large images into tiles of this size: memory is that of one of them.")
@click.option("--tile_overlap", type=click.IntRange(min=2), default=64, help="Pixels that tiles share beside the range of disparity.")
@click.option("--max_disparity", type=POSITIVE, help="Largest one, in pixels of the images; tiles overlap by it.  [default: the network's]")
@click.option("--left_right_check", is_flag=True, help="Look from the right eye too; what does not agree is written as occluded.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--compile", "compiled", is_flag=True, help="By torch.compile: minutes at first, then faster; for many pairs of one size.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the network: --set model.max_disp=256.")
def main(**options) -> None:
    """Disparity of stereo pairs and, with a calibration, depth and coloured points, as files that inference.json explains."""
    try:
        _infer(**options)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _infer(
    checkpoint: str, left: str | None, right: str | None, side_by_side: str | None, output: Path, calibration: str | None,
    calibration_size: tuple[int, int] | None, baseline_unit, cameras, rectify: bool | None, formats: str, png_scale: float,
    max_depth: float | None, compiled: bool, device: str | None, overrides: tuple[str, ...], left_right_check: bool, **settings,
) -> None:  # fmt: skip
    from tqdm import tqdm  # these take seconds, and --help needs none of them

    from train.inference import SGBM, Settings, build_estimator
    from train.inference_output import Output, check_formats
    from train.inference_pairs import open_pairs
    from train.inference_run import infer_pairs
    from train.predictors import choose_device
    from train.suites import model_changes
    from utils.calibration_formats import Choices

    files = check_formats(formats)
    if checkpoint == SGBM:
        refuse_idle(NETWORKS_OWN, "with sgbm")
    elif settings["tile"] is None:
        refuse_idle(("tile_overlap", "max_disparity"), "without --tile")
    if calibration is None:
        refuse_idle(CALIBRATIONS_OWN, "without --calibration")
        if "ply" in files:
            refuse_idle(("formats",), "without --calibration", "ply")
    pairs = open_pairs(left, right, side_by_side=side_by_side, calibration=calibration)
    asked = Settings(**settings, left_right=left_right_check)
    estimator = build_estimator(checkpoint, choose_device(device), asked, compiled=compiled, changes=model_changes(overrides))
    writer = Output(output, files, png_scale, max_depth, pairs.fps)
    choices = Choices(unit=baseline_unit, size=calibration_size, cameras=cameras, rectify=rectify)
    with tqdm(total=len(pairs) or None, unit="pair", disable=not sys.stderr.isatty()) as bar:
        summary = infer_pairs(pairs, estimator, writer, choices=choices, about={"checkpoint": checkpoint}, progress=bar.update)
    for line in dict.fromkeys(summary.calibrations):
        click.echo(f"calibration: {line}")
    for line in summary.lines():
        click.echo(f"warning: {line}", err=True)
    click.echo(f"{len(summary.pairs)} pairs, {summary.seconds / len(summary.pairs):.3f} s each, written to {output}")


if __name__ == "__main__":
    main()
