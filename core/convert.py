"""The published FoundationStereo state dict and ours, one table, both ways; strict, and bit for bit there and back.

Published names exist in this file only. Backbone-only weight files are in `pretrained.py`.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from core.backbone import VITS
from utils.errors import UserError

State = dict[str, Tensor]
Names = str | tuple[str, ...]  # several: theirs, concatenated along the first axis, are ours

DINO = "feature.dino.depth_anything"
SCRATCH = f"{DINO}.depth_head.scratch"


def _conv_norm(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    yield f"{ours}.conv", f"{theirs}.conv"
    yield f"{ours}.norm", f"{theirs}.bn"


def _basic_block(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    for n in (1, 2):
        yield f"{ours}.conv{n}", f"{theirs}.conv{n}"
        yield f"{ours}.norm{n}", f"{theirs}.bn{n}"


def _residual_block(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    for n in (1, 2):
        yield f"{ours}.conv{n}", f"{theirs}.conv{n}"
        yield f"{ours}.norm{n}", f"{theirs}.norm{n}"
    yield f"{ours}.shortcut.0", f"{theirs}.downsample.0"
    yield f"{ours}.shortcut.1", f"{theirs}.norm3"


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
            yield from _residual_block(f"{stage}.{block}", f"cnet.layer{n}.{block}")
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


# Our module (or tensor) -> theirs; what follows the name is the same on both sides. The longest name that fits counts.
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


@lru_cache(maxsize=3)
def _our_shapes(vit_size: str) -> dict[str, tuple[int, ...]]:
    from core import build_model  # this module is below the registry

    with torch.device("meta"):
        model = build_model(published_config(vit_size), with_pretrained=False)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def their_names(key: str) -> tuple[str, ...]:
    """The published names of one of our entries; more than one where ours is their concatenation along the first axis."""
    module = key
    while module not in TABLE:
        module = module.rpartition(".")[0]
        assert module, f"no published name for '{key}'"
    names = TABLE[module]
    return tuple(name + key.removeprefix(module) for name in ((names,) if isinstance(names, str) else names))


def alias(name: str) -> str | None:
    """The published network reaches the norm of a shortcut by two names, and its state dict holds both."""
    return name.replace(".norm3.", ".downsample.1.") if ".norm3." in name else None


def vit_size_of(state: Mapping[str, Tensor], key: str) -> str:
    """Told by the width of the class token, `key`."""
    dim = state[key].shape[-1] if key in state and state[key].dim() else None
    for size, settings in VITS.items():
        if settings.dim == dim:
            return size
    raise UserError(
        f"no FoundationStereo weights: '{key}' is {'missing' if dim is None else f'{dim} wide'}; expected a DINOv2 ViT-S, B or L"
    )


def from_nvidia(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """Published state dict to (ours, carried): `carried` holds what our network has no place for, so that the way back is complete.

    Raises `UserError` listing what is missing, left over or of the wrong shape.
    """
    vit_size = vit_size_of(state, f"{DINO}.pretrained.cls_token")
    ours: State = {}
    carried: State = {}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    used: set[str] = set()
    missing: list[str] = []
    wrong: list[str] = []
    for key, shape in _our_shapes(vit_size).items():
        names = list(their_names(key))
        aliases = [other for name in names if (other := alias(name))]
        used.update(names, aliases)
        absent = [name for name in (*names, *aliases) if name not in state]
        missing += absent
        if absent:
            continue
        part = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else shape
        wrong += [_wrong(name, shapes[name], part) for name in (*names, *aliases) if shapes[name] != part]
        wrong += [f"{other} differs from {names[0]}" for other in aliases if not torch.equal(state[other], state[names[0]])]
        if all(shapes[name] == part for name in names):
            ours[key] = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
    for name, shape in unread_shapes(vit_size).items():
        used.add(name)
        if name not in state:
            missing.append(name)
        elif shapes[name] != shape:
            wrong.append(_wrong(name, shapes[name], shape))
        else:
            carried[name] = state[name]
    refuse(missing, [name for name in state if name not in used], wrong)
    return ours, carried


def to_nvidia(ours: Mapping[str, Tensor], carried: Mapping[str, Tensor] | None = None) -> State:
    """The way back: exactly the published entries.

    carried: as `from_nvidia` returned it; zeros when None, for a network that never was a published one.
    Raises `UserError` for a state that is not one of the published widths with three GRU layers.
    """
    vit_size = vit_size_of(ours, "backbone.monocular.vit.cls_token")
    expected = _our_shapes(vit_size)
    shapes = {key: tuple(value.shape) for key, value in ours.items()}
    wrong = [_wrong(key, shapes[key], shape) for key, shape in expected.items() if key in shapes and shapes[key] != shape]
    refuse([key for key in expected if key not in ours], [key for key in ours if key not in expected], wrong)
    state = rename(ours)
    unread = unread_shapes(vit_size)
    if carried is None:
        whole = torch.int64
        carried = {name: torch.zeros(shape, dtype=whole if name.endswith("tracked") else None) for name, shape in unread.items()}
    shapes = {name: tuple(value.shape) for name, value in carried.items()}
    wrong = [_wrong(name, shapes[name], shape) for name, shape in unread.items() if name in shapes and shapes[name] != shape]
    refuse([name for name in unread if name not in carried], [name for name in carried if name not in unread], wrong)
    return state | dict(carried)


def rename(ours: Mapping[str, Tensor]) -> State:
    """Some of our entries under their published names, concatenations taken apart, both names of a norm; no checks."""
    state: State = {}
    for key, value in ours.items():
        names = their_names(key)
        for name, part in zip(names, value.chunk(len(names)) if len(names) > 1 else (value,), strict=True):
            state[name] = part.clone() if len(names) > 1 else part
            if other := alias(name):
                state[other] = state[name]
    return state


def _wrong(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{name} is {list(found)}, expected {list(expected)}"


def refuse(missing: list[str], left_over: list[str], wrong: list[str], what: str = "state dict") -> None:
    """`UserError` in one line with all of it, each kind cut after a few names; nothing when all are empty."""
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("left over", left_over), ("wrong", wrong))
        if names
    ]
    if parts:
        raise UserError(f"{what} does not fit the network; {'; '.join(parts)}")
