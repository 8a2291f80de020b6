"""How the cost of a train step grows with width, `max_disp`, iterations and batch: measured at one, two and three times each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.benchmark import Conditions, Subject, summary, tensors_gib, timed
from train.config import RunConfig
from train.plotting import plots

FACTORS = (1, 2, 3)
COSTS = {"seconds": "s", "tensors_gib": "GiB"}


def axes(config: RunConfig, conditions: Conditions, factors: Sequence[int] = FACTORS) -> dict[str, list[tuple[int, RunConfig, Conditions]]]:
    """Axis -> (value, configuration, conditions) of its points, at these multiples. `max_disp` for a network that has it."""
    width, height = conditions.size
    iterations = conditions.iterations or 4
    found = {
        "width": [(width * f, config, replace(conditions, size=(width * f, height))) for f in factors],
        "iterations": [(iterations * f, config, replace(conditions, iterations=iterations * f)) for f in factors],
        "batch": [(conditions.batch * f, config, replace(conditions, batch=conditions.batch * f)) for f in factors],
    }
    if "max_disp" in config.model:
        planes = config.model["max_disp"]
        changed = [config.model_copy(update={"model": {**config.model, "max_disp": planes * f}}) for f in factors]
        found["max_disp"] = [(planes * f, one, conditions) for f, one in zip(factors, changed, strict=True)]
    return found


def scaling(config: RunConfig, conditions: Conditions, progress: Callable[[], object] = lambda: None) -> dict[str, dict[str, Any]]:
    """Axis -> values, what a step costs at each, and how that grows. The points of an axis are timed in turns. progress: once per axis."""
    found: dict[str, dict[str, Any]] = {}
    for axis, points in axes(config, conditions).items():
        subjects = [Subject(f"{axis} {value}", one, its) for value, one, its in points]
        memory = [tensors_gib(subject.train_step, conditions.device) for subject in subjects]
        seconds: list[list[float]] = [[] for _ in subjects]
        for _ in range(conditions.repeats):
            for subject, taken in zip(subjects, seconds, strict=True):
                taken.append(timed(subject.train_step, conditions.device))
                subject.network.zero_grad(set_to_none=True)
        values = [value for value, _, _ in points]
        costs = {"seconds": [summary(taken)["median"] for taken in seconds], "tensors_gib": memory}
        found[axis] = {"values": values, **costs, "growth": {name: growth(values, cost) for name, cost in costs.items()}}
        progress()
    return found


def growth(values: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """Least-squares line (constant, per_unit); exponent of the power law nearest to the costs, below 1 where there is a constant; and the
    share of the largest cost that a parabola through the costs gives to its square term: 0 for growth that is linear."""
    x, y = np.asarray(values, float), np.asarray(costs, float)
    per_unit, constant = np.polyfit(x, y, 1)
    exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
    square = np.polyfit(x, y, 2)[0]
    return {
        "constant": float(constant),
        "per_unit": float(per_unit),
        "exponent": float(exponent),
        "square_share": float(square * x[-1] ** 2 / y[-1]),
    }


def scaling_table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each axis."""
    lines = ["| train step at | " + " | ".join(f"{name}, exponent, share of the square" for name in COSTS) + " |", "| --- | --- | --- |"]
    for axis, costs in found.items():
        cells = [f"{axis} {', '.join(map(str, costs['values']))}"]
        for name, unit in COSTS.items():
            grows = costs["growth"][name]
            numbers = ", ".join(f"{cost:.3g}" for cost in costs[name])
            cells.append(f"{numbers} {unit}, {grows['exponent']:.2f}, {100 * grows['square_share']:.0f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(path: Path, networks: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    """Where the time of each network's train step goes; beside it, how cost grows, as multiples of the first point."""
    with plots(path, 2 if found else 1) as places:
        names = list(networks)
        seconds = {name: {stage: taken["median"] for stage, taken in cost["stages"].items()} for name, cost in networks.items()}
        bottom = np.zeros(len(names))
        for stage in sorted({stage for stages in seconds.values() for stage in stages}):
            taken = np.array([seconds[name].get(stage, 0.0) for name in names])
            if taken.max() > 0.02 * sum(seconds[names[0]].values()):
                places[0].bar(names, taken, bottom=bottom, label=stage)
                bottom += taken
        places[0].set(ylabel="s, one train step")
        places[0].tick_params("x", rotation=20, labelsize="small")
        places[0].legend(fontsize="x-small")
        for axis, costs in found.items():
            for name, style in zip(COSTS, ("-", "--"), strict=True):
                values = np.array(costs[name]) / costs[name][0]
                places[1].plot(FACTORS, values, style, marker="o", label=f"{axis}, {name}")
        if found:
            places[1].set(xlabel="times the first value", ylabel="times the first cost")
            places[1].legend(fontsize="x-small")
