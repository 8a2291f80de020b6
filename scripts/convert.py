"""Translate weight files: `python scripts/convert.py INPUT OUTPUT [--to ours|published|nvidia]`. What is read and written is in `core`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from utils.errors import UserError

ATTENTION = {
    "tokens": "over the disparity planes, as in the paper; NVIDIA's public code computes 'heads' since June 2025",
    "heads": "inside each plane, as NVIDIA's public code since June 2025; the paper describes 'tokens'",
}


@click.command(context_settings={"show_default": True})
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option(
    "--to", "form", type=click.Choice(["ours", "published", "nvidia"]), default="ours", help="Names and layout of the written file."
)
def main(source: Path, target: Path, form: str) -> None:
    """Translate weights of FoundationStereo, RAFT-Stereo or torchvision's CREStereo, bit for bit, and say what was found.

    INPUT: the published .pth (FoundationStereo's cfg.yaml is read from beside it), a state dict of it, a checkpoint <step>.pt or
    <step>_ema.pt of scripts/train.py, or any of these as .safetensors. OUTPUT: .pth, .pt or .safetensors; nothing is overwritten. With
    --to published, what the network's own code reads; --to nvidia is the same for FoundationStereo, with its cfg.yaml beside it.
    """
    try:
        click.echo(_convert(source, target, form))
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _convert(source: Path, target: Path, form) -> str:
    from core.weight_export import parts_of, read_checked, write_weights  # torch takes seconds, and --help needs none of it

    if target.exists():  # before a large file is read for nothing
        raise UserError(f"{target}: exists already and is not overwritten; pass another name")
    weights = read_checked(source)
    written = write_weights(target, weights, form)
    counts = parts_of(weights.state)
    if weights.carried:
        carried = f"{len(weights.carried)} entries that the published network holds and never reads, kept for the way back"
    else:
        carried = "none" if form == "ours" else "none in the file; what the published network holds and never reads is zeros"
    attention = weights.config.get("disparity_attention")
    return "\n".join(
        [
            f"read      {source}: {'published names' if weights.published else 'our names'}",
            f"mapped    {sum(counts.values())} entries, every one used once",
            *(f"          {part:<28} {count:>5}" for part, count in counts.items()),
            f"carried   {carried}",
            "model     " + ", ".join(f"{key} {value}" for key, value in weights.config.items() if key != "disparity_attention"),
            *([f"attention disparity_attention {attention}: {ATTENTION[attention]}"] if attention else []),
            f"written   {', '.join(map(str, written))} ({form}, {target.stat().st_size / 2**20:.1f} MiB)",
        ]
    )


if __name__ == "__main__":
    main()
