"""Make a benchmark's archive: `python scripts/submit.py BENCHMARK --checkpoint P --data_root D --output FILE.zip`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from scripts.options import NETWORKS_OWN, refuse_idle
from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("benchmark", type=click.Choice(["kitti2012", "kitti2015", "middeval3", "eth3d"]))
@click.option("--checkpoint", required=True, help="Weights of any kind, or sgbm.")
@click.option("--data_root", type=click.Path(path_type=Path), required=True, help="The benchmark's folder with its test images.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The archive, a .zip that does not exist yet.")
@click.option("--method", default="StereoFoundry", help="Middlebury's files are called after it.")
@click.option("--size", type=click.Choice(["F", "H", "Q"]), default="H", help="Of Middlebury's images.")
@click.option("--iterations", type=click.IntRange(min=1), help="Refinement iterations.  [default: the network's own]")
@click.option("--cascades", type=click.IntRange(1, 6), default=1, help="Coarse-to-fine levels.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option("--partial", is_flag=True, help="A trial with fewer images than the benchmark asks for.")
def main(**options) -> None:
    """Predict the benchmark's test images and write them as its server wants them, checked as it would check them."""
    try:
        click.echo(_submit(**options))
    except (UserError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _submit(
    benchmark: str, checkpoint: str, data_root: Path, output: Path, method: str, size: str, iterations: int | None, cascades: int,
    precision: str, device: str | None, partial: bool,
) -> str:  # fmt: skip
    from tqdm import tqdm  # these take seconds, and --help needs none of them

    from train.inference import SGBM
    from train.predictors import build_predictor, choose_device, unlabelled
    from train.submission import list_pairs, write_submission

    if checkpoint == SGBM:
        refuse_idle(NETWORKS_OWN, "with sgbm")
    pairs = list_pairs(benchmark, data_root, size=size, partial=partial)
    predict = build_predictor(checkpoint, choose_device(device), iterations=iterations, cascades=cascades, precision=precision)
    with tqdm(total=len(pairs), unit="pair", disable=not sys.stderr.isatty()) as bar:
        write_submission(benchmark, pairs, lambda left, right: predict(unlabelled(left, right)).disparity, output, method, bar.update)
    return f"{output}: {len(pairs)} pairs of {benchmark}, {output.stat().st_size / 2**20:.1f} MiB, read back and checked"


if __name__ == "__main__":
    main()
