"""The U-Net, beyond what every network keeps: the ranges of what it says, and that its doubt is where its errors are."""

import pytest
import torch
from torch import nn

from core.unet import LOG_VARIANCE
from tests.core.networks import images, tiny_of
from utils.errors import UserError


def test_what_it_says_stays_in_range():
    """However large the activations: disparity between 0 and max_disp, a variance that the loss can divide by."""
    model = tiny_of("unet").eval()
    with torch.no_grad():
        for sign in (-1, 1):
            model.head.bias.fill_(sign * 1e4)
            output = model(*images())
            assert (output.disparity == (32 if sign > 0 else 0)).all()
            assert (output.log_variance == LOG_VARIANCE[sign > 0]).all()
            assert output.log_variance.neg().exp().isfinite().all()


def test_it_sees_which_eye_is_which():
    model = tiny_of("unet").eval()
    left, right = images()
    with torch.no_grad():
        assert not torch.equal(model(left, right).disparity, model(right, left).disparity)


def test_its_doubt_is_where_its_errors_are():
    """Ground truth that is noise of 8 pixels on the right half: the variance there becomes larger than on the left half."""
    model = tiny_of("unet")
    left, right = images(batch=2, height=32, width=64)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        truth = torch.full((2, 32, 64), 10.0)
        truth[..., 32:] += 16 * torch.rand(2, 32, 32, generator=generator) - 8
        output = model(left, right)
        error = (output.disparity - truth).square()
        loss = (error * torch.exp(-output.log_variance) + output.log_variance).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    halves = output.log_variance.detach().chunk(2, 2)
    assert halves[1].mean() - halves[0].mean() > 2


@pytest.mark.parametrize("policy", ["train", "frozen_statistics", "frozen"])
def test_batch_norm_policy(policy):
    model = tiny_of("unet", batch_norm=policy).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model(*images(batch=2)).disparities.mean().backward()
    changed = [norm.running_mean.any() for norm in norms]
    assert all(changed) if policy == "train" else not any(changed)
    assert all((norm.weight.grad is None) == (policy == "frozen") for norm in norms)


def test_one_coarsest_pixel_has_no_batch_statistics():
    with pytest.raises(UserError, match="single value per channel"):
        tiny_of("unet")(*images(height=16, width=16))
