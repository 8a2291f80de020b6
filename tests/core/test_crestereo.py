"""CREStereo, beyond what every network keeps: its correlation by hand, its levels, its attention, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from core.crestereo import LINE, SQUARE, GroupCorrelation, resize_flow, sample
from core.crestereo_attention import LinearAttentionLayer, linear_attention, position_encoding, positive
from core.inference import cascade
from tests.core.networks import images, tiny_of
from utils.errors import UserError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(image, x, y):
    """(C, h, w) at one position, bilinear, zero outside."""
    left, top = int(torch.tensor(x).floor()), int(torch.tensor(y).floor())
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total = total + weight_y * weight_x * image[:, row, column]
    return total


def test_samples_by_hand():
    image = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]], dtype=torch.float64)
    for x, y, expected in ((0.0, 0.0, 1.0), (0.5, 0.0, 2.0), (0.5, 0.5, 4.0), (1.5, 1.0, 3.5), (-0.25, 0.0, 0.75), (2.0, 0.0, 0.0)):
        position = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (x, y))
        assert sample(image, *position).item() == pytest.approx(expected), (x, y)


@pytest.mark.parametrize("window", [LINE, SQUARE], ids=["line", "square"])
def test_deformed_correlation_equals_a_plain_loop(window):
    left, right, shifts = random(1, 4, 3, 5), random(1, 4, 3, 5, seed=1), random(1, 18, 3, 5, seed=2).tanh()
    flow = 2 * random(1, 2, 3, 5, seed=3)
    found = GroupCorrelation(left, right, shifts, groups=2)(flow, window)
    for y in range(3):
        for x in range(5):
            for k, (dy, dx) in enumerate(window):
                position = flow[0, :, y, x] + shifts[0, 2 * k : 2 * k + 2, y, x]
                value = left[0, :, y, x] * read(right[0], x + dx + float(position[0]), y + dy + float(position[1]))
                expected = value.view(2, 2).mean(1)  # groups
                torch.testing.assert_close(found[0, [k, 9 + k], y, x], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("window", [LINE, SQUARE], ids=["line", "square"])
def test_fixed_correlation_looks_around_in_the_warped_map(window):
    """Neighbours are warped by their own flow, and the border repeats: not what sampling at shifted positions gives."""
    left, right, flow = random(1, 4, 3, 5), random(1, 4, 3, 5, seed=1), 2 * random(1, 2, 3, 5, seed=3)
    found = GroupCorrelation(left, right, None, groups=2)(flow, window)
    for y in range(3):
        for x in range(5):
            for k, (dy, dx) in enumerate(window):
                row, column = min(max(y + dy, 0), 2), min(max(x + dx, 0), 4)
                warped = read(right[0], column + float(flow[0, 0, row, column]), row + float(flow[0, 1, row, column]))
                expected = (left[0, :, y, x] * warped).view(2, 2).mean(1)
                torch.testing.assert_close(found[0, [k, 9 + k], y, x], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("window", [LINE, SQUARE], ids=["line", "square"])
def test_fixed_correlation_has_the_value_and_gradient_of_a_map_whose_border_is_repeated(window):
    left, right, flow, grad = random(2, 4, 3, 5), random(2, 4, 3, 5, seed=1), 2 * random(2, 2, 3, 5, seed=3), random(2, 18, 3, 5, seed=4)
    right.requires_grad_()
    columns, rows = torch.arange(5.0, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)[:, None]
    margin_y, margin_x = window[-1]
    border = (margin_x, margin_x, margin_y, margin_y)
    padded = F.pad(sample(right, columns + flow[:, 0], rows + flow[:, 1]), border, mode="replicate")
    parts = [padded[..., margin_y + dy : margin_y + dy + 3, margin_x + dx : margin_x + dx + 5] for dy, dx in window]
    expected = torch.stack([(left * part).unflatten(1, (2, 2)).mean(2) for part in parts], 2).flatten(1, 2)
    found = GroupCorrelation(left, right, None, groups=2)(flow, window)
    assert torch.equal(found, expected)
    gradients = (torch.autograd.grad(value, right, grad)[0] for value in (found, expected))
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_the_kernel_of_attention_is_elu_and_one_with_the_same_gradient():
    x = torch.tensor([-800.0, -3.0, -1e-9, -0.0, 0.0, 1e-9, 3.0, 800.0], dtype=torch.float64, requires_grad=True)
    values = positive(x), F.elu(x) + 1
    torch.testing.assert_close(*values, atol=1e-15, rtol=1e-15)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), x)[0] for value in values), atol=0, rtol=1e-15)


def test_linear_attention_is_attention_with_another_kernel():
    """Weights phi(q) . phi(k), normalised over the source tokens; phi = elu + 1."""
    query, key, value = random(2, 3, 2, 4), random(2, 5, 2, 4, seed=1), random(2, 5, 2, 4, seed=2)
    scores = torch.einsum("bnhc,bshc->bhns", F.elu(query) + 1, F.elu(key) + 1)
    expected = torch.einsum("bhns,bshd->bnhd", scores / scores.sum(3, keepdim=True), value)
    torch.testing.assert_close(linear_attention(query, key, value), expected, atol=1e-6, rtol=0)


def test_position_code_is_the_same_wherever_the_image_ends():
    small, large = (position_encoding(16, height, width, like=torch.zeros(())) for height, width in ((3, 4), (6, 9)))
    assert torch.equal(small, large[:, :3, :4])


def test_the_order_of_attention_counts():
    """The right image attends to what the left one has become."""
    model = tiny_of("crestereo")
    calls = []
    model.cross_attention.register_forward_hook(lambda _module, args, output: calls.append((args, output)))
    with torch.no_grad():
        model(*images())
    assert torch.equal(calls[1][0][1], calls[0][1])


def test_attention_layer_adds_to_its_token():
    layer = LinearAttentionLayer(8, 2).double()
    with torch.no_grad():
        layer.output_norm.weight.zero_()
    tokens, source = random(1, 3, 8), random(1, 4, 8, seed=1)
    assert torch.equal(layer(tokens, source), tokens)


@pytest.mark.parametrize(("iters", "expected"), [(2, 4), (5, 9), (10, 20)])
def test_levels_take_half_the_iterations_each(iters, expected):
    model = tiny_of("crestereo")
    with torch.no_grad():
        assert model(*images(), iters=iters).disparities.shape[1] == expected
        assert model(*images(), iters=iters, init=torch.zeros(1, 1, 16, 24)).disparities.shape[1] == iters


def test_a_level_starts_from_the_opposite_of_the_one_before():
    """As published; released weights were trained so."""
    model = tiny_of("crestereo").eval()
    with torch.no_grad():
        model.update.flow_head[2].weight.zero_()
        model.update.flow_head[2].bias.copy_(torch.tensor([-3.0, 0.0]))
        flows = []
        model.update.register_forward_hook(lambda _module, args, _output: flows.append(args[3]))
        model(*images(), iters=2)
    assert [flow.shape[-1] for flow in flows] == [6, 12, 24, 24]
    starts = [float(flow[0, 0, flow.shape[2] // 2, flow.shape[3] // 2]) for flow in flows]
    assert starts[0] == 0 and starts[1] == pytest.approx(6, abs=0.1)  # -3 px of 1/16 become +6 px of 1/8
    assert starts[2] == pytest.approx(-6, abs=0.1)  # 6 - 3 = 3 px of 1/8 become -6 px of 1/4
    assert starts[3] == pytest.approx(-9, abs=0.1)


def test_resizing_flow_scales_it():
    flow = torch.full((1, 2, 4, 6), 3.0)
    torch.testing.assert_close(resize_flow(flow, (8, 12)), torch.full((1, 2, 8, 12), 6.0))
    assert resize_flow(flow, (4, 6)) is flow


def test_a_cascade_hands_on_disparity_and_rows():
    model = tiny_of("crestereo").eval()
    left, right = images(height=64, width=96)
    with torch.no_grad():
        found = cascade(model, left, right, iters=2, cascades=2)
        half = [F.interpolate(view, size=(32, 48), mode="bilinear", align_corners=True) for view in (left, right)]
        coarse = model(*half, iters=2)
        start = torch.cat([coarse.disparities, coarse.vertical], 1)
        start = 0.5 * F.interpolate(start, size=(16, 24), mode="bilinear", align_corners=True)  # from 1/2 to 1/4 of the full size
        expected = model(left, right, iters=2, init=start)
    torch.testing.assert_close(found.disparity, expected.disparity, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.vertical, expected.vertical, atol=1e-5, rtol=0)


def test_one_iteration_leaves_nothing_to_the_coarse_levels():
    model = tiny_of("crestereo").eval()
    with pytest.raises(UserError, match="iters is 1; at least 2 refinement iterations are needed"):
        model(*images(), iters=1)
    with torch.no_grad():
        assert model(*images(), iters=1, init=torch.zeros(1, 1, 16, 24)).disparity.isfinite().all()


def test_the_narrowest_image_is_finite():
    """One column at 1/16, where the published code divides by zero."""
    model = tiny_of("crestereo").eval()
    with torch.no_grad():
        assert model(*images(height=16, width=16)).disparity.isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"corr_groups": 3}, r"model\.corr_groups: 3 does not divide model\.feature_dim, 32"),
        ({"attention_heads": 5}, r"model\.attention_heads: 5 does not divide"),
        ({"feature_dim": 18, "corr_groups": 1}, r"model\.feature_dim: 18 is no multiple of 4"),
        ({"valid_iters": 1}, r"model\.valid_iters"),
        ({"correlation_implementation": "alt"}, r"model\.correlation_implementation: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key(config, message):
    with pytest.raises(UserError, match=message):
        tiny_of("crestereo", **config)
