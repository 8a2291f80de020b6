"""Gradient checkpointing changes no number and no key, and does save memory."""

from collections import Counter

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from core.checkpointing import CONVOLUTION, statistics_kept
from core.foundation_stereo import SAVING
from tests.core.networks import images, tiny

OF_PART = {  # how the names begin of the modules that each part computes again
    "backbone": {"backbone.cnn", "backbone.fuse"},
    "context": {"context.conv", "context.norm", "context.stages"},
    "volume": {"cost_volume.gate", "cost_volume.stem"},
    "aggregation": {
        *(f"hourglass.{name}{scale}" for name in ("down", "gate") for scale in (8, 16, 32)),
        *(f"hourglass.{name}{scale}" for name in ("up", "merge", "gate_merged") for scale in (8, 16)),
        *("hourglass.up4", "hourglass.out", "hourglass.transformer", "classifier.block", "classifier.conv"),
    },
    "iterations": {"update", "update.disparity_head", "update.grus", "update.motion"},
    "upsampling": {"update.mask_head", "upsample", "upsample.up", "upsample.weights"},
}


def run(model, *, enabled, dtype=None):
    """Outputs, gradients and buffers after one training step with dropout."""
    model.gradient_checkpointing = enabled
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(*images(batch=2, height=32, width=64), iters=2)
        loss = output.disparities.square().mean() + output.initial.square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [output.disparities.detach(), output.initial.detach()], gradients, dict(model.named_buffers()), torch.get_rng_state()


def assert_same(plain, saving):
    """Two results of `run`, to the bit."""
    for one, two in zip(plain[0], saving[0], strict=True):
        assert torch.equal(one, two)
    for kind in (1, 2):
        assert plain[kind].keys() == saving[kind].keys()
        different = [name for name in plain[kind] if not torch.equal(plain[kind][name], saving[kind][name])]
        assert not different
    assert torch.equal(plain[3], saving[3])  # and the next random number is the same


@pytest.mark.parametrize(
    ("batch_norm", "dtype", "implementation"),
    [
        ("train", None, "reg"),
        ("train", None, "alt"),
        ("frozen_statistics", None, "alt"),
        ("train", torch.bfloat16, "alt"),
        ("frozen_statistics", torch.bfloat16, "reg"),
    ],
)
def test_no_number_changes(batch_norm, dtype, implementation):
    options = {"batch_norm": batch_norm, "dropout": 0.5, "correlation_implementation": implementation}
    plain, saving = (run(tiny(**options), enabled=enabled, dtype=dtype) for enabled in (False, True))
    assert_same(plain, saving)


def test_no_number_changes_with_a_trained_vit():
    options = {"feature_type": "dinov2", "freeze_backbone": False, "hidden_dims": [16], "n_gru_layers": 1}
    plain, saving = (run(tiny(**options), enabled=enabled) for enabled in (False, True))
    assert all(torch.equal(plain[1][name], saving[1][name]) for name in plain[1])
    assert any(name.startswith("backbone.monocular.vit.blocks") for name in plain[1])


class Convolutions(TorchDispatchMode):
    """Counts those that are computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is CONVOLUTION
        return func(*args, **(kwargs or {}))


def observed(dtype, *, checkpointing=None):
    """What a step gives, how often each module ran in it, and how many convolutions it computed."""
    model = tiny(hidden_dims=[16], n_gru_layers=1, dropout=0.5, checkpointing=checkpointing)
    calls = Counter()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    with Convolutions() as convolutions:
        found = run(model, enabled=checkpointing is not None, dtype=dtype)
    return found, calls, convolutions.count


@pytest.fixture(scope="module")
def unsaved():
    return {dtype: observed(dtype) for dtype in (None, torch.bfloat16)}


@pytest.mark.parametrize(("level", "dtype"), [("cheap", torch.bfloat16), ("all", None)])
@pytest.mark.parametrize("part", list(SAVING))
def test_each_part_is_computed_again_alone_and_no_number_changes(unsaved, part, level, dtype):
    numbers, calls, convolutions = unsaved[dtype]
    its_numbers, its_calls, its_convolutions = observed(dtype, checkpointing={part: level})
    assert_same(numbers, its_numbers)
    assert {".".join(name.split(".")[:2]) for name in its_calls if its_calls[name] > calls[name]} == OF_PART[part]
    assert its_convolutions == convolutions if level == "cheap" else its_convolutions > convolutions


def test_running_statistics_are_updated_once():
    model = tiny()
    run(model, enabled=True)
    counts = {int(module.num_batches_tracked) for module in model.modules() if isinstance(module, _BatchNorm)}
    assert counts == {1}


def test_no_key_changes_and_the_switch_works_at_any_time():
    model = tiny()
    keys = list(model.state_dict())
    model.gradient_checkpointing = True
    assert list(model.state_dict()) == keys
    assert model.context.checkpointing == "cheap"
    model.gradient_checkpointing = False
    assert model.context.checkpointing == "none"
    assert tiny(gradient_checkpointing=True).gradient_checkpointing


def test_memory_held_for_backward_shrinks():
    def held(enabled):
        model = tiny(gradient_checkpointing=enabled)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, tuple[torch.Tensor, int]] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = (tensor, storage.nbytes())  # the tensor is kept, so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*images(), iters=6)
        return sum(size for _, size in seen.values())

    assert held(True) < 0.5 * held(False)


def test_evaluation_is_not_touched():
    model = tiny(gradient_checkpointing=True).eval()
    with torch.no_grad():
        assert model(*images()).disparity.grad_fn is None


def test_statistics_are_kept_inside_and_released_after():
    norm = torch.nn.BatchNorm2d(2)
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    with statistics_kept((norm,)):
        inside = norm(x)
    assert not norm.running_mean.any() and norm.num_batches_tracked == 0
    assert torch.equal(norm(x), inside)  # the batch's statistics both times
    assert norm.running_mean.any() and norm.num_batches_tracked == 1
