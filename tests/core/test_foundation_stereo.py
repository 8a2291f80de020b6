"""FoundationStereo, beyond what every network keeps: its variants, precision, policies, and what it refuses."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from core import build_model
from tests.core.networks import TINY, images, tiny
from utils.errors import UserError


def objective(output):
    """Every output counts, no two alike."""
    weights = torch.linspace(0.5, 1.5, output.disparities.numel()).view_as(output.disparities)
    return (weights * output.disparities).mean() + output.initial.square().mean()


def test_shapes_and_iterations():
    model = tiny()
    left, right = images(batch=2)
    output = model(left, right)
    assert output.disparities.shape == (2, TINY["train_iters"], 64, 96)
    assert output.initial.shape == (2, 1, 16, 24)
    assert model(left, right, iters=4).disparities.shape[1] == 4
    model.eval()
    with torch.no_grad():
        last = model(left, right)
        assert last.disparities.shape == (2, 1, 64, 96)
        assert last.disparity.shape == (2, 64, 96)
        torch.testing.assert_close(last.disparity, model(left, right, iters=TINY["valid_iters"]).disparity, atol=0, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("feature_type", ["cnn", "dinov2"])
def test_every_parameter_gets_a_gradient(feature_type, layers):
    """With running statistics, since batch statistics cancel the bias before a batch norm; the next test has those."""
    options = {"feature_type": feature_type, "n_gru_layers": layers, "freeze_backbone": False}
    model = tiny(**options, batch_norm="frozen_statistics")
    objective(model(*images())).backward()
    assert len(list(model.parameters())) > 100
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()]
    assert not without


def test_every_parameter_gets_a_gradient_with_batch_statistics():
    model = tiny(dropout=0.1)
    objective(model(*images(batch=2))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cnn", ["resnet18", "convnext_atto"])
def test_other_cnns_serve_as_well(cnn):
    model = tiny(cnn=cnn)
    objective(model(*images(batch=2))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_alt_and_reg_agree_with_gradients():
    gradients, disparities = [], []
    for implementation in ("reg", "alt"):
        model = tiny(correlation_implementation=implementation, dropout=0.0).double()
        output = model(*(view.double() for view in images(batch=2)))
        objective(output).backward()
        disparities.append(output.disparities.detach())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*disparities, atol=1e-4, rtol=0)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_an_iteration_answers_for_its_own_step_only():
    """The disparity is detached between iterations: the first prediction's error does not reach the second's through it."""
    model = tiny()
    with torch.no_grad():
        model.update.disparity_head[4].weight.zero_()  # no step: hidden states do not depend on the head
    model(*images(), iters=2).disparities[:, 1].sum().backward()
    second = model.update.disparity_head[4].bias.grad.clone()
    model.zero_grad()
    model(*images(), iters=1).disparities[:, 0].sum().backward()
    torch.testing.assert_close(second, model.update.disparity_head[4].bias.grad, rtol=1e-3, atol=0)


def test_a_given_start_replaces_the_classifier():
    model = tiny().eval()
    left, right = images()
    with torch.no_grad():
        usual = model(left, right)
        model.classifier.forward = None  # calling it would fail
        again = model(left, right, init=usual.initial)
        other = model(left, right, init=usual.initial + 3)
    torch.testing.assert_close(again.disparity, usual.disparity, atol=0, rtol=0)
    assert (other.disparity - usual.disparity).abs().max() > 0.1


def test_planes_beyond_the_image_are_harmless():
    model = tiny(max_disp=192)
    output = model(*images(height=32, width=64))  # 48 planes, 16 columns
    objective(output).backward()
    assert output.disparities.isfinite().all()


@pytest.mark.parametrize("attention", ["tokens", "heads"])
def test_disparity_attention_axis(attention):
    """With "heads" nothing moves along disparity in the transformer; with "tokens" a change of one plane reaches all."""
    transformer = tiny(disparity_attention=attention).eval().hourglass.transformer
    patches = torch.randn(1, 8, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    changed = patches.clone()
    changed[:, :, 1] += 1
    with torch.no_grad():
        moved = (transformer.attend(changed) - transformer.attend(patches)).abs().amax((0, 1, 3, 4))
    assert moved[1] > 1e-3
    assert (moved[[0, 2, 3]] > 1e-6).all() if attention == "tokens" else not moved[[0, 2, 3]].any()


@pytest.mark.parametrize("implementation", ["reg", "alt"])
def test_bf16_autocast_is_finite_and_close(implementation):
    model = tiny(correlation_implementation=implementation, dropout=0.0, batch_norm="frozen_statistics")
    left, right = images(height=32, width=64)
    exact = model(left, right)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(left, right)
    assert half.disparities.dtype == half.initial.dtype == torch.float32
    assert (half.initial - exact.initial).abs().max() < 0.1
    assert (half.disparities - exact.disparities).abs().max() < 1.0
    objective(half).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_half_precision_leaves_no_trace():
    """The published network rounds its position code for good in its first half-precision pass; ours does not."""
    model = tiny().eval()
    left, right = images(height=32, width=64)
    with torch.no_grad():
        before = model(left, right).disparity
        with torch.autocast("cpu", torch.bfloat16):
            model(left, right)
        torch.testing.assert_close(model(left, right).disparity, before, atol=0, rtol=0)


@pytest.mark.parametrize("policy", ["train", "frozen_statistics", "frozen"])
def test_batch_norm_policy(policy):
    model = tiny(batch_norm=policy, dropout=0.1).train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.running_mean.clone() for norm in norms]
    objective(model(*images(batch=2))).backward()
    changed = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert all(changed) if policy == "train" else not any(changed)
    assert all((norm.weight.grad is None) == (policy == "frozen") for norm in norms)
    assert model.hourglass.transformer.layers[0].dropout.training  # the policy is about batch norm alone
    assert not any(module.training for module in model.eval().modules())


def test_sync_batchnorm_converts_and_keeps_its_policy():
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(tiny(batch_norm="frozen_statistics", sync_batchnorm=True))
    assert model.sync_batchnorm
    norms = [module for module in model.train().modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert norms and not any(norm.training for norm in norms)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_disp": 100}, r"model\.max_disp: 100 .* 96, 128"),
        ({"hidden_dims": [16, 32, 16]}, r"model\.hidden_dims: .* equal"),
        ({"hidden_dims": [16, 16]}, r"model\.hidden_dims: 2 widths for n_gru_layers 3"),
        ({"hidden_dims": [18] * 3}, r"model\.hidden_dims: 18 is no multiple of 4"),
        ({"volume_dim": 10}, r"model\.volume_dim: 10"),
        ({"corr_groups": 7}, r"model\.corr_groups: 7 does not divide"),
        ({"n_gru_layers": 4}, r"model\.n_gru_layers"),
        ({"context_dims": [8, 8]}, r"model\.context_dims"),
        ({"cnn": "edgenext_smal"}, r"model\.cnn: .*edgenext_small"),
        ({"cnn": "vit_tiny_patch16_224"}, r"model\.cnn: .*strides"),
        ({"cnn": "swin_tiny_patch4_window7_224"}, r"model\.cnn: "),
        ({"freeze_backbone": True}, r"model\.freeze_backbone: true, but"),
        ({"hidden_dim": 3}, r"model\.hidden_dim: unknown key; did you mean 'hidden_dims'"),
        ({"type": "foundation_stero"}, r"model: unknown model 'foundation_stero'; did you mean"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key(config, message):
    with pytest.raises(UserError, match=message):
        build_model({**TINY, **config})


def test_sizes_that_do_not_fit_are_refused_with_the_nearest_ones():
    model = tiny()
    left, right = images(height=64, width=100)
    with pytest.raises(UserError, match=r"100 x 64.* 96 x 64, 128 x 64"):
        model(left, right)
    left, right = images()
    with pytest.raises(UserError, match="same"):
        model(left, right[..., :64])
    with pytest.raises(UserError, match="iters is 0"):
        model(left, right, iters=0)
    with pytest.raises(UserError, match="init has shape"):
        model(left, right, init=torch.zeros(1, 1, 64, 96))
    with pytest.raises(UserError, match="single value per channel"):
        model(left[..., :32, :32], right[..., :32, :32])


def test_the_light_network_is_light():
    light = {"feature_type": "cnn", "cnn": "edgenext_xx_small", "hidden_dims": [32] * 3, "volume_dim": 8, "corr_groups": 4}
    model = build_model({**light, "context_dims": [16, 24, 32], "max_disp": 96})
    assert sum(p.numel() for p in model.parameters()) < 5e6
