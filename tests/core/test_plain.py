"""Every fast path against its plain twin: values and gradients of the whole network, in float64, float32 and under bf16 autocast."""

import pytest
import torch
from torch import Tensor

from core.backbone import DepthDecoder
from core.plain import TWINS, PlainDepthDecoder, make_plain
from tests.core.networks import images, tiny

IN_BF16 = [part for part in TWINS if part != "axial"]  # that twin reads outside its memory there, see `hourglass.AxialConv`
OPTIONS = {"batch_norm": "frozen_statistics", "dropout": 0.0}


def run(parts: list[str], dtype: torch.dtype) -> list[Tensor]:
    """Disparities, initial disparity, all gradients in one, and the disparity of evaluation. bf16: under autocast."""
    model = make_plain(tiny(**OPTIONS), parts)
    views = images(height=32, width=64)
    if dtype != torch.bfloat16:
        model, views = model.to(dtype), tuple(view.to(dtype) for view in views)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = model(*views, iters=5)
        weights = torch.linspace(0.5, 1.5, output.disparities.numel()).view_as(output.disparities)
        ((weights * output.disparities).mean() + output.initial.square().mean()).backward()
        with torch.no_grad():
            final = model.eval()(*views, iters=3).disparity
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [value.detach().double() for value in (output.disparities, output.initial, gradients, final)]


def deviations(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Relative to the size of what is expected."""
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, expected, strict=True)]


@pytest.fixture(scope="module")
def plain() -> dict[torch.dtype, list[Tensor]]:
    exact = {dtype: run(list(TWINS), dtype) for dtype in (torch.float64, torch.float32)}
    return exact | {torch.bfloat16: run(IN_BF16, torch.bfloat16)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_fast_network_is_the_plain_one(plain, dtype):
    """In bf16 both round, at different places: the fast one is no further from the truth than the plain one."""
    found = deviations(run([], dtype), plain[torch.float64])
    rounding = {torch.float64: 1e-11, torch.float32: 3e-6, torch.bfloat16: 0.0}[dtype]
    allowed = [max(1.5 * own, rounding) for own in deviations(plain[dtype], plain[torch.float64])]
    assert all(ours <= most for ours, most in zip(found, allowed, strict=True)), (found, allowed)


@pytest.mark.parametrize("part", TWINS)
def test_each_part_is_its_twin(plain, part):
    assert max(deviations(run([part], torch.float64), plain[torch.float64])) < 1e-11


def test_a_plain_network_has_the_same_entries_and_other_classes():
    fast, slow = tiny(feature_type="dinov2", freeze_backbone=False), make_plain(tiny(feature_type="dinov2", freeze_backbone=False))
    assert {name: value.shape for name, value in fast.state_dict().items()} == {n: v.shape for n, v in slow.state_dict().items()}
    swapped = {type(module) for module in slow.modules()} - {type(module) for module in fast.modules()}
    assert swapped == {twin for twins in TWINS.values() for twin in twins.values()}


def test_what_nobody_reads_changes_nothing():
    torch.manual_seed(0)
    decoder = DepthDecoder(dim=8, widths=(4, 4, 4, 4), fusion=8)
    maps = [torch.randn(1, 8, 2, 3) for _ in range(4)]
    expected = decoder(maps)
    decoder.__class__ = PlainDepthDecoder
    assert torch.equal(decoder(maps), expected)
