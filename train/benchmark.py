"""What a network costs: time, memory and floating-point operations of a train step (forward, loss, backward) and of inference.

Several networks are measured in turns in one process, so that what disturbs the machine disturbs all of them; the ratio is taken round by
round. Weights are random: they change no cost. Optimizer and average are measured apart from the step; the cost of data is in
`benchmark_data`. How cost grows is in `benchmark_scaling`, the comparison with stated targets in `benchmark_targets`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core import FoundationStereo, build_model
from core.plain import TWINS, make_plain
from train.config import RunConfig
from train.ema import Ema
from train.inference import PRECISIONS, Precision, check_precision
from train.losses import INVALID, Objective
from train.sample import StereoBatch
from train.utils import build_optimizer
from utils.errors import UserError, did_you_mean
from utils.versions import peak_memory_gib, reset_peak_memory

DISPARITY_PX = 4
DEPTH = 2  # of the module names that stages are called by: `backbone`, or `update.mask_head` where only that is called
REST = "rest of the forward pass"  # correlation, and what lies between the modules


@dataclass(frozen=True)
class Conditions:
    """size: (width, height). iterations: of training and inference alike, None for the network's own numbers. batch: of the train step;
    inference is of one pair. repeats: rounds that count, after `warmup` that do not. freeze_backbone: as in a run that has pretrained
    weights of the monocular branch; random ones are trained otherwise."""

    size: tuple[int, int]
    device: torch.device
    batch: int = 1
    iterations: int | None = None
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    freeze_backbone: bool = False
    repeats: int = 5
    warmup: int = 1


class Subject:
    """A network with its losses and a batch to work on.

    plain: parts that are computed in the published way, to see what ours is worth (`core.plain.TWINS`).
    """

    def __init__(self, name: str, config: RunConfig, conditions: Conditions, plain: Sequence[str] = ()) -> None:
        check_precision(conditions.precision, conditions.device)
        self.name, self.config, self.conditions = name, config, conditions
        torch.manual_seed(0)
        self.network: Any = build_model(config.model, with_pretrained=False).to(conditions.device)
        self.network.gradient_checkpointing = conditions.gradient_checkpointing
        if plain:
            _check_plain(self.network, plain)
            make_plain(self.network, plain)
        if conditions.freeze_backbone and isinstance(self.network, FoundationStereo):
            self.network.freeze_backbone_()
        self.objective = Objective(config.loss)
        label = next(label for label in config.loss if label != INVALID)
        self.batch = made_batch(conditions.batch, conditions.size, label).to(conditions.device)

    def forward(self) -> Any:
        self.network.zero_grad(set_to_none=True)
        self.network.train()
        with self._precision():
            return self.network(self.batch.left, self.batch.right, iters=self.conditions.iterations)

    def loss(self, output: Any) -> Tensor:
        with self._precision():
            return self.objective(output, self.batch)[0]

    def train_step(self) -> None:
        self.loss(self.forward()).backward()

    def infer(self) -> None:
        self.network.eval()
        with torch.no_grad(), self._precision():
            self.network(self.batch.left[:1], self.batch.right[:1], iters=self.conditions.iterations)

    def _precision(self):
        low = PRECISIONS[self.conditions.precision]
        return nullcontext() if low is None else torch.autocast(self.conditions.device.type, low)


def _check_plain(network: nn.Module, parts: Sequence[str]) -> None:
    if not isinstance(network, FoundationStereo):
        raise UserError("plain: only foundation_stereo has plain twins of its parts")
    for part in parts:
        if part not in TWINS:
            raise UserError(f"plain: unknown part '{part}'{did_you_mean(part, TWINS)}")


def made_batch(count: int, size: tuple[int, int], label: str) -> StereoBatch:
    """Noise that the right eye sees `DISPARITY_PX` further left, every pixel with ground truth."""
    width, height = size
    scene = np.random.default_rng(0).integers(0, 256, (count, 3, height, width + DISPARITY_PX), dtype=np.uint8)
    left, right = (torch.from_numpy(view.copy()) for view in (scene[..., :width], scene[..., DISPARITY_PX:]))
    truth = torch.full((count, height, width), float(DISPARITY_PX))
    names = [str(i) for i in range(count)]
    return StereoBatch(left, right, truth, torch.ones_like(truth, dtype=torch.bool), names, ["made"] * count, [label] * count)


def benchmark(subjects: Sequence[Subject], progress: Callable[[], object] = lambda: None) -> dict[str, dict[str, Any]]:
    """Name -> what the network costs, in plain values. progress: called once per round."""
    conditions = subjects[0].conditions
    peak = 0.0
    found = {subject.name: _once(subject) for subject in subjects}
    seconds: dict[str, dict[str, list[float]]] = {subject.name: {"train": [], "inference": []} for subject in subjects}
    parts: dict[str, list[dict[str, float]]] = {subject.name: [] for subject in subjects}
    for number in range(conditions.warmup + conditions.repeats):
        peak = max(peak, matmul_gflops(conditions.device, conditions.precision))  # the best: what disturbs the machine makes it low
        for place in np.random.default_rng(number).permutation(len(subjects)):  # not always after the same one, whose memory it finds
            subject = subjects[place]
            for what, call in (("train", subject.train_step), ("inference", subject.infer)):
                taken = timed(call, conditions.device)
                if number >= conditions.warmup:
                    seconds[subject.name][what].append(taken)
            subject.network.zero_grad(set_to_none=True)
            if number >= conditions.warmup:
                parts[subject.name].append(stages(subject))
        progress()
    for subject in subjects:
        measured = parts[subject.name]
        found[subject.name]["stages"] = {stage: summary([one[stage] for one in measured]) for stage in measured[0]}
        for what, samples in (("train", conditions.batch), ("inference", 1)):
            own, reference = (seconds[name][what] for name in (subject.name, subjects[0].name))
            cost = found[subject.name][what]
            cost["seconds"] = summary(own)
            cost["of_the_first"] = summary([ours / theirs for ours, theirs in zip(own, reference, strict=True)])
            cost["samples_per_second"] = samples / cost["seconds"]["median"]
            cost["gflop_per_second"] = cost["gflop"] / cost["seconds"]["median"]
            cost["share_of_peak"] = cost["gflop_per_second"] / peak
    return found


def matmul_gflops(device: torch.device, precision: Precision) -> float:
    """What one large matrix product reaches here, the best of five: nothing that multiplies can be faster."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=PRECISIONS[precision] or torch.float32)
    return 2e-9 * size**3 / min(timed(lambda: a @ a, device) for _ in range(6))


def summary(values: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles, linear between neighbours."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "low": low, "high": high}


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = moment(device)
    call()
    return seconds_between(start, moment(device))


def moment(device: torch.device) -> Any:
    """Now, or on a GPU an event in its queue of work, which nobody waits for."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Of two moments of one device."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns in a process of its own, with as many threads as this one has."""
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=torch.set_num_threads, initargs=threads) as pool:
        return pool.submit(function, *args).result()


def _once(subject: Subject) -> dict[str, Any]:
    """What does not have to be measured again and again: sizes, operations and memory."""
    parameters = list(subject.network.parameters())
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }
    for what, call in (("train", subject.train_step), ("inference", subject.infer)):
        subject.network.zero_grad(set_to_none=True)
        found[what] = {"memory_gib": memory_gib(call, subject.conditions.device)}
        subject.network.zero_grad(set_to_none=True)
        found[what]["tensors_gib"] = tensors_gib(call, subject.conditions.device)
        found[what]["gflop"] = counted_gflop(call)
    return found


def counted_gflop(call: Callable[[], object]) -> float:
    """10^9 operations of convolutions, matrix products and attention; what is computed twice counts twice."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def memory_gib(call: Callable[[], object], device: torch.device) -> float:
    """Peak while it runs, above what was in use before: activations, and gradients of a train step.

    On a CPU it is the process's resident memory, and reads low where memory is used again that was freed before but not given back.
    """
    reset_peak_memory(device)
    before = peak_memory_gib(device)
    call()
    return peak_memory_gib(device) - before


def tensors_gib(call: Callable[[], object], device: torch.device) -> float:
    """Peak of the tensors that exist while it runs, above those before: counted, the same in every run. Without a library's own scratch."""
    if device.type == "cuda":
        return memory_gib(call, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in changes), initial=0)) / 2**30


def stages(subject: Subject) -> dict[str, float]:
    """Seconds of one train step by the module that was called, the rest of the forward pass, the loss and the backward pass; then of what
    a run does after it: optimizer and average."""
    device = subject.conditions.device
    outputs: list[Any] = []
    with watched(subject.network, device) as read:
        whole = timed(lambda: outputs.append(subject.forward()), device)
    found = read()
    found[REST] = max(whole - sum(found.values()), 0.0)
    losses: list[Tensor] = []
    found["loss"] = timed(lambda: losses.append(subject.loss(outputs[0])), device)
    found["backward"] = timed(losses[0].backward, device)
    optimizer = build_optimizer(subject.network, subject.config.optimizer)
    optimizer.step()  # the first makes its buffers
    found["optimizer"] = timed(optimizer.step, device)
    ema = Ema(subject.network, subject.config.ema.decay)
    found["average"] = timed(lambda: ema.update(subject.network), device)
    return found


@contextmanager
def watched(network: nn.Module, device: torch.device) -> Iterator[Callable[[], dict[str, float]]]:
    """What is yielded tells, afterwards, the seconds in the modules of `network` by name, down to `DEPTH`: of a module within a module that
    is timed, nothing is counted twice."""
    spans: list[tuple[str, Any, Any]] = []
    entered: list[tuple[str, Any]] = []
    handles = []

    def enter(name: str) -> None:
        entered.append((name, moment(device)))

    def leave() -> None:
        name, start = entered.pop()
        if not entered:
            spans.append((name, start, moment(device)))

    def read() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, start, end in spans:
            found[name] = found.get(name, 0.0) + seconds_between(start, end)
        return found

    for name, module in network.named_modules():
        if name and name.count(".") < DEPTH:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            handles.append(module.register_forward_hook(lambda *_: leave()))
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each network; then where the time of one train step goes."""
    lines = [
        "| network | parameters | train step | inference | ratio of both to the first | GFLOP | of the peak | memory | tensors |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, cost in found.items():
        both = [cost[what] for what in ("train", "inference")]
        cells = [
            name,
            f"{cost['parameters'] / 1e6:.1f} M",
            *(_spread(one["seconds"]) + " s" for one in both),
            ", ".join(_spread(one["of_the_first"]) for one in both),
            ", ".join(f"{one['gflop']:.1f}" for one in both),
            ", ".join(f"{100 * one['share_of_peak']:.0f} %" for one in both),
            ", ".join(f"{one['memory_gib']:.2f}" for one in both) + " GiB",
            ", ".join(f"{one['tensors_gib']:.2f}" for one in both) + " GiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, cost in found.items():
        whole = sum(taken["median"] for taken in cost["stages"].values())
        shares = {stage: {key: 100 * value / whole for key, value in taken.items()} for stage, taken in cost["stages"].items()}
        largest = sorted(shares.items(), key=lambda item: -item[1]["median"])
        lines += ["", f"{name}: " + ", ".join(f"{stage} {_spread(share)} %" for stage, share in largest if share["median"] > 0.5)]
    return "\n".join(lines)


def _spread(values: dict[str, float]) -> str:
    """The median, and half the distance of the quartiles."""
    return f"{values['median']:.3g} ± {(values['high'] - values['low']) / 2:.2g}"
