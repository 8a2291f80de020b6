"""The volume's two halves against plain loops over planes, and the soft-argmin by hand."""

import pytest
import torch
from torch.nn import functional as F

from core.cost_volume import group_correlation, score_volume, shifted_planes, soft_argmin


def plain_group_correlation(left, right, groups, planes):
    batch, channels, height, width = left.shape
    left, right = (F.normalize(x.view(batch, groups, channels // groups, height, width), dim=2) for x in (left, right))
    out = left.new_zeros(batch, groups, planes, height, width)
    for d in range(min(planes, width)):
        out[:, :, d, :, d:] = (left[..., d:] * right[..., : width - d]).sum(2)
    return out


@pytest.mark.parametrize(("width", "planes"), [(16, 8), (70, 24), (64, 16), (8, 24), (130, 104)])
def test_group_correlation_equals_a_loop_over_planes(width, planes):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, 8, 3, width, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, expected = (f(left, right, groups=4, planes=planes) for f in (group_correlation, plain_group_correlation))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((value * weights).sum(), (left, right)) for value in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_group_correlation_is_computed_in_float32_and_returned_in_the_features_dtype():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(1, 8, 2, 16, generator=generator).bfloat16() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = group_correlation(left, right, groups=2, planes=8)
    expected = plain_group_correlation(left.float(), right.float(), 2, 8)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), atol=4e-3, rtol=0)  # one rounding of values up to 1


def test_featureless_pixels_correlate_to_zero_with_a_finite_gradient():
    left = torch.zeros(1, 4, 2, 8, requires_grad=True)
    value = group_correlation(left, torch.ones(1, 4, 2, 8), groups=2, planes=4)
    value.sum().backward()
    assert not value.any()
    assert left.grad.isfinite().all()


def test_planes_are_shifted_to_the_right_and_zero_where_nothing_came_from():
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    expected = [[1, 2, 3], [0, 1, 2], [0, 0, 1], [0, 0, 0]]  # the last plane lies beyond the image
    assert shifted_planes(x, 4)[0, 0, :, 0].tolist() == expected


def test_scores_are_those_of_a_3d_convolution():
    generator = torch.Generator().manual_seed(0)
    volume, kernel = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 3, 5, 8, 9), (1, 3, 7, 7, 7)))
    inputs = volume.requires_grad_(), kernel.requires_grad_()
    found, expected = score_volume(*inputs), F.conv3d(*inputs, padding=3).squeeze(1)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)
    gradients = [torch.autograd.grad(value.square().sum(), inputs) for value in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-10)


def test_soft_argmin_is_the_expected_plane():
    scores = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).view(1, 4, 1, 1)
    assert soft_argmin(scores).item() == 0.5
    scores = torch.tensor([1.0, 3.0]).log().view(1, 2, 1, 1)
    assert soft_argmin(scores).item() == pytest.approx(0.75)


def test_soft_argmin_near_the_likeliest_plane_lies_on_one_of_two_peaks():
    probability = torch.tensor([0.02, 0.3, 0.08, 0.1, 0.4, 0.1])
    scores = probability.log().view(1, -1, 1, 1).requires_grad_()
    assert soft_argmin(scores).item() == pytest.approx(float(probability @ torch.arange(6.0)))  # 2.86: on neither
    near = soft_argmin(scores, reach=1)
    assert near.item() == pytest.approx((0.1 * 3 + 0.4 * 4 + 0.1 * 5) / 0.6)
    near.backward()
    assert scores.grad.flatten()[:3].tolist() == [0, 0, 0] and torch.isfinite(scores.grad).all() and scores.grad[0, 3] < 0
    assert soft_argmin(scores, reach=5).item() == pytest.approx(soft_argmin(scores).item())


def test_soft_argmin_with_a_start_prefers_what_is_near_it_and_leaves_it_for_what_is_much_likelier():
    scores = torch.tensor([0.0, 4.0, 3.0, 0.0, 6.0, 0.0]).view(1, 6, 1, 1)

    def found(start, cost, reach=None):
        return soft_argmin(scores, reach, torch.full((1, 1, 1, 1), start), cost).item()

    usual = soft_argmin(scores).item()
    assert found(1.6, 0.0) == pytest.approx(usual) and soft_argmin(scores, 1).item() == pytest.approx(4, abs=0.01)
    # From 1.5, plane 1 is half a plane away and plane 4 two and a half: their scores change places where that costs more than two.
    assert found(1.5, 0.9, reach=1) == pytest.approx(4, abs=0.05) and found(1.5, 1.1, reach=1) < 2
    lowered = torch.tensor([-1.5, 3.5, 2.5, -1.5, 3.5, -3.5]).softmax(0)  # of 1.5 at a cost of 1
    assert found(1.5, 1.0) == pytest.approx(float(lowered @ torch.arange(6.0)))
    assert found(-20.0, 5.0) == found(0.0, 5.0) < 1.1 and found(4.9, 5.0) == pytest.approx(4, abs=0.2)
    assert found(7.5, 1.0) == 7.5  # beyond the last plane nothing is searched


def test_soft_argmin_of_half_scores_is_float32():
    assert soft_argmin(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
