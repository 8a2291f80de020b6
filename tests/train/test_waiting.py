"""An update waits for the device once, where it asks whether the gradient is finite: everything else is queued ahead of it.

On a CPU nothing waits, but the same calls are made: those that read a value back are counted where Python makes them, and where an operator
of torch does. On a GPU torch itself raises at each.
"""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from core import MODELS
from tests.scripts.tiny import tiny_run
from train import loop
from train.loop import update

# Methods that hand a value, or a size that depends on values, to the host; and operators that do so inside of others.
METHODS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__contains__"}
OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "repeat_interleave", "bincount"}
FROM_HOST = {"lift_fresh"}  # torch.tensor(...): a copy from memory that is not pinned


class Methods(TorchFunctionMode):
    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := getattr(func, "__name__", "")) in METHODS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith("index") and any(index is not None and index.dtype == torch.bool for index in indices(args)):
            name = "nonzero"  # which it calls below what can be seen from here
        if name in OPERATORS | FROM_HOST:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def indices(args):
    return next((arg for arg in args if isinstance(arg, list | tuple)), ())


@contextmanager
def watched():
    """Counts of the calls that would wait for a GPU."""
    found: Counter[str] = Counter()
    with Methods(found), Operators(found):
        yield found


@pytest.fixture
def counted(monkeypatch):
    """counted(run): what is asked for in its second update. Loading is left out: on the way to a GPU it happens in other processes."""

    def count(run):
        update(run, 0)  # builds the states of the optimizer
        batches = list(run.loader.batches(1))
        monkeypatch.setattr(run.loader, "batches", lambda step: iter(batches))
        with watched() as found:
            update(run, 1)
        assert run.ema is not None and run.ema.num_updates == 2
        return found

    return count


ONCE = {"tolist": 1}  # `loop.are_finite`


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_asks_once_whether_its_gradient_is_finite_and_reads_nothing_else(build, counted, kind, checkpointing):
    options = {"batch_size_forward": 2, "gradient_accumulation_steps": 2, "enable_gradient_checkpointing": checkpointing}
    assert counted(build(config=tiny_run(kind), **options)) == ONCE


def test_two_label_types_in_a_batch_are_told_apart_on_the_host(build, counted):
    config = tiny_run("unet")
    other = {**config["data"]["datasets"][0], "name": "other", "label_type": "sparse"}
    config["data"] = {**config["data"], "datasets": [*config["data"]["datasets"], other]}
    config["loss"] = {**config["loss"], "sparse": {"epe": {"function": "epe_loss"}, "smooth": {"function": "gradient_loss"}}}
    assert counted(build(config=config, batch_size_forward=4, gradient_accumulation_steps=3)) == ONCE


def test_what_reads_a_value_is_seen():
    values = torch.arange(4.0)
    with watched() as found:
        values.sum().item(), values.tolist(), values[values > 1], bool(values.any()), torch.tensor([1.0])
    assert found == {"item": 1, "tolist": 1, "nonzero": 1, "__bool__": 1, "lift_fresh": 1, "_local_scalar_dense": 2}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_sees_no_other_wait_on_a_gpu(build, monkeypatch, kind, precision):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    asked, are_finite = [], loop.are_finite

    def allowed(*values):
        torch.cuda.set_sync_debug_mode("default")
        asked.append(are_finite(*values))
        torch.cuda.set_sync_debug_mode("error")
        return asked[-1]

    run = build(config=tiny_run(kind), batch_size_forward=2, gradient_accumulation_steps=2, precision=precision)
    update(run, 0)
    monkeypatch.setattr(loop, "are_finite", allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(run, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert asked == [[True] * 3]  # of the gradient, and of two losses
