"""How much memory an update takes, told before it is taken: the step runs on tensors that have shapes and no content, on any machine.

Counted is every tensor that an operator returns, from when it is made until it is let go: the highest sum is what torch's allocator
reports of them. A GPU's memory is what is planned for, so what a kernel takes for itself while it runs is not counted, what is lost between
blocks, and the context of a GPU: `HEADROOM` is kept for them. cuDNN's convolutions take a smaller workspace where there is no room for
a larger one. Those of a CPU do not: of a small network of one sample in float32 their columns have been a third of all that was allocated.

Validation is planned apart, as it is over when a step begins: of one pair without gradients, it needs more than a step of one crop where
the pair is as large as a few crops, or as one for a network with `valid_scales` beyond 1. The coarse pass (`training.coarse_scale`) is
smaller than the step, has no gradients either, and needs less.
"""

import copy
import itertools
import logging
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from core.inference import predict_scales
from train.losses import Objective
from train.sample import StereoBatch
from train.sharding import gathered_bytes, plain, share
from train.utils import stand_in
from utils.errors import UserError

if TYPE_CHECKING:
    from train.run import Run

log = logging.getLogger("stereofoundry")

HEADROOM = 0.1  # share of the memory that is not planned with
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """What the memory of a step depends on, beside the network. size: (width, height) of the crops."""

    batch: int
    size: tuple[int, int]
    precision: str
    checkpointing: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, at the moment of an update when they are most. kept: by the forward pass for the backward pass; working: what
    is there beside that, such as what is computed anew. Of a network in shards, weights, copies, optimizer and gradients are a process's
    share; gathered: what is whole for a time beside it."""

    weights: int
    copies: int
    optimizer: int
    gradients: int
    kept: int
    working: int
    gathered: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.copies + self.optimizer + self.gradients + self.kept + self.working + self.gathered


class Planner:
    """Estimates for one run in this and in other settings. iterations: None for the network's own number; labels: of the data sets.

    fixed: averages and statistics that are kept beside the weights, in bytes. early: gradients are there from the start, as where they
    are accumulated or lie in the buckets of several processes.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        *,
        labels: Sequence[str],
        iterations: int | None = None,
        fixed: int = 0,
        early: bool = False,
    ) -> None:
        self._network, self._objective, self._labels, self._iterations = network, objective, labels, iterations
        self._early, self._fixed = early, fixed
        self._weights = _bytes(itertools.chain(network.parameters(), network.buffers()))
        self._optimizer = state_bytes(optimizer)
        self._traces: dict[Setting, Trace] = {}

    def estimate(self, setting: Setting) -> Memory:
        """The peak of an update, from its second on: the first one makes the states of the optimizer. Seconds, up to a minute for a large
        network, for each setting and for a second batch; at once for all other batches."""
        trace = self._traces[setting] if setting in self._traces else self._of_other_batches(setting)
        if trace is None:
            trace = self._traces[setting] = self._trace(setting)
        peak, gradients, kept = trace.peak()
        activations = peak - gradients
        return Memory(
            weights=self._weights,
            copies=self._fixed,
            optimizer=self._optimizer,
            gradients=gradients + (_bytes(trained(self._network)) if self._early else 0),
            kept=min(kept, activations),
            working=max(activations - kept, 0),
            gathered=gathered_bytes(self._network),
        )

    def validation(self, size: tuple[int, int], precision: str) -> int:
        """Bytes of one process where a pair of `size`, (width, height), is measured, at their most."""
        log.info("memory: the validation of %d x %d is followed on shapes", *size)
        mode, low = FakeTensorMode(allow_non_fake_inputs=True), LOW.get(precision)
        network = _without_content(plain(self._network), mode).eval()
        live = _Live([*network.parameters(), *network.buffers()])
        with mode, live, torch.no_grad(), torch.autocast("cpu", low, enabled=low is not None):
            views = [torch.empty(1, 3, size[1], size[0]) for _ in range(2)]
            # of more iterations, each takes the place of the one before
            found = predict_scales(network, *views, iters=2, scales=getattr(network, "valid_scales", (1.0,)))
        peak, _, _ = live.trace(len(live.order)).peak()
        del found
        gradients = _bytes(trained(self._network)) if self._early else 0
        return self._weights + self._fixed + self._optimizer + gradients + peak + gathered_bytes(self._network)

    def _of_other_batches(self, setting: Setting) -> "Trace | None":
        """From the last two that were traced; a batch of one may take other operators."""
        found = [(one.batch, trace) for one, trace in self._traces.items() if replace(one, batch=setting.batch) == setting]
        return None if len(found) < 2 or setting.batch == 1 else with_batch(setting.batch, *found[-2:])

    def _trace(self, setting: Setting) -> "Trace":
        log.info("memory: a step of %s is followed on shapes; of a large network that takes up to a minute", _words(setting))
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        network = _without_content(plain(self._network), mode)
        network.gradient_checkpointing = setting.checkpointing
        if self._early:
            with mode:
                for value in trained(network):
                    value.grad = torch.empty_like(value)
        early = [value.grad for value in network.parameters() if value.grad is not None]
        live = _Live([*network.parameters(), *network.buffers(), *early])
        low = LOW.get(setting.precision)
        with mode, live:
            for value in [] if self._early else trained(network):
                value.register_post_accumulate_grad_hook(live.is_gradient)
            batch = self._batch(setting)
            with torch.autocast("cpu", low, enabled=low is not None):
                output = network(batch.left, batch.right, iters=self._iterations)
            loss, _ = self._objective(output, batch)
            forward = len(live.order)
            loss.backward()
        return live.trace(forward)

    def largest_batch(self, setting: Setting, limit: float) -> int:
        """Samples of a forward pass that stay below `limit` bytes, the most of them to a hundredth; 0 when one does not.

        Each sample adds nearly the same: a line through two estimates says where to look next.
        """

        def excess(batch: int) -> float:
            return self.estimate(replace(setting, batch=batch)).total - limit

        low, high = (2, excess(2)), (3, excess(3))  # of one, batch norm may refuse the crop
        if low[1] > 0:
            return 1 if low[1] <= high[1] - low[1] else 0
        while high[1] <= 0:  # on to a batch that does not fit
            beyond = max(_crossing(low, high), high[0]) + 1
            low, high = high, (beyond, excess(beyond))
        turn = 0
        while high[0] - low[0] > max(1, low[0] // 100):
            turn += 1
            guess = _crossing(low, high) if turn % 3 else (low[0] + high[0]) // 2  # a line that bends would move one end alone
            middle = min(max(guess, low[0] + 1), high[0] - 1)
            found = (middle, excess(middle))
            low, high = (low, found) if found[1] > 0 else (found, high)
        return low[0]

    def _batch(self, setting: Setting) -> StereoBatch:
        width, height = setting.size
        labels = [self._labels[i % len(self._labels)] for i in range(setting.batch)]
        left, right = (torch.empty(setting.batch, 3, height, width) for _ in range(2))
        disparity = torch.empty(setting.batch, height, width)
        names = [""] * setting.batch
        return StereoBatch(left, right, disparity, torch.empty_like(disparity, dtype=torch.bool), names, names, labels)


def _crossing(low: tuple[int, float], high: tuple[int, float]) -> int:
    """Where the line through two points (batch, excess) has none."""
    return int(low[0] - low[1] * (high[0] - low[0]) / (high[1] - low[1]))


@dataclass(frozen=True)
class Trace:
    """Storages of a step in the order in which they are made and let go.

    order: (N,) the number of a storage that is made, ~number where it is let go. sizes: (S,) bytes, by number. gradients: (S,) bytes that
    are gradients when it is made. forward: entries before the backward pass.
    """

    order: np.ndarray
    sizes: np.ndarray
    gradients: np.ndarray
    forward: int

    def peak(self) -> tuple[int, int, int]:
        """Bytes: the highest sum, how much of it is gradients, and what there is before the backward pass."""
        made = self.order >= 0
        now = np.cumsum(np.where(made, 1, -1) * self.sizes[np.where(made, self.order, ~self.order)])
        at = int(now.argmax())
        return int(now[at]), int(self.gradients[self.order[at]]), int(now[self.forward - 1])


def with_batch(batch: int, first: tuple[int, Trace], second: tuple[int, Trace]) -> Trace | None:
    """The trace of another batch from two (batch, trace), since every storage has the batch as one factor or not at all. None where they
    differ in more than sizes, or sizes otherwise, as where a batch is shared among several label types."""
    (few, one), (many, other) = first, second
    if one.forward != other.forward or not all(
        np.array_equal(*pair) for pair in ((one.order, other.order), (one.gradients, other.gradients))
    ):
        return None
    growth, rest = np.divmod(other.sizes - one.sizes, many - few)
    fixed = one.sizes - few * growth
    if rest.any() or (growth < 0).any() or (fixed < 0).any():
        return None
    return replace(one, sizes=fixed + batch * growth)


class _Live(TorchDispatchMode):
    """Writes down the storages that are made inside, for a `Trace`. before: tensors that are there already; operators hand out views."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.order: list[int] = []
        self.sizes: list[int] = []
        self.gradients: list[int] = []
        self._gradients = 0
        self._before = [value.untyped_storage() for value in before]  # kept, so that no other gets the same id
        self._seen = {id(storage) for storage in self._before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked twice for every operator
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._made(value.untyped_storage())
        return result

    def is_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._gradients += parameter.grad.untyped_storage().nbytes()

    def trace(self, forward: int) -> Trace:
        """forward: see there. What is let go at once, as by autocast's cache, comes by number: its own order is not the same each time."""
        order = np.array(self.order)
        turn = np.lexsort((np.maximum(-order, 0), (order >= 0).cumsum(), np.arange(len(order)) >= forward))
        return Trace(order[turn], np.array(self.sizes), np.array(self.gradients), forward)

    def _made(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._seen:
            return
        self._seen.add(id(storage))
        number = len(self.sizes)
        self.order.append(number)
        self.sizes.append(storage.nbytes())
        self.gradients.append(self._gradients)
        weakref.finalize(storage, self._gone, id(storage), number)

    def _gone(self, key: int, number: int) -> None:
        self._seen.discard(key)
        self.order.append(~number)


def _without_content(network: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The network with parameters and buffers that are shapes alone, and without what accelerate has put around its forward pass."""
    memo: dict[int, Any] = {id(value): mode.from_tensor(value.detach().cpu()) for value in network.buffers()}
    for value in network.parameters():
        memo[id(value)] = nn.Parameter(mode.from_tensor(torch.empty_like(value, device="cpu")), requires_grad=value.requires_grad)
    found = copy.deepcopy(network, memo)
    found.__dict__.pop("forward", None)
    return found


def state_bytes(optimizer: Optimizer) -> int:
    """What an optimizer keeps for its parameters, by what it keeps for a small stand-in."""
    trial, side = stand_in(optimizer, 64), 64
    for group in trial.param_groups:
        group["params"][0].grad = torch.zeros(side, side)
    trial.step()
    total = 0
    for group, small in zip(optimizer.param_groups, trial.param_groups, strict=True):
        kept = _bytes(entry for entry in trial.state[small["params"][0]].values() if isinstance(entry, Tensor))
        total += sum(map(share, group["params"])) * kept // side**2
    return total


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [value for value in network.parameters() if value.requires_grad]


def _bytes(values: Iterable[Tensor]) -> int:
    return sum(share(value) * value.element_size() for value in values)


# ---- what a run is told -----------------------------------------------------------------------------------------------------------------


def planner_of(run: "Run") -> Planner:
    """For the run as it is on one process."""
    return Planner(
        run.network,
        run.objective,
        run.optimizer.optimizer,
        labels=[source.label_type for source in run.mix.sources],
        iterations=run.config.training.iterations,
        fixed=_copies(run),
        early=run.options.gradient_accumulation_steps > 1 or run.accelerator.num_processes > 1,
    )


def _copies(run: "Run") -> int:
    """Averages, and the statistics of the last good update."""
    return _bytes(run.network.buffers()) + (0 if run.ema is None else _bytes(run.ema.module.state_dict().values()))


def setting_of(run: "Run") -> Setting:
    """With the largest crop."""
    options = run.options
    size = max(run.config.data.image_sizes, key=lambda size: size[0] * size[1])
    return Setting(options.batch_size_forward, size, options.precision, options.enable_gradient_checkpointing)


def usable_bytes(run: "Run") -> float | None:
    """What a process may plan with, the same on all: of `--memory_gb`, else of what its device has for it; None where nobody knows."""
    if run.options.memory_gb is not None:
        return run.options.memory_gb * GIB * (1 - HEADROOM)
    found = [size for size in gather_object([available_bytes(run)]) if size is not None]
    return min(found) * (1 - HEADROOM) if found else None


def available_bytes(run: "Run") -> int | None:
    """Of a GPU what is free, of a CPU this process's share of it, None outside Linux; with what the run holds of either already."""
    device = run.accelerator.device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = min([int(lines["MemAvailable"].split()[0]) * 1024, *_container_limits()])
    except (OSError, LookupError, ValueError):
        return None
    return free // run.accelerator.num_processes + _bytes(run.network.state_dict().values()) + _copies(run)


def _container_limits() -> Iterator[int]:
    """What a control group leaves free, version 2 and 1; "max" is no number."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            yield int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
        except (OSError, ValueError):
            continue


def _words(setting: Setting) -> str:
    width, height = setting.size
    return f"{setting.batch} x {width} x {height}, {setting.precision}, gradient checkpointing {'on' if setting.checkpointing else 'off'}"


def memory_table(setting: Setting, found: Memory, usable: float | None, largest: int | None) -> list[str]:
    """Lines for people. largest: batch that fits."""
    rows = {
        "weights": found.weights,
        "averages and statistics": found.copies,
        "optimizer": found.optimizer,
        "gradients, at the peak": found.gradients,
        "kept for backward": found.kept,
        "working memory": found.working,
        **({"gathered of the shards": found.gathered} if found.gathered else {}),
        "peak": found.total,
    }
    lines = [
        f"memory of a process, estimated ({_words(setting)})",
        *(f"  {name:<32} {size / GIB:>9.2f} GiB" for name, size in rows.items()),
    ]
    if usable is not None:
        lines.append(f"  {'can be used':<32} {usable / GIB:>9.2f} GiB, and {HEADROOM:.0%} more are left for kernels and fragmentation")
    return lines if largest is None else [*lines, f"  {'largest --batch_size_forward':<32} {largest:>9}"]


def validation_line(run: "Run", planner: Planner, usable: float | None) -> str:
    """What validation needs, of the largest of the pairs that are known without reading them all: the first of every data set."""
    size = run.config.validation.size
    if size is None:
        first = {run.held.name(position): position for position in reversed(range(len(run.held)))}
        height, width = max((run.held.load(position).disparity.shape for position in first.values()), key=math.prod)
        size = width, height
    name = f"validation, 1 x {size[0]} x {size[1]}"
    try:
        needed = planner.validation(size, run.options.precision)
    except RuntimeError as error:  # NotImplementedError is one
        return f"  {name:<32} not estimated: {str(error).splitlines()[0]}"
    found = f"  {name:<32} {needed / GIB:>9.2f} GiB"
    return found if usable is None or needed <= usable else f"{found}, more than can be used; validation.size makes it smaller"


def check_memory(planner: Planner, setting: Setting, found: Memory, usable: float) -> None:
    """Raises UserError for a run that needs more than `usable` bytes, with what would fit; each alternative is estimated, not guessed."""
    if found.total <= usable:
        return
    changes: list[tuple[str, dict[str, Any]]] = []
    if not setting.checkpointing:
        changes.append(("--enable_gradient_checkpointing true", {"checkpointing": True}))
    if setting.precision == "fp32":
        changes.append(("--precision bf16", {"precision": "bf16"}))
    ways = []
    if largest := planner.largest_batch(setting, usable):
        ways.append(f"--batch_size_forward {largest} with more --gradient_accumulation_steps")
    for name, change in changes:
        needed = planner.estimate(replace(setting, **change)).total
        if needed <= usable:
            ways.append(f"{name} ({needed / GIB:.2f} GiB)")
    if not ways and changes:
        every = replace(setting, **{key: value for _, change in changes for key, value in change.items()})
        if largest := planner.largest_batch(every, usable):
            ways.append(" ".join([*(name for name, _ in changes), f"--batch_size_forward {min(largest, setting.batch)}"]))
    width, height = setting.size
    raise UserError(
        f"memory: {setting.batch} x {width} x {height} in {setting.precision} needs about {found.total / GIB:.2f} GiB per process, and "
        f"{usable / GIB:.2f} can be used; what fits: {'; or '.join(ways) or 'smaller crops (data.image_sizes), fewer iterations'}"
    )


def estimate_or_warn(planner: Planner, setting: Setting) -> Memory | None:
    """None, and a warning, for a network with an operator that has no form without content."""
    try:
        return planner.estimate(setting)
    except RuntimeError as error:  # NotImplementedError is one
        log.warning("memory: cannot be estimated (%s); the run goes on", str(error).splitlines()[0])
        return None


def check_run(run: "Run") -> None:
    """Before the first step: where the memory is said (`--memory_gb`) or that of a GPU, a UserError if it cannot be enough."""
    if run.options.memory_gb is None and run.accelerator.device.type != "cuda":
        return
    usable, setting = usable_bytes(run), setting_of(run)
    planner = planner_of(run)
    found = estimate_or_warn(planner, setting)
    if found is None:
        return
    assert usable is not None
    if run.accelerator.is_main_process:
        log.info("memory: about %.2f GiB per process, %.2f can be used; --dry_run says where it goes", found.total / GIB, usable / GIB)
    check_memory(planner, setting, found, usable)
