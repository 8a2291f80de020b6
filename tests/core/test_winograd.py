"""Convolutions by tiles: those of `F.conv2d`, and taken only where they pay and where nothing is differentiated."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional as F

from core import winograd
from core.winograd import Conv3x3, by_tiles
from tests.core.golden import FLOAT32, check_golden, filled_model
from tests.core.networks import images, tiny_of


@pytest.fixture
def everywhere(monkeypatch):
    """Every convolution of its kind goes by tiles; a list of the sizes of those that did."""
    seen = []

    def counted(x, weight, bias=None):
        seen.append(x.shape)
        return by_tiles(x, weight, bias)

    monkeypatch.setattr(winograd, "PAYS", (0, 0))
    monkeypatch.setattr(winograd, "by_tiles", counted)
    return seen


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (8, 16), (13, 18)], ids=str)
@pytest.mark.parametrize("work", [1, winograd.WORK])
def test_it_is_the_convolution(monkeypatch, size, work):
    monkeypatch.setattr(winograd, "WORK", work)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 5, *size), (7, 5, 3, 3), (7,)))
    for b in (bias, None):
        torch.testing.assert_close(by_tiles(x, weight, b), F.conv2d(x, weight, b, padding=1), rtol=0, atol=1e-12)


def test_float32_is_off_by_some_times_more_than_a_sum():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 512, 32, 40, generator=generator).relu()
    weight = torch.randn(128, 512, 3, 3, generator=generator) / 68
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error, of_the_sum = ((found - exact).abs().max() for found in (by_tiles(x, weight), F.conv2d(x, weight, padding=1)))
    assert of_the_sum < error < 6 * of_the_sum and error < 1e-5 * exact.abs().max()


@contextmanager
def compiling():
    torch.compiler._is_compiling_flag, before = True, torch.compiler._is_compiling_flag
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


@pytest.mark.parametrize(
    ("context", "size", "dtype", "taken"),
    [
        (torch.no_grad, (32, 32), torch.float32, True),
        (torch.inference_mode, (32, 32), torch.float32, True),
        (torch.enable_grad, (32, 32), torch.float32, False),
        (torch.no_grad, (32, 31), torch.float32, False),
        (torch.no_grad, (32, 32), torch.float64, False),
        (lambda: torch.autocast("cpu", torch.bfloat16), (32, 32), torch.float32, False),
        (compiling, (32, 32), torch.float32, False),
    ],
)
def test_it_is_taken_where_it_pays(monkeypatch, context, size, dtype, taken):
    seen = []
    monkeypatch.setattr(winograd, "by_tiles", lambda x, weight, bias: seen.append(x.shape))
    conv = Conv3x3(128, 128).to(dtype)
    with torch.no_grad(), context():
        conv(torch.zeros(1, 128, *size, dtype=dtype))
    assert len(seen) == taken


@pytest.mark.parametrize("kind", ["foundation_stereo", "raft_stereo", "crestereo"])
def test_a_network_that_infers_is_the_one_that_learns(everywhere, kind):
    """By tiles and with folded norms, and without."""
    model, views = tiny_of(kind).eval(), images(batch=2, height=96, width=96)
    expected = model(*views, iters=4).disparity.detach()
    assert not everywhere
    with torch.no_grad():
        found = model(*views, iters=4).disparity
    assert everywhere
    assert 0 < (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.data
def test_the_published_numbers_come_by_tiles(everywhere, shared):
    check_golden(
        shared / "reference" / "golden_vits.npz",
        "vits",
        parts="ah",
        model=filled_model(shared / "reference", "vits", seed=0),
        gates=FLOAT32,
    )
    assert len(everywhere) > 100
