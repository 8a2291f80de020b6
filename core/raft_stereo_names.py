"""The published names of RAFT-Stereo in all its variants, and what its files hold that ours has no place for.

How a table is applied, both ways, is in `convert.py`.
"""

from collections.abc import Iterator
from typing import Any

from core.names import Config, Names, Published, Shapes, residual_block
from utils.errors import UserError

WIDTHS = (64, 96, 128)  # of the stages in every published variant; all else is 128 wide
WIDTH = 128
LEVELS = ("08", "16", "32")  # historical: names for three halvings before the finest level
ENTRIES = {"batch": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), "instance": ()}


def _table(config: Config) -> dict[str, Names]:
    return dict([*_trunk("context.trunk", "cnet"), *_features(config), *_context(config), *_update(config)])


def _trunk(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    yield f"{ours}.conv", f"{theirs}.conv1"
    yield f"{ours}.norm", f"{theirs}.norm1"
    for n in range(3):
        for block in (0, 1):
            yield from residual_block(f"{ours}.stages.{n}.{block}", f"{theirs}.layer{n + 1}.{block}")


def _features(config: Config) -> Iterator[tuple[str, Names]]:
    if config["shared_backbone"]:
        yield from residual_block("features.0", "conv2.0")
        yield "features.1", "conv2.1"
    else:
        yield from _trunk("features.0", "fnet")
        yield "features.1", "fnet.conv2"


def _context(config: Config) -> Iterator[tuple[str, Names]]:
    for level in range(config["n_gru_layers"]):
        if level:
            for block in (0, 1):
                yield from residual_block(f"context.down.{level - 1}.{block}", f"cnet.layer{level + 3}.{block}")
        for index, ours in enumerate(("hidden", "context")):
            theirs = f"cnet.outputs{LEVELS[level]}.{index}"
            if level < 2:
                yield from residual_block(f"context.{ours}.{level}.0", f"{theirs}.0")
                yield f"context.{ours}.{level}.1", f"{theirs}.1"
            else:
                yield f"context.{ours}.{level}.0", theirs
        yield f"context.gates.{level}", f"context_zqr_convs.{level}"


def _update(config: Config) -> Iterator[tuple[str, Names]]:
    for ours, theirs in (("lookup1", "c1"), ("lookup2", "c2"), ("flow1", "f1"), ("flow2", "f2"), ("join", "")):
        yield f"update.motion.{ours}", f"update_block.encoder.conv{theirs}"
    for level in range(config["n_gru_layers"]):
        gru = f"update_block.gru{LEVELS[level]}"
        yield f"update.grus.{level}.gates", (f"{gru}.convz", f"{gru}.convr")
        yield f"update.grus.{level}.candidate", f"{gru}.convq"
    for n, name in ((0, "conv1"), (2, "conv2")):
        yield f"update.flow_head.{n}", f"update_block.flow_head.{name}"
        yield f"update.mask_head.{n}", f"update_block.mask.{n}"


def _unread(config: Config) -> dict[str, tuple[int, ...]]:
    """Biases before instance norms, which cancel them, and the levels that a variant with fewer GRUs has all the same."""
    norm = config["context_norm"]
    shapes = _cancelled(["conv2.0"], {}) if config["shared_backbone"] else _cancelled(*_trunk_parts("fnet"))
    if norm == "instance":
        blocks, convs = _trunk_parts("cnet")
        for level in range(config["n_gru_layers"]):
            blocks += [f"cnet.layer{level + 3}.{block}" for block in (0, 1) if level]
            blocks += [f"cnet.outputs{LEVELS[level]}.{index}.0" for index in (0, 1) if level < 2]
            convs |= {f"cnet.layer{level + 3}.0.downsample.0": WIDTH} if level else {}
        shapes |= _cancelled(blocks, convs)
    for level in range(config["n_gru_layers"], 3):
        stage, gru = f"cnet.layer{level + 3}", f"update_block.gru{LEVELS[level]}"
        shapes |= _residual(f"{stage}.0", norm, halves=True) | _residual(f"{stage}.1", norm)
        for index in (0, 1):
            output = f"cnet.outputs{LEVELS[level]}.{index}"
            shapes |= _residual(f"{output}.0", norm) | _conv(f"{output}.1") if level < 2 else _conv(output)
        for gate in "zrq":
            shapes |= _conv(f"{gru}.conv{gate}", inputs=2 * WIDTH)
    return shapes


def _trunk_parts(name: str) -> tuple[list[str], dict[str, int]]:
    """Blocks of a trunk, and its other convolutions with a norm after them, with their widths."""
    blocks = [f"{name}.layer{n}.{block}" for n in (1, 2, 3) for block in (0, 1)]
    return blocks, {f"{name}.conv1": WIDTHS[0], **{f"{name}.layer{n}.0.downsample.0": WIDTHS[n - 1] for n in (2, 3)}}


def _cancelled(blocks: list[str], convs: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The biases of residual blocks, and of other convolutions by name."""
    widths = {f"layer{n}": width for n, width in enumerate(WIDTHS, start=1)}
    shapes: dict[str, tuple[int, ...]] = {f"{name}.bias": (width,) for name, width in convs.items()}
    for block in blocks:
        width = widths.get(block.split(".")[1], WIDTH)
        shapes |= {f"{block}.conv{n}.bias": (width,) for n in (1, 2)}
    return shapes


def _conv(name: str, inputs: int = WIDTH, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH, inputs, kernel, kernel), f"{name}.bias": (WIDTH,)}


def _residual(name: str, norm: str, *, halves: bool = False) -> dict[str, tuple[int, ...]]:
    shapes = _conv(f"{name}.conv1") | _conv(f"{name}.conv2")
    norms = ["norm1", "norm2"]
    if halves:
        shapes |= _conv(f"{name}.downsample.0", kernel=1)
        norms += ["norm3", "downsample.1"]
    for entry in ENTRIES[norm]:
        shapes |= {f"{name}.{place}.{entry}": () if entry == "num_batches_tracked" else (WIDTH,) for place in norms}
    return shapes


def _config(shapes: Shapes) -> dict[str, Any]:
    """All that shapes tell. They cannot tell how a lookup's channels are made of levels and offsets, nor in which order the GRUs run."""
    channels, scores = (shapes.get(name, (0, 0)) for name in ("update_block.encoder.convc1.weight", "update_block.mask.2.weight"))
    levels = sum(f"context_zqr_convs.{n}.weight" in shapes for n in range(3))
    downsample = {9 * 4**n: n for n in (1, 2, 3)}.get(scores[0])
    if channels[1] % 9 or not channels[1] or downsample is None or not levels:
        raise UserError(
            f"no known RAFT-Stereo weights: {channels[1]} lookup channels, {scores[0]} upsampling scores, {levels} levels of context; "
            "expected a multiple of 9 (radius 4), 9 * 4^n (n from 1 to 3) and 1 to 3"
        )
    config = {
        "type": "raft_stereo",
        "corr_levels": channels[1] // 9,
        "corr_radius": 4,
        "n_downsample": downsample,
        "n_gru_layers": levels,
        "context_norm": "batch" if "cnet.norm1.running_mean" in shapes else "instance",
        "shared_backbone": "conv2.1.weight" in shapes,
    }
    if config["shared_backbone"] and (downsample, levels) == (3, 2):  # raftstereo-realtime: the command its authors give for it
        config |= {"slow_fast_gru": True, "valid_iters": 7}
    return config


RAFT_STEREO = Published(
    kind="raft_stereo",
    known_by="update_block.encoder.convf1.weight",
    config=_config,
    as_published=lambda config: (
        {key: value for key, value in config.items() if key not in ("hidden_dims", "feature_dims", "feature_dim")}
    ),
    table=_table,
    unread=_unread,
    second_name=(".norm3.", ".downsample.1."),
    prefix="module.",
)
