"""Whole networks from files: our checkpoints, the published ones, plain state dicts, safetensors. Reading runs no code from a file.

Published names are translated in `convert.py`; files that fill the backbone alone are read in `pretrained.py`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from core.convert import State, from_published, refuse
from utils.errors import UserError
from utils.files import damage, inside

SHIPPED = Path(__file__).with_name("weights")  # networks that come with the project, a folder each, as scripts/export.py writes it
POINTER = "latest.pt"  # in the folder of a run's checkpoints: which files the newest complete step consists of
CARRIED = "carried."  # prefix of the carried entries in a .safetensors file, which has room for names only
PLAIN = ("model_config", "config", "step", "validation", "num_updates")  # what else such a file of ours may hold, as JSON in its metadata
OUR_BEGINNINGS = ("backbone.", "context.", "encoder.", "trunk.")  # of names in any state dict of ours, and in no published one
WHOLE_NUMBERS = ("max_disp", "train_iters", "valid_iters", "corr_levels", "corr_radius", "n_gru_layers")  # what is read of cfg.yaml


class Weights(NamedTuple):
    """A file's content in our names. config: the "model" section; carried: published entries that our network has no place for."""

    config: dict[str, Any]
    state: State
    carried: State
    published: bool


def read_file(path: Path) -> dict[str, Any]:
    """Content of a .pth, .pt or .safetensors file on the CPU, of ours the same in both forms. `UserError` if unreadable."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as .pth, .pt or .safetensors")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:  # says more
        raise
    except (UnpicklingError, BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a readable weight file, damaged or with more in it than tensors ({reason})") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: found a {type(content).__name__}, no state dict; expected a weight file")
    return content


def _read_safetensors(path: Path, *, tensors: bool = True) -> dict[str, Any]:
    """tensors: false for the plain values of a file of ours alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in (file.keys() if tensors else ())}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if not metadata.get("model_config"):
        return state
    carried = {key.removeprefix(CARRIED): state.pop(key) for key in list(state) if key.startswith(CARRIED)}
    plain = {key: json.loads(metadata[key]) for key in PLAIN if key in metadata}
    return {**plain, "model": state, "carried": carried}


def read_about(path: Path) -> dict[str, Any]:
    """What a .safetensors file of ours says beside its weights (see `PLAIN`), which are not read. `UserError` if unreadable."""
    try:
        return _read_safetensors(path, tensors=False)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a .safetensors file ({error})") from None


def read_weights(path: Path) -> Weights:
    """A network from any of the known kinds of file, under our names.

    Raises `UserError` when the file cannot be read, is not what the record beside it says, is of another network, does not hold exactly the
    entries it should, or holds values that are not finite.
    """
    if (expected := _record_of(path)) and (problem := damage(path, expected)):
        raise UserError(f"{problem}; restore the file, or pass the weights of another step of its run")
    weights = _weights_of(path, read_file(path))
    refuse_not_finite(
        weights.state, str(path), "its training went wrong, or the file was damaged; pass other weights, as of an earlier step"
    )
    return weights


def _record_of(path: Path) -> Mapping[str, Any] | None:
    """ "size" and "sha256" of the file of a run, by what lies beside it: `<step>.json`, or `best.json` and `last.json`. None where nothing
    does, or what does is of another step: a run that goes on writes `last.safetensors` before `last.json`.
    """
    step = re.match(r"\d+", path.name)
    beside = path.with_name(f"{step[0]}.json") if step else path.with_suffix(".json")
    try:
        record = json.loads(beside.read_bytes())
        expected = record["files"][path.name] if step else record
        known = {"size", "sha256"} <= expected.keys() and (
            step or (record["weights"], record["step"]) == (path.name, read_about(path)["step"])
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return expected if known else None


def refuse_not_finite(state: Mapping[str, Tensor], where: str, what_to_do: str) -> None:
    """`UserError` that begins with `where`, names the first entry that holds NaN or infinity and says how many do."""
    checked = {key: value for key, value in state.items() if value.is_floating_point() and value.numel()}
    wrong = [key for key, value in checked.items() if not all(map(torch.isfinite, value.aminmax()))]  # a tenth of the time of isfinite
    if wrong:
        first = state[wrong[0]]
        count = f"{int((~torch.isfinite(first)).sum())} of {first.numel()}"
        raise UserError(f"{where}: {count} values of {wrong[0]} are not finite, and some in {len(wrong)} entries in all; {what_to_do}")


def _weights_of(path: Path, content: dict[str, Any]) -> Weights:
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: no state dict in it; expected one by itself or under the key 'model'")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    config = content.get("model_config")
    if isinstance(config, Mapping):
        return Weights(dict(config), state, dict(content.get("carried") or {}), published=False)
    if any(key.startswith(OUR_BEGINNINGS) for key in state):
        raise UserError(f"{path}: a state dict of ours without its configuration; pass the checkpoint, which holds both")
    try:
        config, ours, carried = from_published(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if config["type"] == "foundation_stereo":
        config |= {"freeze_backbone": True} | read_cfg(path.with_name("cfg.yaml"), config["vit_size"])  # as in their training
    return Weights(config, ours, carried, published=True)


def read_cfg(path: Path, vit_size: str) -> dict[str, Any]:
    """What the network needs of the `cfg.yaml` that lies beside published weights; nothing where there is none.

    The file is flat, so lines `key: value` are read and the rest is left; no YAML object can come out of it.
    """
    if not path.is_file():
        return {}
    pairs = re.findall(r"^(\w+):[ \t]*([^\s#]+)", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
    found = {key: value.strip("'\"") for key, value in pairs}
    if found.get("vit_size", vit_size) != vit_size:
        raise UserError(f"{path}: vit_size is {found['vit_size']}, but the weights beside it are {vit_size}; they do not belong together")
    wrong = [f"{key}: {found[key]}" for key in WHOLE_NUMBERS if not found.get(key, "1").isdigit()]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)}; expected a whole number")
    config: dict[str, Any] = {key: int(found[key]) for key in WHOLE_NUMBERS if key in found}
    if found.get("disparity_attention") in ("tokens", "heads"):  # written by `weight_export.py` only
        config["disparity_attention"] = found["disparity_attention"]
    return config


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str, *, assign: bool = False) -> None:
    """Strict; `UserError` that begins with `where` and lists what is missing, left over, of another shape or of whole numbers.

    assign: the model takes these very tensors, which one without storage (device "meta") needs.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [
        f"{key} is {list(found[key])}, expected {list(expected[key])}" for key in expected if found.get(key, expected[key]) != expected[key]
    ]
    whole = [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')}, expected floating point"
        for key, value in model.state_dict().items()
        if value.is_floating_point() and key in state and not state[key].is_floating_point()
    ]
    refuse(
        [key for key in expected if key not in found], [key for key in found if key not in expected], wrong + whole, f"{where}: state dict"
    )
    model.load_state_dict(dict(state), assign=assign)


def newest_weights(folder: Path) -> Path:
    """The weights that a run has come to: the averaged ones of its newest complete step, the plain ones where there is no average.

    folder: the run's workspace, or the folder of its checkpoints. Raises UserError where no step was saved.
    """
    checkpoints = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    pointer = checkpoints / POINTER
    if not pointer.is_file():
        raise UserError(f"{folder}: no saved step of a run (looked for {pointer}); pass the workspace of a run, or a weight file")
    files = read_file(pointer).get("files")
    names = [str(name) for name in files] if isinstance(files, Mapping) else []
    for kind in (r"\d+_ema\.pt", r"\d+\.pt"):
        for name in names:
            if re.fullmatch(kind, name):
                return inside(checkpoints, name, pointer)
    raise UserError(f"{pointer}: names no weights <step>.pt or <step>_ema.pt; pass one of the weight files beside it")


def shipped() -> list[str]:
    """Names of the networks that come with the project."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.safetensors"))


def locate(spec: Path | str) -> Path:
    """The weight file that `spec` means: a file itself, the newest weights of a workspace, or a network that comes with the project.

    A file or folder that exists goes before a network of that name; what is neither is returned as it is.
    """
    path = Path(spec).expanduser()
    if not path.exists() and str(spec) in shipped():
        return SHIPPED / spec / "model.safetensors"
    return newest_weights(path) if path.is_dir() else path


def load_model(path: Path | str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of a file, of the workspace of a run, or of a name such as "light" (see `locate`), in evaluation mode.

    changes: keys of the "model" section that are to differ from the file's, e.g. `{"disparity_attention": "heads"}`.
    The monocular branch of published weights is frozen, as it was in their training, unless `freeze_backbone` is changed to false.
    An MLflow run is loaded by `train.load.load_trained`, which takes all of these.
    """
    from core import build_model  # this module is below the registry

    path = locate(path)
    if re.fullmatch(r"[0-9a-f]{32}", str(path)) and not path.exists():
        raise UserError(f"{path}: no such file; if it is the id of an MLflow run, use train.load.load_trained, which takes these too")
    weights = read_weights(path)
    config = weights.config | dict(changes or {})
    model = build_model(config, with_pretrained=False)
    load_state(model, weights.state, str(path))
    return model.eval()
