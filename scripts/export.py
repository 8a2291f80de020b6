"""Weights for others: `python scripts/export.py CHECKPOINT OUTPUT`. What is written is in `core.hub` and `core.onnx_export`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from scripts.options import refuse_idle
from utils.errors import UserError


@click.command(context_settings={"show_default": True})
@click.argument("checkpoint")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--metrics", type=click.Path(path_type=Path), help="A result of scripts/evaluate.py, for the model card.")
@click.option("--fp16", is_flag=True, help="Half the size; the network computes in float32 all the same.")
@click.option("--onnx", "onnx_size", nargs=2, type=click.IntRange(min=1), metavar="W H", help="Also model.onnx, for images of this size.")
@click.option("--iterations", type=click.IntRange(min=1), help="Refinement iterations of the graph.  [default: the network's own]")
@click.option("--push_to_hub", metavar="OWNER/NAME", help="Upload the folder; the hub's own login is used.")
def main(**options) -> None:
    """Write weights (the averaged ones of a run) as safetensors, their configuration and a model card into the folder OUTPUT.

    CHECKPOINT: a weight file, the workspace of a run, or an MLflow run id. OUTPUT must not exist yet.
    """
    try:
        click.echo(_export(**options))
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _export(
    checkpoint: str, output: Path, metrics: Path | None, fp16: bool, onnx_size: tuple[int, int] | None, iterations: int | None,
    push_to_hub: str | None,
) -> str:  # fmt: skip
    from core.hub import StereoModel, upload  # torch takes seconds, and --help needs none of it
    from core.inference import scales_for
    from core.onnx_export import export_onnx
    from core.weight_export import check_half
    from core.weight_files import read_file
    from train.load import find_weights
    from train.model_card import find_origin, model_card, read_metrics_file
    from utils.files import publish_folder

    if onnx_size is None:
        refuse_idle(("iterations",), "without --onnx")
    if output.exists():
        raise UserError(f"{output}: exists already and is not overwritten; pass another folder")
    numbers = None if metrics is None else read_metrics_file(metrics)
    with find_weights(checkpoint) as path:
        model, content = StereoModel.from_file(path), read_file(path)
    if fp16:
        check_half(model.network.state_dict(), checkpoint)
    lines, graph = [], output / "model.onnx"
    try:
        with publish_folder(output) as folder:
            if onnx_size is not None:
                exported = export_onnx(model.network, folder / graph.name, onnx_size, iterations)
                nodes = sum(exported.operators.values())
                lines.append(f"{graph}: opset {exported.opset}, {nodes} nodes, within {exported.deviation_px:.1e} px of the network")
                if (scales := tuple(scales_for(model.network, None))) != (1.0,):
                    lines.append(
                        f"{graph}: one pass; `infer` makes one at each of {', '.join(map(str, scales))} times the size of the pair, "
                        "which is more accurate, and pads right and below"
                    )
            card = model_card(model.config, content.get("config"), numbers, find_origin(model.config, bool(model.carried)))
            (folder / "README.md").write_text(card)  # before the mixin writes one that says less
            (model.half() if fp16 else model).save_pretrained(folder)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); pass a folder that can") from None
    if push_to_hub is not None:
        lines.append(f"pushed to {upload(output, push_to_hub)}")
    size = sum(file.stat().st_size for file in output.iterdir()) / 2**20
    return "\n".join([f"{output}: {', '.join(sorted(file.name for file in output.iterdir()))}, {size:.1f} MiB", *lines])


if __name__ == "__main__":
    main()
