"""An update waits for the device once, where it asks whether the gradient is finite: everything else is queued ahead of it.

On a CPU nothing waits, but the same calls are made: those that read a value back are counted where Python makes them, and where an operator
of torch does. Copies between the two are seen on tensors that have a device and no content. On a GPU torch itself raises at each.
"""

from collections import Counter
from contextlib import contextmanager
from operator import attrgetter

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from core import MODELS, build_model, correlation
from tests.core.networks import bf16_of
from tests.scripts.tiny import ROOT, tiny_run
from train import loop
from train.loop import update
from train.losses import INVALID, Objective
from train.metrics import MetricSums
from train.run import TRAIN_METRICS
from train.run_file import load_config
from train.sample import StereoBatch

# Methods that hand a value, or a size that depends on values, to the host; and operators that do so inside of others.
METHODS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "__contains__"}
OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "repeat_interleave", "bincount"}
FROM_HOST = {"lift_fresh"}  # torch.tensor(...): a copy from memory that is not pinned


class Methods(TorchFunctionMode):
    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in METHODS or (name == "to" and "cpu" in args):
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
    with pytest.MonkeyPatch.context() as patch, Methods(found), Operators(found):
        patch.setattr(torch.cuda, "synchronize", lambda device=None: found.update(["synchronize"]))
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
@pytest.mark.parametrize(("precision", "checkpointing"), [("fp32", False), ("bf16", True)])
def test_an_update_asks_once_whether_its_gradient_is_finite_and_reads_nothing_else(build, counted, kind, precision, checkpointing):
    options = {"batch_size_forward": 2, "gradient_accumulation_steps": 2, "enable_gradient_checkpointing": checkpointing}
    assert counted(build(config=tiny_run(kind), precision=precision, **options)) == ONCE


@pytest.mark.parametrize("kind", ["foundation_stereo", "raft_stereo", "crestereo"])
def test_a_coarse_start_waits_for_nothing(build, counted, kind):
    needed = ["model.start_cost=0.5", "model.initial_reach=null"] if kind == "foundation_stereo" else []
    assert counted(build("training.coarse_scale=0.5", *needed, config=tiny_run(kind), batch_size_forward=2)) == ONCE


def test_two_label_types_in_a_batch_are_told_apart_on_the_host(build, counted):
    config = tiny_run("unet")
    other = {**config["data"]["datasets"][0], "name": "other", "label_type": "sparse"}
    config["data"] = {**config["data"], "datasets": [*config["data"]["datasets"], other]}
    config["loss"] = {**config["loss"], "sparse": {"epe": {"function": "epe_loss"}, "smooth": {"function": "gradient_loss"}}}
    assert counted(build(config=config, batch_size_forward=4, gradient_accumulation_steps=3)) == ONCE


def test_what_reads_a_value_is_seen():
    values = torch.arange(4.0)
    with watched() as found:
        values.sum().item(), values.tolist(), values[values > 1], bool(values.any()), torch.tensor([1.0]), values.to("cpu")
        torch.cuda.synchronize()
    once = dict.fromkeys(["item", "tolist", "nonzero", "__bool__", "lift_fresh", "to", "synchronize"], 1)
    assert found == {**once, "_local_scalar_dense": 2}


class Copies(TorchDispatchMode):
    """Counts the copies between host and device that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        devices = {value.device.type for value in tree_iter((args, kwargs, result)) if isinstance(value, Tensor)}
        if func.overloadpacket.__name__ in {"_to_copy", "copy_"} and len(devices) > 1 and not kwargs.get("non_blocking"):
            self.found[func.overloadpacket.__name__] += 1
        return result


SAME = {"crestereo_finetune", "light_second", "light_third"}  # networks and losses of others here


@pytest.fixture
def on_gpu(monkeypatch):
    """In `with on_gpu` tensors have shapes and a device, and no content. No kernels of Triton: they are compiled by what there is not."""
    monkeypatch.setattr(correlation, "_proven_kernels", lambda device: correlation.VECTORISED)
    with bf16_of("cuda"):
        yield FakeTensorMode()


@pytest.mark.parametrize(
    "path", [path for path in sorted((ROOT / "configs/train").iterdir()) if path.stem not in SAME], ids=attrgetter("stem")
)
def test_no_copy_between_host_and_gpu_holds_a_shipped_configuration_up(on_gpu, path):
    """From the loader's batch to the loss and the metrics: what the backward pass does, it does where those were."""
    config = load_config(path)
    with torch.device("meta"):
        network = build_model(config.model, with_pretrained=False)
    network.gradient_checkpointing = True
    with on_gpu:
        values = {
            key: torch.empty(value.shape, dtype=value.dtype, device="cuda", requires_grad=value.requires_grad)
            for key, value in (*network.named_parameters(), *network.named_buffers())
        }
        batch = StereoBatch(
            *(torch.empty(2, 3, 64, 96, dtype=torch.uint8) for _ in range(2)),
            disparity=torch.empty(2, 64, 96),
            valid=torch.empty(2, 64, 96, dtype=torch.bool),
            keys=["a", "b"],
            datasets=["x", "y"],
            label_types=[label for label in config.loss if label != INVALID][:1] * 2,
        )
        objective, metrics = Objective(config.loss), MetricSums(["x", "y"], TRAIN_METRICS, device="cuda")
        with Copies() as copies:
            batch = batch.to("cuda")
            output = torch.func.functional_call(network, values, (batch.left, batch.right), {"iters": 2})
            loss, _ = objective(output, batch)
            metrics.add(output.disparity.detach(), batch.disparity, batch.valid, batch.datasets)
    assert loss.device.type == "cuda" and not copies.found


def test_a_copy_that_holds_up_is_seen(on_gpu):
    with on_gpu, Copies() as copies:
        here = torch.empty(3)
        there = here.to("cuda", non_blocking=True)
        assert not copies.found
        there.copy_(here), there.cpu(), there.to("cpu"), here.to("cuda")
    assert copies.found == {"copy_": 1, "_to_copy": 3}


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
