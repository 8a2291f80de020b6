"""Published state dicts and ours: one way of translating for all networks, both ways; strict, and bit for bit there and back.

The tables are in `*_names.py`, published names exist there only. Files are read in `weight_files.py` and written in `weight_export.py`.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from core.crestereo_names import CRESTEREO
from core.foundation_stereo_names import FOUNDATION_STEREO
from core.names import Names, Published
from core.raft_stereo_names import RAFT_STEREO
from utils.errors import UserError

State = dict[str, Tensor]

PUBLISHED = {network.kind: network for network in (FOUNDATION_STEREO, RAFT_STEREO, CRESTEREO)}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A "model" section with its defaults."""
    from core import MODELS  # this module is below the registry

    params = dict(config)
    kind = params.pop("type", "foundation_stereo")
    return {"type": kind, **MODELS.check(kind, params, "model")}


@lru_cache(maxsize=8)
def _shapes_of(config: str) -> dict[str, tuple[int, ...]]:
    """Of our entries; config: the "model" section as JSON."""
    from core import build_model

    with torch.device("meta"):
        model = build_model(json.loads(config), with_pretrained=False)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def our_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return _shapes_of(json.dumps(config, sort_keys=True))


def find_published(kind: str) -> Published:
    if kind not in PUBLISHED:
        raise UserError(f"'{kind}' has no published weights and so no published names; known are those of {', '.join(PUBLISHED)}")
    return PUBLISHED[kind]


def from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], State, State]:
    """Published state dict to ("model" section, ours, carried): `carried` holds what our network has no place for, so that the way back
    is complete.

    Raises `UserError` listing what is missing, left over or of the wrong shape.
    """
    network = next((network for network in PUBLISHED.values() if network.known_by in state), None)
    if network is None:
        known = ", ".join(f"{network.kind} ('{network.known_by}')" for network in PUBLISHED.values())
        raise UserError(f"no weights of a known network: of the entries that tell one, it has none; known: {known}")
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    config = network.config(shapes)
    table = network.table(complete(config))
    ours: State = {}
    carried: State = {}
    used: set[str] = set()
    missing: list[str] = []
    wrong: list[str] = []
    for key, shape in our_shapes(config).items():
        names = list(their_names(key, table))
        aliases = [other for name in names if (other := network.alias(name))]
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
    for name, shape in network.unread(complete(config)).items():
        used.add(name)
        if name not in state:
            missing.append(name)
        elif shapes[name] != shape:
            wrong.append(_wrong(name, shapes[name], shape))
        else:
            carried[name] = state[name]
    for name, formula in network.formulas.items():
        used.add(name)
        value = formula()
        if name not in state:
            missing.append(name)
        elif shapes[name] != tuple(value.shape) or not torch.allclose(state[name], value, atol=1e-5):
            wrong.append(f"{name} is not what its formula gives")
        elif not torch.equal(state[name], value):  # as computed on another machine
            carried[name] = state[name]
    refuse(missing, [name for name in state if name not in used], wrong)
    return config, ours, carried


def to_published(config: Mapping[str, Any], ours: Mapping[str, Tensor], carried: Mapping[str, Tensor] | None = None) -> State:
    """The way back: exactly the published entries, without the prefix of the released files.

    config: the "model" section of `ours`. carried: as `from_published` returned it; zeros when None, for a network that never was a
    published one. Raises `UserError` for a network that has no published names, and for widths that are none of the published ones.
    """
    config = complete(config)
    network = find_published(config["type"])
    config = complete(network.as_published(config))
    expected = our_shapes(config)
    _compare(ours, expected)
    state = rename(config, ours)
    unread = network.unread(config)
    formulas = {name: value for name, value in (carried or {}).items() if name in network.formulas}
    if carried is None:
        whole = torch.int64
        carried = {name: torch.zeros(shape, dtype=whole if name.endswith("tracked") else None) for name, shape in unread.items()}
    else:
        carried = {name: value for name, value in carried.items() if name not in formulas}
        _compare(carried, unread)
    return state | carried | {name: formulas[name] if name in formulas else formula() for name, formula in network.formulas.items()}


def their_names(key: str, table: Mapping[str, Names]) -> tuple[str, ...]:
    """The published names of one of our entries; more than one where ours is their concatenation along the first axis."""
    module = key
    while module not in table:
        module = module.rpartition(".")[0]
        assert module, f"no published name for '{key}'"
    names = table[module]
    return tuple(name + key.removeprefix(module) for name in ((names,) if isinstance(names, str) else names))


def rename(config: Mapping[str, Any], ours: Mapping[str, Tensor]) -> State:
    """Some of our entries under their published names, concatenations taken apart, both names of one tensor; no checks."""
    config = complete(config)
    network = find_published(config["type"])
    table = network.table(config)
    state: State = {}
    for key, value in ours.items():
        names = their_names(key, table)
        for name, part in zip(names, value.chunk(len(names)) if len(names) > 1 else (value,), strict=True):
            state[name] = part.clone() if len(names) > 1 else part
            if other := network.alias(name):
                state[other] = state[name]
    return state


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [_wrong(key, shapes[key], shape) for key, shape in expected.items() if shapes.get(key, shape) != shape]
    refuse([key for key in expected if key not in shapes], [key for key in shapes if key not in expected], wrong)


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
