"""Tiles against the whole, on a matcher that sees a few pixels only; windows and weights by hand; how much the network sees at once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.inference import estimate
from core.output import StereoOutput
from core.tiles import Tiles, trust, windows
from tests.core.networks import tiny
from utils.errors import UserError

RANGE = 24


class Local(nn.Module):
    """Block matching with a soft minimum over `RANGE` disparities, on a grid of 8: exact inside 4 + 3 pixels around each."""

    padding, stride = 8, 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, left, right, iters=None, init=None):
        self.seen.append(tuple(left.shape[-2:]))
        costs = [F.avg_pool2d((left - F.pad(right, (d, 0))[..., : left.shape[-1]]).abs().mean(1), 7, 1, 3) for d in range(RANGE)]
        share = torch.softmax(-200 * torch.stack(costs, 1), 1)
        found = (share * torch.arange(RANGE, dtype=left.dtype)[:, None, None]).sum(1)
        if init is not None:  # half of it is what it starts from, as the network sees it: one value per working pixel
            found = (found + F.interpolate(4 * init, scale_factor=4)[:, 0]) / 2
        found = F.interpolate(F.avg_pool2d(found[:, None], 8), scale_factor=8)[:, 0]
        return StereoOutput(found[:, None], log_variance=costs[0])


def pair(height, width, shift=9):
    scene = np.random.default_rng(0).integers(0, 256, (height, width + shift, 3), dtype=np.uint8)
    return scene[:, :-shift], scene[:, shift:]


@pytest.mark.parametrize("size", [(93, 171), (64, 300), (150, 96)])
@pytest.mark.parametrize("passes", [{}, {"hierarchical": True}, {"cascades": 2}])
def test_tiles_give_what_the_whole_gives(size, passes):
    model = Local()
    whole = estimate(model, *pair(*size), **passes)
    model.seen.clear()
    tiled = estimate(model, *pair(*size), **passes, tiles=Tiles((96, 64), RANGE, 16))
    assert whole.log_variance is not None and len(model.seen) > 2
    np.testing.assert_allclose(tiled.disparity, whole.disparity, atol=1e-4)
    np.testing.assert_allclose(tiled.log_variance, whole.log_variance, atol=1e-5)


def test_without_room_for_the_range_they_would_not():
    """The range is what makes the equality: with a smaller one, partners of a tile's left edge are cut off."""
    model, images = Local(), pair(64, 300, shift=20)
    wrong = estimate(model, *images, tiles=Tiles((96, 64), 2, 16)).disparity
    assert np.abs(wrong - estimate(model, *images).disparity).max() > 1


def test_the_network_never_sees_more_than_a_tile():
    model = Local()
    for size in ((100, 200), (200, 600)):
        estimate(model, *pair(*size), hierarchical=True, tiles=Tiles((100, 70), RANGE, 16))
    assert {max(height for height, _ in model.seen), max(width for _, width in model.seen)} == {64, 96}


def test_a_network_in_one_tile_is_the_network():
    model = tiny().eval()
    whole = estimate(model, *pair(50, 90), iters=1)
    tiled = estimate(model, *pair(50, 90), iters=1, tiles=Tiles((96, 64), 64, 8))
    np.testing.assert_allclose(tiled.disparity, whole.disparity, atol=1e-5)


def test_a_network_in_several_tiles_is_finite_everywhere():
    model = tiny(max_disp=32).eval()
    disparity = estimate(model, *pair(70, 230), iters=1, hierarchical=True, tiles=Tiles((128, 64), 32, 16)).disparity
    assert disparity.shape == (70, 230) and np.isfinite(disparity).all()


def test_windows_by_hand():
    assert windows(100, 200, blind=10, overlap=8, grid=8, what="width") == [(0, 100)]
    # 64 - 10 - 12 = 42, on the grid 40; the last one ends with the image
    assert windows(160, 64, blind=10, overlap=8, grid=8, what="width") == [(0, 64), (40, 104), (80, 144), (96, 160)]
    with pytest.raises(UserError, match=r"a width of 64 leaves nothing of a tile for overlap 32 and range 24; expected 80 or more"):
        windows(200, 70, blind=24, overlap=32, grid=8, what="width")
    assert windows(200, 80, blind=24, overlap=32, grid=8, what="width")[1] == (8, 88)


def test_trust_by_hand():
    ones = torch.ones(16, dtype=torch.float64)
    assert torch.equal(trust(0, 16, 16, blind=4, overlap=4), ones)
    assert trust(8, 24, 40, blind=4, overlap=4).tolist() == [0, 0, 0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25, 0, 0]


def test_weights_of_neighbours_add_up_to_one():
    total = torch.zeros(160, dtype=torch.float64)
    for start, end in [(0, 64), (42, 106), (84, 148)]:
        total[start:end] += trust(start, end, 160, blind=10, overlap=8)
    assert torch.equal(total[:140], torch.ones(140, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [{"range_px": 0}, {"overlap_px": 1}])
def test_what_cannot_be_cut_is_refused(wrong):
    with pytest.raises(UserError, match="expected a range above 0 and an overlap"):
        Tiles(**{"size": (96, 64), "range_px": 24} | wrong)
