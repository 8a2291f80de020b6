"""Every fast path against its plain twin: values and the gradient of each parameter, in float64, float32 and under bf16 autocast."""

from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn

from core.backbone import DepthDecoder
from core.plain import TWINS, PlainDepthDecoder, make_plain
from tests.core.networks import assert_as_near, images, tiny

OPTIONS = {"batch_norm": "frozen_statistics", "dropout": 0.0}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 0.01}
NOT_IN_BF16 = {"axial"}  # that twin reads outside its memory there, see `hourglass.AxialConv`


def compared(part: str, dtype: torch.dtype) -> bool:
    return dtype != torch.bfloat16 or part not in NOT_IN_BF16


def with_statistics(model: nn.Module) -> nn.Module:
    """As of a trained network: those of a new batch norm change nothing, and could be left out."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


def run(parts: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """What a network with plain `parts` gives in training and evaluation, and the gradient of each parameter. bf16: under autocast."""
    model = make_plain(with_statistics(tiny(**OPTIONS)), parts)
    views = images(batch=2, height=32, width=64)
    if dtype != torch.bfloat16:
        model, views = model.to(dtype), tuple(view.to(dtype) for view in views)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = model(*views, iters=5)
        weights = torch.linspace(0.5, 1.5, output.disparities.numel()).view_as(output.disparities)
        ((weights * output.disparities).mean() + output.initial.square().mean()).backward()
        with torch.no_grad():
            final = model.eval()(*views, iters=3).disparity
    values = {"initial": output.initial, "disparities": output.disparities, "changes": output.disparities.diff(dim=1), "final": final}
    values |= {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: value.detach().double() for name, value in values.items()}


@pytest.fixture(scope="module")
def plain() -> dict[torch.dtype, dict[str, Tensor]]:
    return {dtype: run([part for part in TWINS if compared(part, dtype)], dtype) for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_fast_network_is_the_plain_one(plain, dtype):
    assert_as_near(run((), dtype), plain[dtype], plain[torch.float64], rounding=ROUNDING[dtype])


@pytest.mark.parametrize(("part", "dtype"), [(part, dtype) for part in TWINS for dtype in DTYPES if compared(part, dtype)], ids=str)
def test_each_part_is_its_twin(plain, part, dtype):
    assert_as_near(run((part,), dtype), plain[dtype], plain[torch.float64], rounding=ROUNDING[dtype])


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
