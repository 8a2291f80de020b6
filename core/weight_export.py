"""Weight files written: ours, and those that the published networks' own code reads, such as NVIDIA's and its TensorRT pipeline.

Reading is in `weight_files.py`, the translation of names in `convert.py`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from core.convert import State, complete, find_published, to_published
from core.weight_files import CARRIED, PLAIN, Weights, load_state, read_weights, refuse_not_finite
from utils.errors import UserError
from utils.files import write_atomic

Format = Literal["ours", "published", "nvidia"]

# Keys of cfg.yaml that NVIDIA's code reads and that no file of ours can change.
FIXED_CFG = {"corr_implementation": "reg", "low_memory": 0, "mixed_precision": "true", "n_downsample": 2, "slow_fast_gru": "false"}
TOLD_CFG = ("corr_levels", "corr_radius", "max_disp", "n_gru_layers", "train_iters", "valid_iters", "vit_size", "disparity_attention")


def read_checked(path: Path) -> Weights:
    """`read_weights`, with its configuration completed by every default and its entries compared with the network that this describes."""
    from core import build_model  # this module is below the registry

    weights = read_weights(path)
    try:
        with torch.device("meta"):
            model = build_model(weights.config, with_pretrained=False)
        config = complete(weights.config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    load_state(model, weights.state, str(path), assign=True)
    return weights._replace(config=config)


def parts_of(state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many entries each part of the network has; the backbone is told apart further."""
    counts: dict[str, int] = {}
    for key in state:
        words = key.split(".")
        depth = {"backbone": 3 if words[1] == "monocular" else 2}.get(words[0], 1)
        part = ".".join(words[:depth])
        counts[part] = counts.get(part, 0) + 1
    return counts


def write_weights(path: Path, weights: Weights, form: Format) -> list[Path]:
    """Write a .pth, .pt or .safetensors file. Returns what was written.

    published: the names of the released files, which the network's own code reads; nvidia: the same for FoundationStereo, and for it
    alone, with the cfg.yaml beside it that its loader needs. weights: with a completed configuration, as from `read_checked`.
    Raises `UserError` rather than writing over anything, for weights that do not have the published shapes, and for a folder that cannot
    be written.
    """
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise UserError(f"{path}: unknown kind of file '{path.suffix}'; expected .pth, .pt or .safetensors")
    if path.exists():
        raise UserError(f"{path}: exists already and is not overwritten; pass another name")
    kind = weights.config["type"]
    if form == "nvidia" and kind != "foundation_stereo":
        raise UserError(f"{path}: NVIDIA published no {kind}; use published, the form of that network's own files")
    files: list[tuple[Path, Callable[[BinaryIO], object] | str]] = []
    if form != "ours":
        try:
            prefix = find_published(kind).prefix
            state = to_published(weights.config, weights.state, weights.carried or None)
        except UserError as error:
            raise UserError(f"{path}: only networks of the published sizes can be written as {form} ({error})") from None
        if kind != "foundation_stereo":
            files = [(path, _writer(path, {prefix + name: value for name, value in state.items()}, None, None))]
        else:
            config, text = path.with_name("cfg.yaml"), format_cfg(weights.config)
            if config.exists() and config.read_text(encoding="utf-8", errors="replace") != text:
                raise UserError(
                    f"{config}: exists already with other content, and the loader reads this name; pass a path in another folder"
                )
            files = [(path, _writer(path, state, {"global_step": 0, "epoch": 0}, None)), (config, text)]
    else:
        extra = {"model_config": weights.config, "carried": weights.carried}
        files = [(path, _writer(path, weights.state, extra, weights.config))]
    try:
        for place, content in files:
            write_atomic(place, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); pass a path that can") from None
    return [place for place, _ in files]


def _writer(path: Path, state: State, extra: dict[str, Any] | None, config: dict[str, Any] | None) -> Callable[[BinaryIO], object]:
    """extra: what a .pth holds beside the weights, None for the weights alone, without a key around them; a .safetensors holds the
    carried entries by a prefix and `config` as metadata."""
    content = dict(state) if extra is None else {"model": dict(state), **extra}
    if path.suffix != ".safetensors":
        return lambda file: torch.save(content, file)
    return lambda file: file.write(pack(content if config is not None else {"model": dict(state)}))


def pack(content: Mapping[str, Any]) -> bytes:
    """What a .pt file of ours holds as a .safetensors file, which `read_file` gives back: the tensors of "model" and "carried", and the
    plain values `PLAIN`, which become metadata.
    """
    from safetensors.torch import save

    tensors = dict(content["model"]) | {CARRIED + name: value for name, value in content.get("carried", {}).items()}
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}  # two names of one tensor are refused there
    plain = {key: json.dumps(content[key]) for key in PLAIN if key in content}
    return save(tensors, plain or None)


def check_half(state: Mapping[str, Tensor], where: str) -> None:
    """`UserError` that begins with `where` for finite weights of which float16 makes infinity."""
    halved = {key: value.half() for key, value in state.items() if value.is_floating_point()}
    refuse_not_finite(halved, f"{where}: as float16", "export them without --fp16")


def format_cfg(config: Mapping[str, Any]) -> str:
    """The cfg.yaml of published weights: what their loader reads, and `disparity_attention`, which only we do."""
    lines = {**FIXED_CFG, **{key: config[key] for key in TOLD_CFG}}
    text = "".join(f"{key}: {lines[key]}\n" for key in sorted(lines))
    return text + "hidden_dims:\n" + "".join(f"- {width}\n" for width in config["hidden_dims"])
