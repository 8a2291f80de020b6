"""RAFT-Stereo, beyond what every network keeps: its variants, its lookup against a plain loop, and what it refuses."""

import pytest
import torch
from torch import nn

from core import build_model
from core.correlation import Lookup
from tests.core.networks import TINIES, images, tiny_of
from tests.core.test_every_network import objective
from utils.errors import UserError

VARIANTS = {
    "one_level": {"n_gru_layers": 1},
    "two_levels_slow_fast": {"n_gru_layers": 2, "slow_fast_gru": True},
    "realtime": {"shared_backbone": True, "n_downsample": 3, "n_gru_layers": 2, "slow_fast_gru": True},
    "rvc": {"context_norm": "instance"},
    "half_size": {"n_downsample": 1, "correlation_implementation": "alt"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_all_its_parameters(variant):
    model = tiny_of("raft_stereo", **VARIANTS[variant])
    output = model(*images(height=32, width=64))
    assert output.disparities.shape == (1, 2, 32, 64)
    objective(output).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_alt_and_reg_agree_with_gradients():
    results = []
    for implementation in ("reg", "alt"):
        model = tiny_of("raft_stereo", correlation_implementation=implementation).double()
        output = model(*(view.double() for view in images(batch=2)))
        objective(output).backward()
        results.append([output.disparities.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("implementation", ["reg", "alt"])
def test_lookup_equals_a_plain_loop(implementation):
    """V[x, x'] / sqrt(C); level i read at X / 2^i + d, linear, zero outside; level by level."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(1, 4, 2, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    flow = 8 * torch.rand(1, 2, 2, 9, generator=generator, dtype=torch.float64) - 6
    found = Lookup(left / 2, right, implementation=implementation, levels=2, radius=2)(-flow[:, :1])  # sqrt(4)
    expected = torch.zeros(1, 10, 2, 9, dtype=torch.float64)
    for y in range(2):
        for x in range(9):
            line = (left[0, :, y, x, None] * right[0, :, y]).sum(0) / 2
            for level in range(2):
                for d in range(-2, 3):
                    position = (x + float(flow[0, 0, y, x])) / 2**level + d
                    low = int(torch.tensor(position).floor())
                    near = [line[i] if 0 <= i < len(line) else 0.0 for i in (low, low + 1)]
                    expected[0, 5 * level + d + 2, y, x] = near[0] * (1 - (position - low)) + near[1] * (position - low)
                line = line[: len(line) // 2 * 2].view(-1, 2).mean(1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("slow_fast", "expected"), [(False, [2, 2, 2]), (True, [2, 4, 6])])
def test_slow_fast_takes_more_steps_at_coarser_levels(slow_fast, expected):
    model = tiny_of("raft_stereo", slow_fast_gru=slow_fast).eval()
    steps = [0, 0, 0]

    def counted(level):
        def count(*_):
            steps[level] += 1

        return count

    for level, gru in enumerate(model.update.grus):
        gru.register_forward_hook(counted(level))
    with torch.no_grad():
        model(*images(), iters=2)
    assert steps == expected


def test_nothing_moves_across_rows():
    """A vertical start stays what it is, and is told to the network; what the head says of rows is ignored."""
    model = tiny_of("raft_stereo").eval()
    left, right = images()
    seen = []
    model.update.register_forward_hook(lambda _module, args, _output: seen.append(args[3]))
    start = torch.zeros(1, 2, 16, 24)
    start[:, 1] = 0.25
    with torch.no_grad():
        with_rows = model(left, right, init=start)
        without = model(left, right, init=start[:, :1])
    assert all((flow[:, 1] == -0.25).all() for flow in seen[:3]) and not any(flow[:, 1].any() for flow in seen[3:])
    assert (seen[1][:, 0] != 0).all()
    assert not torch.equal(with_rows.disparity, without.disparity)


def test_an_iteration_answers_for_its_own_step_only():
    model = tiny_of("raft_stereo")
    head = model.update.flow_head[2]
    with torch.no_grad():
        head.weight.zero_()  # no step: hidden states do not depend on the head
    model(*images(), iters=2).disparities[:, 1].sum().backward()
    second = head.bias.grad.clone()
    model.zero_grad()
    model(*images(), iters=1).disparities[:, 0].sum().backward()
    torch.testing.assert_close(second, head.bias.grad, rtol=1e-3, atol=0)


@pytest.mark.parametrize("policy", ["train", "frozen_statistics", "frozen"])
def test_batch_norm_policy(policy):
    """The published code always uses running statistics, which is our default."""
    assert build_model({"type": "raft_stereo", **TINIES["raft_stereo"]}).batch_norm == "frozen_statistics"
    model = tiny_of("raft_stereo", batch_norm=policy).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    objective(model(*images(batch=2))).backward()
    changed = [norm.running_mean.any() for norm in norms]
    assert all(changed) if policy == "train" else not any(changed)
    assert all((norm.weight.grad is None) == (policy == "frozen") for norm in norms)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_dims": [16, 32, 16]}, r"model\.hidden_dims: \[16, 32, 16\]; all widths must be equal"),
        ({"hidden_dims": [15] * 3}, r"model\.hidden_dims: .*even"),
        ({"hidden_dims": [16]}, r"model\.hidden_dims: 1 widths for n_gru_layers 3"),
        ({"n_downsample": 4}, r"model\.n_downsample"),
        ({"context_norm": "group"}, r"model\.context_norm"),
        ({"max_disp": 192}, r"model\.max_disp: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key(config, message):
    with pytest.raises(UserError, match=message):
        tiny_of("raft_stereo", **config)


def test_an_image_too_narrow_for_its_levels_is_refused():
    model = tiny_of("raft_stereo", corr_levels=4)
    with pytest.raises(UserError, match="24 pixels wide; 4 lookup levels need at least 32"):
        model(*images(height=32, width=24))
    assert model(*images(height=32, width=32)).disparities.isfinite().all()


def test_one_coarsest_pixel_has_no_batch_statistics():
    model = tiny_of("raft_stereo", batch_norm="train")
    with pytest.raises(UserError, match="single value per channel"):
        model(*images(height=16, width=16))
    model(*images(batch=2, height=16, width=16))
