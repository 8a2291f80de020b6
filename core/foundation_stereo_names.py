"""The published names of FoundationStereo, and what its files hold that ours has no place for.

How a table is applied, both ways, is in `convert.py`; backbone-only weight files are in `pretrained.py`.
"""

from collections.abc import Iterator
from typing import Any

from core.backbone import VITS
from core.names import Names, Published, Shapes, residual_block
from utils.errors import UserError

DINO = "feature.dino.depth_anything"
SCRATCH = f"{DINO}.depth_head.scratch"
CLASS_TOKEN = f"{DINO}.pretrained.cls_token"


def _conv_norm(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    yield f"{ours}.conv", f"{theirs}.conv"
    yield f"{ours}.norm", f"{theirs}.bn"


def _basic_block(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    for n in (1, 2):
        yield f"{ours}.conv{n}", f"{theirs}.conv{n}"
        yield f"{ours}.norm{n}", f"{theirs}.bn{n}"


def _axial_planar(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    yield f"{ours}.planar", f"{theirs}.conv1.0"
    yield f"{ours}.norm1", f"{theirs}.conv1.1"
    yield f"{ours}.axial", f"{theirs}.conv2.0"
    yield f"{ours}.norm2", f"{theirs}.conv2.1"


def _gate(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    yield from _conv_norm(f"{ours}.reduce", f"{theirs}.feat_att.0")
    yield f"{ours}.expand", f"{theirs}.feat_att.1"


def _backbone() -> Iterator[tuple[str, Names]]:
    yield "backbone.monocular.vit", f"{DINO}.pretrained"
    decoder = "backbone.monocular.decoder"
    yield f"{decoder}.project", f"{DINO}.depth_head.projects"
    yield f"{decoder}.rescale", f"{DINO}.depth_head.resize_layers"
    for level in range(4):
        yield f"{decoder}.reduce.{level}", f"{SCRATCH}.layer{level + 1}_rn"
        for ours, theirs in (("skip", "resConfUnit1"), ("unit", "resConfUnit2"), ("out", "out_conv")):
            yield f"{decoder}.fuse.{level}.{ours}", f"{SCRATCH}.refinenet{level + 1}.{theirs}"
    yield f"{decoder}.head", f"{SCRATCH}.output_conv1"
    for n in range(4):
        yield f"backbone.cnn.stem_{n}", f"feature.stem.{n}"
        yield f"backbone.cnn.stages_{n}", f"feature.stages.{n}"
    for ours, theirs in (("up16", "deconv32_16"), ("up8", "deconv16_8"), ("up4", "deconv8_4")):
        yield f"backbone.{ours}.up", f"feature.{theirs}.conv1"
        yield f"backbone.{ours}.block", f"feature.{theirs}.conv2"
    yield "backbone.fuse", "feature.conv4"


def _context() -> Iterator[tuple[str, Names]]:
    yield "context.conv", "cnet.conv1"
    yield "context.norm", "cnet.norm1"
    stages = [f"context.stages.{n}" for n in range(3)] + [f"context.down.{n}" for n in range(2)]
    for n, stage in enumerate(stages, start=1):
        for block in (0, 1):
            yield from residual_block(f"{stage}.{block}", f"cnet.layer{n}.{block}")
    yield from _conv_norm("context.fuse", "cnet.conv2")
    for index, head in enumerate(("hidden", "context")):
        for level, name in enumerate(("04", "08")):
            yield f"context.{head}.{level}", f"cnet.outputs{name}.{index}"
        yield f"context.{head}.2.0", f"cnet.outputs16.{index}"
    yield "context.channel_attention.reduce", "cam.fc.0"
    yield "context.channel_attention.expand", "cam.fc.2"
    yield "context.spatial_attention.conv", "sam.samconv"


def _volume() -> Iterator[tuple[str, Names]]:
    yield "cost_volume.project", "proj_cmb"
    yield "cost_volume.stem.0", "corr_stem.0"
    yield from _conv_norm("cost_volume.stem.1", "corr_stem.1")
    yield from _basic_block("cost_volume.stem.2", "corr_stem.2")
    yield from _basic_block("cost_volume.stem.3", "corr_stem.3")
    yield from _gate("cost_volume.gate", "corr_feature_att")
    for n, scale in ((1, 8), (2, 16), (3, 32)):
        yield from _conv_norm(f"hourglass.down{scale}.0", f"cost_agg.conv{n}.0")
        yield from _axial_planar(f"hourglass.down{scale}.1", f"cost_agg.conv{n}.1")
        yield from _gate(f"hourglass.gate{scale}", f"cost_agg.feature_att_{scale}")
        yield from _conv_norm(f"hourglass.up{scale // 2}", f"cost_agg.conv{n}_up")
    for n, scale in ((0, 16), (1, 8)):
        yield from _conv_norm(f"hourglass.merge{scale}.0", f"cost_agg.agg_{n}.0")
        yield from _axial_planar(f"hourglass.merge{scale}.1", f"cost_agg.agg_{n}.1")
        yield from _axial_planar(f"hourglass.merge{scale}.2", f"cost_agg.agg_{n}.2")
        yield from _gate(f"hourglass.gate_merged{scale}", f"cost_agg.feature_att_up_{scale}")
    for n in (0, 1):
        yield from _axial_planar(f"hourglass.out.{n}", f"cost_agg.conv_out.{n}")
    yield "hourglass.transformer.patch", "cost_agg.conv_patch.0"
    yield "hourglass.transformer.norm", "cost_agg.conv_patch.1"
    for n in range(4):
        ours, theirs = f"hourglass.transformer.layers.{n}", f"cost_agg.atts.4.sa.{n}"
        yield f"{ours}.qkv", tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        yield f"{ours}.out", f"{theirs}.self_attn.out_proj"
        for mine, other in (("expand", "linear1"), ("contract", "linear2"), ("norm1", "norm1"), ("norm2", "norm2")):
            yield f"{ours}.{mine}", f"{theirs}.{other}"
    yield from _conv_norm("classifier.conv", "classifier.0")
    yield from _basic_block("classifier.block", "classifier.1")
    yield "classifier.score", "classifier.2"


def _refinement() -> Iterator[tuple[str, Names]]:
    for ours, theirs in (("lookup1", "c1"), ("lookup2", "c2"), ("disparity1", "d1"), ("disparity2", "d2"), ("join", "")):
        yield f"update.motion.{ours}", f"update_block.encoder.conv{theirs}"
    for level, name in enumerate(("04", "08", "16")):
        ours, theirs = f"update.grus.{level}", f"update_block.gru{name}"
        yield f"{ours}.prepare_inputs", f"{theirs}.conv0.0"
        yield f"{ours}.prepare_gates", f"{theirs}.conv1.0"
        for size in ("small", "large"):
            yield f"{ours}.{size}.gates", (f"{theirs}.{size}_gru.convz", f"{theirs}.{size}_gru.convr")
            yield f"{ours}.{size}.candidate", f"{theirs}.{size}_gru.convq"
    for n in (0, 4):
        yield f"update.disparity_head.{n}", f"update_block.disp_head.conv.{n}"
    for n in (2, 3):
        ours, theirs = f"update.disparity_head.{n}", f"update_block.disp_head.conv.{n}"
        for mine, other in (("depthwise", "dwconv"), ("expand", "pwconv1"), ("contract", "pwconv2"), ("scale", "gamma")):
            yield f"{ours}.{mine}", f"{theirs}.{other}"
    yield "update.mask_head", "update_block.mask"
    yield "upsample.image", "stem_2"
    yield "upsample.up", "spx_2_gru.conv1"
    yield "upsample.join", "spx_2_gru.conv2"
    yield "upsample.weights", "spx_gru.0"


TABLE: dict[str, Names] = dict([*_backbone(), *_context(), *_volume(), *_refinement()])

# What the published network holds and never reads, or cancels at once (a bias before an instance norm or a softmax): not in ours.
_NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var")


def unread_shapes(vit_size: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every such entry."""
    vit = VITS[vit_size]
    finest, fusion = 96 + vit.fusion // 2, vit.fusion
    shapes: dict[str, tuple[int, ...]] = {"stem_4.0.conv.weight": (48, 32, 3, 3), "stem_4.1.weight": (48, 48, 3, 3)}
    for n in range(3):
        shapes |= {f"context_zqr_convs.{n}.weight": (384, 128, 3, 3), f"context_zqr_convs.{n}.bias": (384,)}
    shapes |= {"cnet.down.0.weight": (128, 128, 4, 4), "cnet.down.0.bias": (128,)}
    for norm, width in (("cnet.down.1", 128), ("cnet.norm", 256)):
        shapes |= {f"{norm}.{entry}": (width,) for entry in _NORM_ENTRIES} | {f"{norm}.num_batches_tracked": ()}
    shapes |= {f"feature.conv4.{block}.conv{n}.bias": (finest,) for block in (1, 2) for n in (1, 2)}
    shapes |= {"classifier.2.bias": (1,), f"{DINO}.pretrained.mask_token": (1, vit.dim)}
    for n in (1, 2):
        unit = f"{SCRATCH}.refinenet4.resConfUnit1.conv{n}"
        shapes |= {f"{unit}.weight": (fusion, fusion, 3, 3), f"{unit}.bias": (fusion,)}
    head = f"{SCRATCH}.output_conv2"
    shapes |= {
        f"{head}.0.weight": (32, fusion // 2, 3, 3),
        f"{head}.0.bias": (32,),
        f"{head}.2.weight": (1, 32, 1, 1),
        f"{head}.2.bias": (1,),
    }
    return shapes


def published_config(vit_size: str) -> dict[str, Any]:
    """The "model" section of the published network (23-51-11 is vitl, 11-33-40 is vits)."""
    return {"type": "foundation_stereo", "vit_size": vit_size, "max_disp": 416}


def _config(shapes: Shapes) -> dict[str, Any]:
    """Told by the width of the class token."""
    dim = (shapes.get(CLASS_TOKEN) or [None])[-1]
    for size, settings in VITS.items():
        if settings.dim == dim:
            return published_config(size)
    what = "missing" if dim is None else f"{dim} wide"
    raise UserError(f"no FoundationStereo weights: '{CLASS_TOKEN}' is {what}; expected a DINOv2 ViT-S, B or L")


FOUNDATION_STEREO = Published(
    kind="foundation_stereo",
    known_by="cost_agg.conv_patch.0.weight",
    config=_config,
    as_published=lambda config: published_config(config["vit_size"]),
    table=lambda config: TABLE,
    unread=lambda config: unread_shapes(config["vit_size"]),
    second_name=(".norm3.", ".downsample.1."),
)
