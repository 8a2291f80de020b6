"""How a run file becomes a `RunConfig`: found, read, laid over what it extends, overridden, checked, completed by the registries."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from train.config import DatasetEntry, RunConfig
from train.losses import LossTerm
from utils.errors import UserError, did_you_mean
from utils.files import no_key_twice, read_config
from utils.registry import explain

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "train"
DEEPEST = 32  # levels of a configuration; the shipped ones have 6
EXTENDS = "extends"


def find_config(name: str, where: str = "--config", here: Path = Path()) -> Path:
    """A path, from `here` on, or the bare name of a file in `configs/train`. Raises UserError with what there is; `where` begins it."""
    for folder in (here, FOLDER, ROOT):
        if os.path.isfile(folder / name):  # unlike Path's, false for whatever no file can be called
            return folder / name
    shipped = [file.name for file in FOLDER.glob("*.*")]
    raise UserError(f"{where} {name}: no such file, here or in configs/train{did_you_mean(name, shipped)}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration, apply `a.b=c` overrides and fill in every default, those of the registered parts as well.

    Raises UserError in one line: file, path of the key, what was found, what is expected.
    """
    content = read_run_file(path)
    if overrides:
        content = _defaults() | content  # so that an override reaches into a section that the file leaves out
    for override in overrides:
        apply_override(content, override)
    check_plain(content, f"{path}:")
    try:
        config = RunConfig(**content)
    except ValidationError as error:
        raise UserError(explain(error, RunConfig, f"{path}:")) from None
    except TypeError:
        raise UserError(f"{path}: the keys at the top must be words; known: {', '.join(RunConfig.model_fields)}") from None
    return _resolve(config, path)


def read_run_file(path: Path) -> dict[str, Any]:
    """The content of a file, laid over that of the one that it `extends`, if it says so; which may extend another.

    The name is a path that starts in its folder, or that of a file in `configs/train`. Raises UserError.
    """
    paths, contents = [path], [read_config(path)]
    while EXTENDS in contents[-1]:
        name, where = contents[-1].pop(EXTENDS), f"{paths[-1]}: {EXTENDS}:"
        if not isinstance(name, str):
            raise UserError(f'{where} found {name!r}; expected the name of a run file, as "finetune.json"')
        found = find_config(name, where, paths[-1].parent)
        if found.resolve() in map(Path.resolve, paths):
            raise UserError(f"{where} {name} leads back to itself; expected a file that does not extend this one")
        paths.append(found)
        contents.append(read_config(found))
    merged: dict[str, Any] = {}
    for content in reversed(contents):
        merged = laid_over(merged, content)
    return merged


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes`. Objects in both are merged in turn, unless they say to be of different types: parameters of the
    one would be none of the other. All else is replaced, lists as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        before = base.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = laid_over(before, value) if both and not _of_different_types(before, value) else value
    return merged


def _of_different_types(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(name in one and name in other and one[name] != other[name] for name in ("type", "function"))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """While a run is built: errors that begin with the path of a key begin with the file as well, as those of `load_config` do."""
    try:
        yield
    except UserError as error:
        if re.match(rf"({'|'.join(RunConfig.model_fields)})[.:\[]", str(error)):
            raise UserError(f"{path}: {error}") from None
        raise


def check_plain(value: Any, where: str, depth: int = 0) -> None:
    """UserError for what no configuration means and what breaks those that pass it on: nesting without end, texts that no file can hold."""
    if isinstance(value, dict | list):
        if depth == DEEPEST:
            raise UserError(f"{where}: nested more than {DEEPEST} deep; a configuration is not")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            path = f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}" if depth else f"{where} {key}"
            if isinstance(key, str):
                _check_text(key, path)
            check_plain(item, path, depth + 1)
    elif isinstance(value, str):
        _check_text(value, where)


def _check_text(text: str, where: str) -> None:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{where}: found {text[:60]!r}, with a zero byte or half a character in it; expected text in UTF-8")


def _resolve(config: RunConfig, path: Path) -> RunConfig:
    """The same configuration with the parameters of networks, data sets and losses checked and completed by their registries."""
    from core import MODELS, offered, switches
    from train.augment.pipeline import Augmentation
    from train.datasets import DATASETS
    from train.losses import Objective

    here = f"{path}: "
    kind = config.model.get("type", "foundation_stereo")
    MODELS.find(kind, f"{here}model.type")
    model = {"type": kind, **MODELS.check(kind, {key: value for key, value in config.model.items() if key != "type"}, f"{here}model")}

    def complete(entry: DatasetEntry, where: str) -> DatasetEntry:
        DATASETS.find(entry.type, f"{where}.type")
        image, stereo = Augmentation(entry.image_augmentation or [], entry.stereo_augmentation or False, where).dump()
        return entry.model_copy(
            update={
                "params": DATASETS.check(entry.type, entry.params, f"{where}.params"),
                "image_augmentation": None if entry.image_augmentation is None else image,
                "stereo_augmentation": None if entry.stereo_augmentation is None else stereo,
                "cache": None if entry.cache is None else config.data.cache_of(entry),
            }
        )

    image, stereo = Augmentation(config.data.image_augmentation, config.data.stereo_augmentation, f"{here}data").dump()
    entries = [complete(entry, f"{here}data.datasets[{i}]") for i, entry in enumerate(config.data.datasets)]
    held = [complete(entry, f"{here}validation.datasets[{i}]") for i, entry in enumerate(config.validation.datasets)]
    objective = Objective(config.loss, f"{here}loss")
    switched = switches(MODELS[kind])
    objective.check_network(kind, offered(model), f"{here}loss", switched)
    _check_coarse(config.training.coarse_scale, model, f"{here}training.coarse_scale")
    for field, key in switched.items():
        if model[key] and not objective.needing(field):
            raise UserError(
                f"{here}model.{key}: true, but no loss is of the network's '{field}'; add one, of weight 0 to leave it untrained"
            )
    for i, entry in enumerate(entries):
        objective.check_labels([entry.label_type], f"{here}data.datasets[{i}].label_type")
    loss = {
        label: {term.name: LossTerm(function=term.function, weight=term.weight, params=term.params) for term in objective.terms[label]}
        for label in config.loss
    }
    data = {
        "datasets": entries,
        "image_augmentation": image,
        "stereo_augmentation": stereo,
        "max_disparity": config.data.max_disparity or model.get("max_disp"),
    }
    return config.model_copy(
        update={
            "model": model,
            "data": config.data.model_copy(update=data),
            "validation": config.validation.model_copy(update={"datasets": held}),
            "loss": loss,
        }
    )


def _check_coarse(scale: float | None, model: Mapping[str, Any], where: str) -> None:
    if scale is None:
        return
    if "train_iters" not in model:
        raise UserError(f"{where}: {scale}, but {model['type']} does not refine a start; expected null")
    if model.get("start_cost", scale) is None:
        raise UserError(
            f"{where}: {scale}, but model.start_cost is null: a start would take the place of the network's own search, and what makes it "
            "would not be trained; give model.start_cost, as 0.5"
        )


def _defaults() -> dict[str, Any]:
    """The sections that have defaults, as a file would hold them."""
    fields = {name: field for name, field in RunConfig.model_fields.items() if not field.is_required()}
    values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    return {name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for name, value in values.items()}


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one key of a raw configuration in place, `data.datasets[0].weight=2`; the value is JSON, or a string where it is not JSON.

    Missing objects on the way are created; whether the key exists is decided when the whole is checked.
    """
    path, equals, text = override.partition("=")
    found = [index or name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    keys: list[str | int] = [int(key) if key.isdecimal() and len(key) < 10 else key for key in found]
    if not equals or not keys:
        raise UserError(f"--set {override}: expected key=value, as in --set data.datasets[0].weight=2")
    try:
        value = json.loads(text, object_pairs_hook=no_key_twice)
    except json.JSONDecodeError:
        value = text
    except (RecursionError, ValueError) as error:
        raise UserError(f"--set {override}: {error}; no configuration holds such a value") from None
    place: Any = content
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        at = ".".join(map(str, keys[: depth + 1]))
        if isinstance(place, list):
            if not isinstance(key, int) or key >= len(place):
                raise UserError(f"--set {override}: {at}: the list has {len(place)} entries, counted from 0")
        elif isinstance(place, dict):
            key = str(key)
        else:
            raise UserError(f"--set {override}: {at}: what it should be set in is {place!r}, neither an object nor a list")
        if last:
            place[key] = value
        else:
            place = place[key] if isinstance(place, list) else place.setdefault(key, {})


def json_schema() -> dict[str, Any]:
    """A JSON schema of the run file for editors, with the parameters of the registered networks and the names of everything registered."""
    from core import MODELS
    from train.datasets import DATASETS
    from train.losses import LOSSES

    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    networks = []
    for name in MODELS:
        network = MODELS.parameters(name).model_json_schema()
        network["properties"] = {"type": {"const": name}, **network["properties"]}
        networks.append(network)
    schema["properties"]["model"] = networks[0] if len(networks) == 1 else {"anyOf": networks}
    definitions["LossTerm"]["properties"]["function"]["enum"] = sorted(LOSSES)
    definitions["DatasetEntry"]["properties"]["type"]["enum"] = sorted(DATASETS)
    schema["properties"][EXTENDS] = {
        "type": "string",
        "description": "A run file that this one changes; what both have is taken from this one.",
    }
    schema["anyOf"] = [{"required": [EXTENDS]}, {"required": schema.pop("required")}]
    return schema


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, `{"data": {"workers": 2}}` -> `{"data.workers": 2}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    """Keys whose values differ; one may be as Python has it and the other as a file: a tuple is a list."""
    ours, theirs = (TypeAdapter(dict[str, Any]).dump_python(dict(one), mode="json") for one in (ours, theirs))
    return {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
