"""Pretrained weights for the backbone alone: of timm's hub, or a DINOv2 or Depth Anything V2 file, here or on the Hugging Face hub; and
what is frozen after.

Whole checkpoints are translated in `convert.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from core.backbone import VITS, Backbone, MonocularBranch
from core.weight_files import read_file
from utils.errors import UserError

KEY = "model.pretrained_backbone"
HUB = "hf:"  # before `owner/name` or `owner/name/file`
EXPECTED = f"none, timm, the path of a DINOv2 or Depth Anything V2 weight file, or {HUB}owner/name[/file]"

# Depth Anything's decoder -> ours; in order, the first that fits.
DECODER_NAMES = (
    ("depth_head.projects.", "project."),
    ("depth_head.resize_layers.", "rescale."),
    *((f"depth_head.scratch.layer{n}_rn.", f"reduce.{n - 1}.") for n in (1, 2, 3, 4)),
    *(
        (f"depth_head.scratch.refinenet{n}.{theirs}.", f"fuse.{n - 1}.{ours}.")
        for n in (1, 2, 3, 4)
        for theirs, ours in (("resConfUnit1", "skip"), ("resConfUnit2", "unit"), ("out_conv", "out"))
    ),
    ("depth_head.scratch.output_conv1.", "head."),
)
UNREAD = ("depth_head.scratch.output_conv2.", "depth_head.scratch.refinenet4.resConfUnit1.")


def load_pretrained(backbone: Backbone, source: str) -> dict[str, str]:
    """Load what `source` (see `EXPECTED`) offers into the backbone. Returns {part: where from}; parts: vit, decoder, cnn.

    Raises `UserError` for a source that is not there or does not fit.
    """
    if source == "none":
        return {}
    if source == "timm":
        return _from_timm(backbone)
    if backbone.monocular is None:
        raise UserError(f"{KEY}: a file holds weights of a ViT, but model.feature_type is cnn; use timm or none")
    return _from_file(backbone.monocular, source)


def freeze_request(
    backbone: Backbone, loaded: dict[str, str], source: str, freeze: bool | Sequence[str] | None, loaded_now: bool
) -> frozenset[str]:
    """The parts of the monocular branch to freeze: never one that holds random weights.

    freeze: as `model.freeze_backbone`. loaded_now: false when a state dict follows; the parts are then those that are named, or those that
    `source` would have filled, and both where `freeze` is true and `source` none: the weights that follow are the pretrained ones.
    """
    if freeze and backbone.monocular is None:
        raise UserError(
            f"model.freeze_backbone: {json.dumps(freeze)}, but model.feature_type is cnn, which has no monocular branch; leave it null"
        )
    if backbone.monocular is None or freeze is False:
        return frozenset()
    if freeze is not None and freeze is not True:
        if loaded_now and (random := sorted(set(freeze) - loaded.keys())):
            raise UserError(
                f"model.freeze_backbone: names {' and '.join(random)}, which {KEY} '{source}' does not fill and which would stay frozen at "
                "random weights; leave it null to freeze what got pretrained weights"
            )
        return frozenset(freeze)
    parts = set(loaded) if loaded_now else _offered(source)
    parts &= {"vit", "decoder"}
    if freeze and not parts:
        if not loaded_now:  # the state dict brings the weights of both
            return frozenset({"vit", "decoder"})
        raise UserError(
            f"model.freeze_backbone: true, but {KEY} is '{source}': the backbone would stay frozen at random weights; give pretrained "
            "ones, or start from a weight file of the whole network"
        )
    return frozenset(parts)


def _offered(source: str) -> set[str]:
    if source == "none":
        return set()
    if source == "timm":
        return {"vit"}
    has_decoder = not Path(source).is_file() or any(key.startswith("depth_head.") for key in _read(Path(source)))
    return {"vit", "decoder"} if has_decoder else {"vit"}


def _from_timm(backbone: Backbone) -> dict[str, str]:
    loaded = {"cnn": f"timm {_copy_from_hub(backbone.cnn, backbone.cnn_name, features_only=True, out_indices=backbone.cnn_indices)}"}
    if backbone.monocular is not None:
        name = VITS[backbone.monocular.size].name
        loaded["vit"] = f"timm {_copy_from_hub(backbone.monocular.vit, name, num_classes=0, img_size=518)}"
    return loaded


def _copy_from_hub(module: nn.Module, name: str, **options: Any) -> str:
    try:
        source = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub's client raises a dozen kinds, from refused connections to missing files
        raise UserError(
            f"{KEY}: timm could not fetch '{name}' ({type(error).__name__}: {_line(error)}); check the connection, or give a path or none"
        ) from None
    module.load_state_dict(source.state_dict())
    return name


def _from_file(branch: MonocularBranch, source: str) -> dict[str, str]:
    state = _read(_fetch(source.removeprefix(HUB), branch.size) if source.startswith(HUB) else Path(source))
    vit = {key.removeprefix("pretrained."): value for key, value in state.items() if not key.startswith("depth_head.")}
    vit.pop("mask_token", None)  # read in DINOv2's own training only
    _load(branch.vit, vit, source, branch.size)
    loaded = {"vit": source}
    decoder = {
        _decoder_name(key, source): value for key, value in state.items() if key.startswith("depth_head.") and not key.startswith(UNREAD)
    }
    if decoder:
        _load(branch.decoder, decoder, source, branch.size)
        loaded["decoder"] = source
    return loaded


def _decoder_name(key: str, source: str) -> str:
    for theirs, ours in DECODER_NAMES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise UserError(f"{source}: unknown entry '{key}'; expected weights of DINOv2 or Depth Anything V2")


def _fetch(name: str, size: str) -> Path:
    """A file of the Hugging Face hub in its cache, fetched where it is not there yet. Without a file name: Depth Anything's for `size`."""
    import huggingface_hub

    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise UserError(f"{KEY}: found '{HUB}{name}'; expected {HUB}owner/name or {HUB}owner/name/file")
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", file or f"depth_anything_v2_{size}.pth"))
    except Exception as error:  # as for timm
        raise UserError(
            f"{KEY}: '{HUB}{name}' could not be fetched ({type(error).__name__}: {_line(error)}); check the name and the connection, or "
            "give the path of a file"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{KEY}: no file {path}; give {EXPECTED}")
    state = read_file(path)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: no state dict; expected a weight file of DINOv2 or Depth Anything V2")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], source: str, size: str) -> None:
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        first = wrong[0]
        raise UserError(
            f"{source}: does not fit model.vit_size {size}: {len(wrong)} entries differ, first '{first}': "
            f"found {found.get(first, 'nothing')}, expected {expected.get(first, 'nothing')}"
        )
    module.load_state_dict(state)
