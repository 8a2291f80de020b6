"""Optimizer and learning-rate schedule from their JSON: parameter groups by name pattern, schedules by name. Nothing here takes a step.

Both sections have MoGe's form. Whatever they say is checked when the run is built, including what torch would accept in silence: a group
that matches nothing, a negative rate in a group, a schedule that divides by zero at its second step.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from utils.errors import UserError, did_you_mean
from utils.expressions import compile_expression
from utils.registry import Registry

Config = Mapping[str, Any]
Factor = Callable[[int], float]

SCHEDULES = Registry("schedule")  # ours: `name(steps, *, params) -> factor of a step`; all others are torch's
OPTIMIZERS: dict[str, Any] = {
    name: entry
    for name, entry in vars(torch.optim).items()
    if inspect.isclass(entry) and issubclass(entry, Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam")  # need another loop
}
TORCH_SCHEDULES = {
    name: entry
    for name, entry in vars(lr_scheduler).items()
    if inspect.isclass(entry) and issubclass(entry, LRScheduler) and name not in ("_LRScheduler", "LRScheduler", "ReduceLROnPlateau")
}
# the first two overwrite the initial rates that other stages start from, the others cannot be started late
NO_STAGE = ("OneCycleLR", "CyclicLR", "ChainedScheduler", "SequentialLR")
LENGTH_OF = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "LinearLR": "total_iters", "PolynomialLR": "total_iters"}
REHEARSAL = 300
FUSED = ("Adam", "AdamW")  # one kernel for the whole step: 0.31 of the time of torch's choice on a CPU, and no wait for a GPU
HOW = {"fused", "foreach", "capturable", "differentiable"}  # arguments that say how a step is computed, not what


# ---- optimizer --------------------------------------------------------------------------------------------------------------------------


def build_optimizer(model: nn.Module, config: Config, where: str = "optimizer") -> Optimizer:
    """`{"type": a class of torch.optim, "params": [{"params": {"include": [globs], "exclude": [globs]}, "lr": ..., ...}, ...]}`.

    Patterns are shell-style, on full parameter names (without a wrapper's "module."); frozen parameters are passed over. The other keys of
    a group are arguments of the class. Raises `UserError` for an unknown type or key, a bad value, a group that matches nothing, a
    trainable parameter in no group or in two. Adam and AdamW are fused where no group says how they are computed.
    """
    kind, groups = _known_keys(config, where, "type", "params")
    if kind not in OPTIMIZERS:
        raise UserError(f"{where}.type: unknown optimizer '{kind}'{did_you_mean(kind, OPTIMIZERS)}")
    if not isinstance(groups, list) or not groups:
        raise UserError(f"{where}.params: found {groups!r}; expected a list of groups, [{{'params': {{'include': ['*']}}, 'lr': 1e-4}}]")
    trainable = {name.removeprefix("module."): value for name, value in model.named_parameters() if value.requires_grad}
    if not trainable:
        raise UserError(f"{where}: the model has no trainable parameter; unfreeze a part of it")
    owner: dict[str, int] = {}
    checked = []
    for index, group in enumerate(groups):
        at = f"{where}.params[{index}]"
        keys = _check_group(group, OPTIMIZERS[kind], at)
        names = _matching(group["params"], list(trainable), at)
        for name in names:
            if name in owner:
                raise UserError(f"{at}: parameter '{name}' is also in {where}.params[{owner[name]}]; exclude it from one of the two")
            owner[name] = index
        checked.append({"params": [trainable[name] for name in names], **keys})
    fused = {"fused": True} if kind in FUSED and not any(HOW & group.keys() for group in checked) else {}
    left = [name for name in trainable if name not in owner]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise UserError(f"{where}.params: in no group: {', '.join(left[:3])}{more}; add a group, or freeze them in the model")
    try:
        return OPTIMIZERS[kind](checked, **fused)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: {kind} does not take this model: {error}") from None


def _check_group(group: Any, kind: Any, where: str) -> dict[str, Any]:
    """The arguments of a group, tried on the class alone: torch checks them only where they are given for all groups."""
    if not isinstance(group, Mapping) or not isinstance(group.get("params"), Mapping):
        raise UserError(f"{where}: found {group!r}; expected {{'params': {{'include': ['*']}}, 'lr': 1e-4}}")
    known = {name: argument.default for name, argument in inspect.signature(kind).parameters.items() if name != "params"}
    keys = {key: value for key, value in group.items() if key != "params"}
    for key, value in keys.items():
        if key not in known:
            raise UserError(f"{where}.{key}: unknown key{did_you_mean(key, known)}")
        _check_value(value, known[key], f"{where}.{key}")
    if "lr" not in keys:
        raise UserError(f"{where}.lr: required, but not given")
    keys = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
    try:
        kind([torch.zeros(1, 1, requires_grad=True)], **keys)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: {kind.__name__} refuses {keys}: {error}") from None
    return keys


def _matching(patterns: Mapping[str, Any], names: list[str], where: str) -> list[str]:
    include, exclude = patterns.get("include", ["*"]), patterns.get("exclude", [])
    for key, value in {**patterns, "include": include, "exclude": exclude}.items():
        if key not in ("include", "exclude"):
            raise UserError(f"{where}.params.{key}: unknown key{did_you_mean(key, ('include', 'exclude'))}")
        if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
            raise UserError(f"{where}.params.{key}: found {value!r}; expected a list of name patterns such as ['*backbone*']")
    found = [
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in include) and not any(fnmatchcase(name, pattern) for pattern in exclude)
    ]
    if not found:
        raise UserError(f"{where}: no trainable parameter matches include {include} and exclude {exclude}; names look like '{names[0]}'")
    return found


# ---- schedule ---------------------------------------------------------------------------------------------------------------------------


@SCHEDULES.register("WarmupCosine")
def warmup_cosine(
    steps: int,
    *,
    warmup_steps: Annotated[int | None, Field(ge=0, description="None: 5 % of the schedule, 1000 at most.")] = None,
    min_factor: Annotated[float, Field(ge=0, le=1)] = 0.01,
    total_steps: Annotated[int | None, Field(gt=0, description="None: the length of the run.")] = None,
) -> Factor:
    """Linear from 1 / warmup_steps to 1, then half a cosine down to min_factor at total_steps, and flat from there."""
    total = total_steps or steps
    warmup = min(1000, total // 20) if warmup_steps is None else warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2

    return factor


def build_lr_scheduler(optimizer: Optimizer, config: Config, total_steps: int, where: str = "lr_scheduler") -> LRScheduler:
    """`{"type": ..., "params": {...}}`: "WarmupCosine" or a class of torch.optim.lr_scheduler, counted in optimizer steps.

    `SequentialLR` takes `schedulers` (a list of such objects) and `milestones`; `LambdaLR` takes `lr_lambda`, an expression in `step` (or
    `epoch`, MoGe's name for the same) and `total_steps`, or a list with one per parameter group (see `utils.expressions`):
    FoundationStereo's schedule is "1 if step < 0.8 * total_steps else 0.1". The length of a schedule is that of the run, or of its stage,
    where it is not given. Do not hand the result to `accelerator.prepare`, which would step it once per process.

    Everything is tried out on a stand-in first; `UserError` for what cannot work.
    """
    trial = _construct(stand_in(optimizer), config, total_steps, where, stage=False)
    _rehearse(trial, total_steps, where)
    return _construct(optimizer, config, total_steps, where, stage=False)


def _construct(optimizer: Optimizer, config: Config, steps: int, where: str, *, stage: bool) -> LRScheduler:
    kind, params = _known_keys(config, where, "type", "params", default={})
    at = f"{where}.params"
    if kind in SCHEDULES:
        _require(kind, params, SCHEDULES.parameters(kind).model_fields, at)
        return lr_scheduler.LambdaLR(optimizer, SCHEDULES[kind](steps, **SCHEDULES.check(kind, params, at)))
    if kind not in TORCH_SCHEDULES:
        raise UserError(f"{where}.type: unknown schedule '{kind}'{did_you_mean(kind, [*SCHEDULES, *TORCH_SCHEDULES])}")
    if stage and kind in NO_STAGE:
        raise UserError(f"{where}.type: {kind} is a schedule of a whole run and cannot be a stage of another one")
    known = {
        name: ... if argument.default is argument.empty and name != LENGTH_OF.get(kind) else argument.default
        for name, argument in inspect.signature(TORCH_SCHEDULES[kind]).parameters.items()
        if name not in ("optimizer", "last_epoch", "verbose", "scale_fn")
    }
    _require(kind, params, known, at)
    arguments = _arguments(optimizer, kind, params, known, steps, at)
    if kind != "ChainedScheduler":  # which takes the optimizer of its stages
        arguments["optimizer"] = optimizer
    try:
        return TORCH_SCHEDULES[kind](**arguments)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise UserError(f"{where}: {kind} refuses {dict(params)}: {error}") from None


def _arguments(optimizer: Optimizer, kind: str, params: Config, known: Config, steps: int, where: str) -> dict[str, Any]:
    """What the class is called with: texts compiled, stages built, the length filled in, every plain value checked."""
    arguments = dict(params)
    if kind in ("LambdaLR", "MultiplicativeLR"):
        arguments["lr_lambda"] = _lambdas(params["lr_lambda"], len(optimizer.param_groups), steps, f"{where}.lr_lambda")
    elif kind == "SequentialLR":
        stages, arguments["milestones"] = _flatten(params, steps, where)
        arguments["schedulers"] = [_construct(optimizer, stage, length, at, stage=True) for stage, length, at in stages]
    elif kind == "ChainedScheduler":
        stages = _listed(params["schedulers"], where)
        arguments["schedulers"] = [_construct(optimizer, stage, steps, at, stage=True) for stage, at in stages]
    else:
        for key, value in params.items():
            _check_value(value, known[key], f"{where}.{key}")
        if kind in LENGTH_OF and not {"epochs", LENGTH_OF[kind]} & params.keys():
            arguments[LENGTH_OF[kind]] = steps
        given = arguments.get("total_steps")
        if kind == "OneCycleLR" and isinstance(given, int | float) and given < steps:
            raise UserError(f"{where}.total_steps: found {given}; OneCycleLR ends there, and the run has {steps} steps; leave it out")
    return arguments


def _require(kind: str, params: Any, known: Config, where: str) -> None:
    """UserError for an unknown key, and for a missing one of those that have no default (`...`)."""
    if not isinstance(params, Mapping):
        raise UserError(f"{where}: found {params!r}; expected an object")
    for key in params:
        if key not in known:
            raise UserError(f"{where}.{key}: unknown key{did_you_mean(key, known)}")
    for key, default in known.items():
        if default is ... and key not in params:
            raise UserError(f"{where}.{key}: required by {kind}, but not given")


def _listed(stages: Any, where: str) -> list[tuple[Any, str]]:
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{where}.schedulers: found {stages!r}; expected a list of schedules")
    return [(stage, f"{where}.schedulers[{index}]") for index, stage in enumerate(stages)]


def _flatten(params: Config, steps: int, where: str) -> tuple[list[tuple[Any, int, str]], list[int]]:
    """Stages with their lengths and paths, and milestones. A sequence inside a sequence becomes part of it: torch cannot start one late."""
    stages, milestones = _listed(params["schedulers"], where), params["milestones"]
    fits = isinstance(milestones, list) and len(milestones) == len(stages) - 1
    if not fits or not all(type(m) is int and m > before for m, before in zip(milestones, [0, *milestones], strict=False)):
        raise UserError(f"{where}.milestones: found {milestones!r}; expected growing step numbers, one fewer than there are schedulers")
    edges = [0, *milestones, max(steps, milestones[-1] + 1 if milestones else 1)]
    flat, starts = [], []
    for (stage, at), (start, end) in zip(stages, pairwise(edges), strict=True):
        starts.append(start)
        if isinstance(stage, Mapping) and stage.get("type") == "SequentialLR":
            kind, inner = _known_keys(stage, at, "type", "params", default={})
            _require(kind, inner, {"schedulers": ..., "milestones": ...}, f"{at}.params")
            parts, breaks = _flatten(inner, end - start, f"{at}.params")
            starts += [start + step for step in breaks]
            flat += parts
        else:
            flat.append((stage, end - start, at))
    return flat, starts[1:]


def _lambdas(texts: Any, groups: int, steps: int, where: str) -> list[Factor]:
    listed = texts if isinstance(texts, list) else [texts] * groups
    if len(listed) != groups:
        raise UserError(f"{where}: found {len(listed)} expressions for {groups} parameter groups; give one for all or one for each")
    return [_factor(text, steps, f"{where}[{i}]" if isinstance(texts, list) else where) for i, text in enumerate(listed)]


def _factor(text: Any, steps: int, where: str) -> Factor:
    """A plain function, since torch would store the attributes of any other callable in the checkpoint."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = repr(text)
    if not isinstance(text, str):
        raise UserError(f"{where}: found {text!r}; expected an expression such as '0.5 ** (step // 25000)'")
    evaluate = compile_expression(text, ("step", "epoch", "total_steps"), where)

    def factor(step: int) -> float:
        value = evaluate({"step": step, "epoch": step, "total_steps": steps})
        if value < 0:
            raise UserError(f"{where}: '{text}' is {value:g} at step {step}; a learning rate cannot be negative")
        return value

    for step in range(0, steps + 1, max(steps // REHEARSAL, 1)):
        factor(step)
    return factor


def stand_in(optimizer: Optimizer, side: int = 1) -> Optimizer:
    """One of the same class and settings for one small parameter per group, (side, side)."""
    known = inspect.signature(type(optimizer)).parameters.keys() - {"params"}
    groups = [{key: value for key, value in group.items() if key in known} for group in optimizer.param_groups]
    kind: Any = type(optimizer)
    return kind([{"params": [torch.zeros(side, side, requires_grad=True)], **group} for group in groups])


def _rehearse(schedule: LRScheduler, steps: int, where: str) -> None:
    """The first steps; some schedules fail at their second."""
    schedule.optimizer.step()  # without gradients it moves nothing; torch warns about a schedule that comes before it
    for step in range(1, min(steps, REHEARSAL) + 1):
        try:
            schedule.step()
            rates = [float(group["lr"]) for group in schedule.optimizer.param_groups]
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where}: fails at step {step}: {error}") from None
        if step < steps and not all(math.isfinite(rate) and rate >= 0 for rate in rates):  # the rate after the last step is never used
            raise UserError(f"{where}: the learning rate is {rates} at step {step}; expected finite numbers, not negative")


def _known_keys(config: Any, where: str, *keys: str, default: Any = None) -> tuple[Any, ...]:
    if not isinstance(config, Mapping) or not isinstance(config.get(keys[0]), str):
        raise UserError(f"{where}: found {config!r}; expected an object with {' and '.join(map(repr, keys))}")
    for key in config:
        if key not in keys:
            raise UserError(f"{where}.{key}: unknown key{did_you_mean(key, keys)}")
    return tuple(config.get(key, default) for key in keys)


def _check_value(value: Any, default: Any, where: str) -> None:
    """Only what JSON can mean for a number, a switch or a choice; torch would take the text "0.1" for a list of characters."""
    if isinstance(default, bool):
        fine, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fine, expected = isinstance(value, str), f"text such as '{default}'"
    elif default is None and (value is None or isinstance(value, bool)):
        fine, expected = True, ""
    else:
        numbers = value if isinstance(value, list) else [value]
        fine = all(isinstance(number, int | float) and type(number) is not bool and math.isfinite(number) for number in numbers)
        expected = "finite numbers" if isinstance(value, list) else "a finite number"
    if not fine:
        raise UserError(f"{where}: found {value!r}; expected {expected}")


# ---- report -----------------------------------------------------------------------------------------------------------------------------


def parameter_table(model: nn.Module, optimizer: Optimizer) -> str:
    """Parameters per module, two levels deep: how many, how many of them train, in which group and at what rate."""
    group_of = {id(value): index for index, group in enumerate(optimizer.param_groups) for value in group["params"]}
    rows: dict[str, list[Any]] = {}
    for name, value in model.named_parameters():
        module = ".".join(name.removeprefix("module.").split(".")[:-1][:2]) or "(itself)"
        row = rows.setdefault(module, [0, 0, set()])
        row[0] += value.numel()
        if value.requires_grad:
            row[1] += value.numel()
            row[2].add(group_of.get(id(value)))
    rates = {index: f"{group['lr']:.3g}" for index, group in enumerate(optimizer.param_groups)}

    def where_to(groups: set[int | None]) -> str:
        listed = sorted(groups, key=str)
        return ", ".join("in no group" if index is None else f"group {index}, lr {rates[index]}" for index in listed) or "frozen"

    lines = [(module, f"{count:,}", f"{training:,}", where_to(groups)) for module, (count, training, groups) in rows.items()]
    totals = ("total", f"{sum(row[0] for row in rows.values()):,}", f"{sum(row[1] for row in rows.values()):,}", "")
    lines = [("module", "parameters", "trainable", "optimizer"), *lines, totals]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in lines)
