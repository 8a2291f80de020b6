"""A batch norm goes through the weights of its convolution where that changes no number beyond rounding, and nowhere else."""

import pytest
import torch
from torch import nn

from core.blocks import add, conv_norm
from core.hourglass import AxialConv

CONVOLUTIONS = {
    "2-D": (lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), 4),
    "2-D, bias": (lambda: nn.Conv2d(8, 8, 3, groups=2), 4),
    "3-D": (lambda: nn.Conv3d(8, 8, 3, padding=1, bias=False), 5),
    "transposed": (lambda: nn.ConvTranspose3d(8, 8, 4, stride=2, padding=1, bias=False), 5),
    "axial": (lambda: AxialConv(8), 5),
}


def layers(name: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, nn.Module, nn.Module]:
    """An input, a convolution, and a batch norm of which every entry matters."""
    make, dims = CONVOLUTIONS[name]
    torch.manual_seed(0)
    norm = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dims](8)
    for entry in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        entry.data.uniform_(0.5, 2)
    return torch.randn(2, 8, *[6] * (dims - 2), dtype=dtype), make().to(dtype), norm.to(dtype)


@pytest.fixture
def normed(monkeypatch):
    """Counts batch norms that are computed."""
    calls, real = [], torch.nn.functional.batch_norm
    monkeypatch.setattr(torch.nn.functional, "batch_norm", lambda *args: calls.append(1) or real(*args))
    return calls


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_folded_norm_is_the_norm(normed, name):
    x, conv, norm = layers(name)
    norm.eval()
    expected = conv_norm(x, conv, norm).detach()
    assert len(normed) == 1
    before = {key: value.clone() for key, value in (conv.state_dict() | norm.state_dict()).items()}
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(x, conv, norm), expected, rtol=0, atol=1e-13)
    assert len(normed) == 1, "it was computed"
    assert all(torch.equal(value, before[key]) for key, value in (conv.state_dict() | norm.state_dict()).items())


@torch.no_grad()
def test_statistics_of_the_batch_are_taken_and_kept_where_they_are_asked_for(normed):
    x, conv, norm = layers("3-D")
    before = norm.running_mean.clone()
    assert conv_norm(x, conv, norm).mean((0, 2, 3, 4)) == pytest.approx(norm.bias.tolist())
    assert len(normed) == 1 and not torch.equal(norm.running_mean, before)


@torch.no_grad()
@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(8), nn.Identity(), nn.SyncBatchNorm(8)], ids=lambda norm: type(norm).__name__)
def test_other_norms_are_computed(norm):
    x, conv, _ = layers("3-D", torch.float32)
    assert torch.equal(conv_norm(x, conv, norm.eval()), norm(conv(x)))


def test_a_sum_is_made_in_place_only_without_gradients_and_in_one_dtype():
    x, low = torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
    assert add(x, x).tolist() == [2, 2] and x.tolist() == [1, 1]
    with torch.no_grad():
        assert add(low, x).dtype == torch.float32 and low.tolist() == [1, 1]
        assert add(x, low) is not x and add(x, x.clone()) is x and x.tolist() == [2, 2]
