"""The aggregation's parts against their plain twins."""

import pytest
import torch
from torch import nn

from core.hourglass import AxialConv


def gradients(function, conv, x, like):
    y = function(x)
    return [y.detach().float(), *(g.float() for g in torch.autograd.grad((y.float() * like).sum(), [x, conv.weight, conv.bias]))]


@pytest.mark.parametrize("planes", [1, 4, 13, 20])
def test_axial_convolution_is_the_three_dimensional_one(planes):
    torch.manual_seed(0)
    conv = AxialConv(8)
    x, like = torch.randn(2, 8, planes, 3, 5, requires_grad=True), torch.randn(2, 8, planes, 3, 5)
    plain = gradients(lambda x: nn.Conv3d.forward(conv, x), conv, x, like)
    for ours, twin in zip(gradients(conv, conv, x, like), plain, strict=True):
        assert ours.shape == twin.shape
        torch.testing.assert_close(ours, twin, rtol=1e-5, atol=1e-6 * float(twin.abs().max()))
    with torch.autocast("cpu", torch.bfloat16):  # fewer planes than taps: gradients of the 3-D kernel are what lay in memory before
        low = gradients(conv, conv, x, like)
    for ours, twin in zip(low, plain, strict=True):
        torch.testing.assert_close(ours, twin, rtol=0.05, atol=0.02 * float(twin.abs().max()))
