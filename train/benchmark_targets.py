"""What a step is meant to cost, beside what it costs on the machine at hand: FoundationStereo against its plain twins.

Each row is measured in one configuration: what is faster is also what needs less. Memory on a CPU is the peak of a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from core.plain import TWINS
from train.benchmark import Conditions, Subject, counted_gflop, in_new_process, matmul_gflops, memory_gib, summary, tensors_gib, timed
from train.benchmark_overhead import overhead
from train.benchmark_scaling import axes, growth
from train.config import RunConfig
from train.ema import Ema
from train.memory import GIB, Memory, Planner, Setting
from train.utils import build_optimizer
from utils.versions import peak_memory_gib, reset_peak_memory

GIB_OF_A_CARD = 24
GROWTH = (1, 2, 4)
VITL = "ViT-L, 736 x 320, 22 iterations, batch 1, bf16, with optimizer and average"
PLANNED_TWINS = tuple(part for part in TWINS if part != "lookup")  # its twin looks at values; ours, in its place, needs less memory
MATRIX_UNITS = "use of the matrix units, bf16 train step"


class Row(NamedTuple):
    """met: None where it cannot be measured on this machine."""

    what: str
    target: str
    measured: str
    met: bool | None


def targets(config: RunConfig, conditions: Conditions) -> Iterator[Row]:
    """Each row once it is measured: the whole takes a quarter of an hour and more on a CPU.

    config: of the ViT-S network with the published range. conditions: the device and how often; sizes are those of the targets.
    """
    config = config.model_copy(update={"model": {**config.model, "max_disp": 416, "vit_size": "vits"}})
    usual = replace(conditions, batch=1, precision="fp32", gradient_checkpointing=True, freeze_backbone=True)
    yield _step("train step 256 x 128, 4 iterations, fp32", config, replace(usual, size=(256, 128), iterations=4), faster=1.5, smaller=0.6)
    yield growth_row(config, replace(usual, size=(192, 64), iterations=2))
    yield _overhead(config, replace(usual, size=(256, 128), iterations=4))
    for iterations in (8, 32):
        yield _inference(config, replace(usual, size=(640, 480), iterations=iterations))
    large = replace(usual, size=(736, 320), iterations=22, precision="bf16")
    vitl = config.model_copy(update={"model": {**config.model, "vit_size": "vitl"}})
    name = "train step 736 x 320, 22 iterations, bf16"
    if conditions.device.type == "cuda":
        yield _step(f"{name}, batch 2", config, replace(large, batch=2), faster=2, smaller=0.5)
        yield _fits(vitl, large)
        yield _matrix_units(config, replace(large, batch=2))
    else:
        yield _planned_step(f"{name}, batch 2", config, replace(large, batch=2), faster=2, smaller=0.5)
        yield _planned_to_fit(vitl, large)
        yield Row(MATRIX_UNITS, "35 % of the measured peak", "needs a GPU", None)


def ratios(subjects: Sequence[Subject], call: Callable[[Subject], Callable[[], object]]) -> dict[str, float]:
    """How many times as long the second takes as the first, taken round by round."""
    conditions = subjects[0].conditions
    taken: list[float] = []
    for number in range(conditions.warmup + conditions.repeats):
        fast, plain = (timed(call(subject), conditions.device) for subject in subjects)
        for subject in subjects:
            subject.network.zero_grad(set_to_none=True)
        if number >= conditions.warmup:
            taken.append(plain / fast)
    return summary(taken)


def fresh_memory_gib(config: RunConfig, conditions: Conditions, plain: Sequence[str] = ()) -> tuple[float, float]:
    """Peak of the first train step of a new process, above what it held before the step; and of the tensors of the second."""
    return in_new_process(_peaks, config, conditions, tuple(plain))


def _peaks(config: RunConfig, conditions: Conditions, plain: Sequence[str]) -> tuple[float, float]:
    subject = Subject("", config, conditions, plain)
    whole = memory_gib(subject.train_step, conditions.device)
    subject.network.zero_grad(set_to_none=True)
    return whole, tensors_gib(subject.train_step, conditions.device)


def _plain(conditions: Conditions) -> Conditions:
    return replace(conditions, gradient_checkpointing=False)  # the published modules have none


def _step(what: str, config: RunConfig, conditions: Conditions, *, faster: float, smaller: float) -> Row:
    ours, theirs = fresh_memory_gib(config, conditions), fresh_memory_gib(config, _plain(conditions), tuple(TWINS))
    pair = Subject("fast", config, conditions), Subject("plain", config, _plain(conditions), tuple(TWINS))
    ratio = ratios(pair, lambda subject: subject.train_step)
    memory = [f"{one:.2f} of {other:.2f} GiB, {one / other:.2f}x" for one, other in zip(ours, theirs, strict=True)]
    measured = f"{_range(ratio)}; {memory[0]} (of its tensors {memory[1]})"
    met = ratio["median"] >= faster and ours[0] <= smaller * theirs[0]
    return Row(what, f"{faster:g} times as fast; {smaller:g}x the memory", measured, met)


def _inference(config: RunConfig, conditions: Conditions) -> Row:
    pair = Subject("fast", config, conditions), Subject("plain", config, conditions, tuple(TWINS))
    ratio = ratios(pair, lambda subject: subject.infer)
    what = f"inference 640 x 480, {conditions.iterations} iterations, fp32"
    return Row(what, "1.5 times as fast", _range(ratio), ratio["median"] >= 1.5)


def growth_row(config: RunConfig, conditions: Conditions) -> Row:
    """Operations, and bytes as planned, which are exact; times of a shared machine bend by themselves."""
    shallow = config.model_copy(update={"model": {**config.model, "max_disp": 96}})
    said, shares = [], []
    for axis, start in (("width", config), ("max_disp", shallow)):
        measured = axes(start, conditions, GROWTH)[axis]
        costs = {
            "operations": [counted_gflop(Subject("", one, its).train_step) for _, one, its in measured],
            "tensors": [_of_a_step(planned(one, its)) for _, one, its in measured],
        }
        found = {name: growth([value for value, _, _ in measured], cost) for name, cost in costs.items()}
        shares += [one["square_share"] for one in found.values()]
        words = [f"{name} {100 * one['square_share']:.1f} %, {one['exponent']:.2f}" for name, one in found.items()]
        said.append(f"at {axis} {measured[-1][0]} {', '.join(words)}")
    target = "linear: no square term beyond 10 % (the ViT's attention)"
    return Row("growth with width and max_disp, alt", target, f"square term and exponent {'; '.join(said)}", max(shares) < 0.1)


def _overhead(config: RunConfig, conditions: Conditions) -> Row:
    share, wait = overhead(config, conditions)
    costs = ", ".join(f"{name} {100 * one:.2f} %" for name, one in share.items())
    measured = f"{100 * sum(share.values()):.2f} %: {costs}; waiting for data {100 * wait:.1f} %"
    return Row("what a run does beside its steps", "less than 2 % of their time", measured, sum(share.values()) < 0.02)


def _fits(config: RunConfig, conditions: Conditions) -> Row:
    taken = run_memory_gib(config, conditions)
    return Row(VITL, f"fits in {GIB_OF_A_CARD} GB", f"{taken:.1f} GiB", taken < GIB_OF_A_CARD)


def run_memory_gib(config: RunConfig, conditions: Conditions) -> float:
    """Peak of the second update of a run, with all that it keeps: weights, average, optimizer. On a CPU of the whole process."""
    subject = Subject("", config, conditions)
    optimizer, ema = build_optimizer(subject.network, config.optimizer), Ema(subject.network, config.ema.decay)
    for _ in range(2):  # the first makes the optimizer's states
        reset_peak_memory(conditions.device)
        subject.train_step()
        optimizer.step()
        ema.update(subject.network)
    return peak_memory_gib(conditions.device)


def planned(config: RunConfig, conditions: Conditions, plain: Sequence[str] = ()) -> Memory:
    """What `--dry_run` would say of such a run on a GPU: of shapes, on any machine."""
    subject = Subject("", config, replace(conditions, device=torch.device("cpu")), plain)
    planner = Planner(
        subject.network,
        subject.objective,
        build_optimizer(subject.network, config.optimizer),
        labels=subject.batch.label_types,
        iterations=conditions.iterations,
        fixed=sum(value.nbytes for value in subject.network.state_dict().values()),
    )
    return planner.estimate(Setting(conditions.batch, conditions.size, conditions.precision, conditions.gradient_checkpointing))


def _of_a_step(memory: Memory) -> int:
    """Bytes beside weights, average and optimizer."""
    return memory.gradients + memory.kept + memory.working


def _planned_step(what: str, config: RunConfig, conditions: Conditions, *, faster: float, smaller: float) -> Row:
    """The memory alone."""
    found = planned(config, conditions), planned(config, _plain(conditions), PLANNED_TWINS)
    ours, theirs = (_of_a_step(one) / GIB for one in found)
    measured = f"planned: {ours:.1f} of {theirs:.1f} GiB, {ours / theirs:.2f}x; the time needs a GPU"
    return Row(what, f"{faster:g} times as fast; {smaller:g}x the memory", measured, None)


def _planned_to_fit(config: RunConfig, conditions: Conditions) -> Row:
    with_all, kept = (planned(config, one).total / GIB for one in (conditions, replace(conditions, gradient_checkpointing=False)))
    return Row(VITL, f"fits in {GIB_OF_A_CARD} GB", f"planned: {with_all:.1f} GiB, {kept:.1f} without checkpointing", None)


def _matrix_units(config: RunConfig, conditions: Conditions) -> Row:
    subject = Subject("vits", config, conditions)
    gflop = counted_gflop(subject.train_step)
    peak, taken = 0.0, []
    for _ in range(conditions.warmup + conditions.repeats):  # in turns: the clock of a device is not the same all the time
        peak = max(peak, matmul_gflops(conditions.device, conditions.precision))
        taken.append(timed(subject.train_step, conditions.device))
    share = gflop / summary(taken[conditions.warmup :])["median"] / peak
    return Row(MATRIX_UNITS, "35 % of the measured peak", f"{100 * share:.0f} %", share >= 0.35)


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f})"


def table_head() -> str:
    """Markdown, as `table_line`."""
    return "| what | target | measured | |\n| --- | --- | --- | --- |"


def table_line(row: Row) -> str:
    words = {True: "met", False: "missed", None: "not measured"}
    return f"| {row.what} | {row.target} | {row.measured} | {words[row.met]} |"
