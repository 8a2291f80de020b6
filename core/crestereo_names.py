"""The names of torchvision's CREStereo, and what its files hold that ours has no place for.

How a table is applied, both ways, is in `convert.py`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from core.crestereo_attention import position_encoding
from core.names import Config, Names, Published

WIDTHS = (64, 96, 128)
ATTENTION = {
    "query": "query_proj",
    "key": "key_proj",
    "value": "value_proj",
    "merge": "merge",
    "expand": "ffn.0",
    "contract": "ffn.2",
    "message_norm": "attention_norm",
    "output_norm": "ffn_norm",
}


def _table() -> Iterator[tuple[str, Names]]:
    yield "trunk.conv", "feature_encoder.convnormrelu.0"
    for n in range(3):
        for block in (0, 1):
            ours, theirs = f"trunk.stages.{n}.{block}", f"feature_encoder.layer{n + 1}.{block}"
            yield f"{ours}.conv1", f"{theirs}.convnormrelu1.0"
            yield f"{ours}.conv2", f"{theirs}.convnormrelu2.0"
            yield f"{ours}.shortcut.0", f"{theirs}.downsample.0"
    yield "features", "feature_encoder.conv"
    for n, label in enumerate(("1 / 16", "1 / 8")):
        yield f"offset.{n}", f"offset_convs.{label}.0"
    cross = "correlation_layers.1 / 16.attention_offset_correlation_layer.attention_module"
    for ours, theirs in (("self_attention", "self_attn_block"), ("cross_attention", cross)):
        for part, name in ATTENTION.items():
            yield f"{ours}.{part}", f"{theirs}.layers.0.{name}"
    encoder = "update_block.motion_encoder"
    for ours, theirs in (("lookup1", "corr1"), ("lookup2", "corr2"), ("flow1", "flow1"), ("flow2", "flow2"), ("join", "")):
        yield f"update.motion.{ours}", f"{encoder}.conv{theirs}.0"
    for ours, n in (("row", 1), ("column", 2)):
        gru = f"update_block.recurrent_block.convgru{n}"
        yield f"update.{ours}.gates", (f"{gru}.convz", f"{gru}.convr")
        yield f"update.{ours}.candidate", f"{gru}.convq"
    yield "update.flow_head.0", "update_block.flow_head.conv1"
    yield "update.flow_head.2", "update_block.flow_head.conv2"
    yield "update.mask_head.0", "mask_predictor.mask_head.0.0"
    yield "update.mask_head.2", "mask_predictor.mask_head.1"


TABLE = dict(_table())


def _unread(_config: Config) -> dict[str, tuple[int, ...]]:
    """Biases before instance norms, which cancel them."""
    shapes: dict[str, tuple[int, ...]] = {"feature_encoder.convnormrelu.0.bias": (WIDTHS[0],)}
    for n, width in enumerate(WIDTHS, start=1):
        for block in (0, 1):
            names = ("convnormrelu1.0", "convnormrelu2.0", "downsample.0")
            shapes |= {f"feature_encoder.layer{n}.{block}.{name}.bias": (width,) for name in names}
    return shapes


def _position_table() -> Tensor:
    return position_encoding(256, 256, 256, like=torch.zeros(()))[None]


CRESTEREO = Published(
    kind="crestereo",
    known_by="feature_encoder.convnormrelu.0.weight",
    config=lambda _shapes: {"type": "crestereo"},
    as_published=lambda config: {"type": "crestereo", "train_iters": config["train_iters"], "valid_iters": config["valid_iters"]},
    table=lambda _config: TABLE,
    unread=_unread,
    second_name=("update_block.flow_head.", "flow_head."),
    formulas={"positional_encodings.pe": _position_table},
)
