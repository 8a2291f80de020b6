"""`infer`: any size, what it refuses, padding by hand, the coarse-to-fine pass, and passes at several scales."""

import numpy as np
import pytest
import torch

from core.inference import box_for, coarse_start, estimate, pad, padding_to, predict, predict_hierarchical, predict_scales, resized, unpad
from core.output import StereoOutput
from tests.core.networks import tiny
from utils.errors import UserError


def pair(height=50, width=70, seed=0):
    generator = np.random.default_rng(seed)
    scene = generator.integers(0, 256, (height, width + 6, 3), dtype=np.uint8)
    return scene[:, :-6], scene[:, 6:]


@pytest.mark.parametrize(("size", "box"), [((64, 96), (0, 0, 0, 0)), ((50, 70), (13, 13, 7, 7)), ((63, 95), (0, 1, 0, 1))])
def test_padding_is_even_and_comes_off_again(size, box):
    assert padding_to(32, *size) == box
    image = torch.rand(1, 3, *size)
    padded = pad(image, box)
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    assert torch.equal(unpad(padded, box), image)
    assert torch.equal(padded[..., 0, 0], image[..., 0, 0])  # border pixels repeated


@pytest.mark.parametrize("hierarchical", [False, True])
@pytest.mark.parametrize("size", [(50, 70), (64, 96), (33, 31), (5, 7)])
def test_any_size_gives_a_map_of_that_size(size, hierarchical):
    disparity = tiny().infer(*pair(*size), iters=1, hierarchical=hierarchical)
    assert disparity.shape == size and disparity.dtype == np.float32
    assert np.isfinite(disparity).all() and (disparity >= 0).all()


def test_arrays_and_tensors_are_the_same_to_it():
    model = tiny().eval()
    left, right = pair()
    tensors = [torch.from_numpy(view.transpose(2, 0, 1).copy()) for view in (left, right)]
    expected = model.infer(left, right)
    np.testing.assert_array_equal(model.infer(*tensors), expected)
    with torch.no_grad():
        direct = predict(model, *(view[None].float() / 255 for view in tensors)).disparity
    np.testing.assert_array_equal(direct[0].clamp(min=0).numpy(), expected)


def test_a_pair_that_has_no_half_size_is_refused():
    with pytest.raises(UserError, match=r"infer: 40 x 1 \(width x height\) leaves nothing at 0\.5 of its size"):
        tiny().infer(*pair(1, 40), iters=1, hierarchical=True)


def test_hierarchical_with_a_multiple_of_32_starts_from_the_coarse_pass():
    """By hand, for a size without padding, where the published oddity adds nothing."""
    model = tiny().eval()
    left, right = (torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    with torch.no_grad():
        found = predict_hierarchical(model, left, right, iters=2).disparity
        small = [torch.nn.functional.interpolate(view, scale_factor=0.5, mode="bilinear") for view in (left, right)]
        coarse = model(*small, iters=2).disparity[:, None]
        start = 2 * torch.nn.functional.interpolate(coarse, size=(64, 128), mode="bilinear", align_corners=True).clamp(min=0)
        start = torch.nn.functional.interpolate(start, size=(16, 32), mode="bilinear", align_corners=True) / 4
        expected = model(left, right, iters=2, init=start).disparity
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_padding_on_the_far_side_leaves_the_left_border_where_it_is():
    assert padding_to(32, 50, 70, "far") == (0, 26, 0, 14)
    image = torch.rand(1, 3, 50, 70)
    assert box_for(tiny(), image) == (13, 13, 7, 7)
    assert box_for(tiny(valid_padding="far"), image) == (0, 26, 0, 14)
    assert box_for(tiny(valid_padding="far"), image, passes=2) == (0, 58, 0, 14)


class Adds(torch.nn.Module):
    """Finds what it is started from, and `step` working pixels more."""

    padding, stride = 8, 4

    def __init__(self, step):
        super().__init__()
        self.step = torch.nn.Parameter(torch.tensor(step))

    def forward(self, left, right, iters=None, init=None):
        grid = torch.zeros(1, 1, left.shape[-2] // 4, left.shape[-1] // 4) if init is None else init
        return StereoOutput(4 * torch.nn.functional.interpolate(grid + self.step, scale_factor=4))


def test_scales_go_from_small_to_large_each_started_from_the_one_before():
    """A working pixel is 8 pixels of the pair at half the size, 4 at the whole, 2 at twice the size."""
    view = torch.zeros(1, 3, 20, 52)  # padded at half the size
    found = [predict_scales(Adds(1.0), view, view, scales=scales).disparity for scales in ((0.5,), (1, 0.5), (0.5, 2, 1))]
    for one, expected in zip(found, (8.0, 12.0, 14.0), strict=True):
        torch.testing.assert_close(one, torch.full((1, 20, 52), expected))


def test_a_network_is_looked_at_at_its_own_scales():
    left, right = pair(64, 128)
    model = tiny(valid_scales=[1, 1.5], start_cost=0.5).eval()
    views = [torch.from_numpy(view.transpose(2, 0, 1).copy())[None].float() / 255 for view in (left, right)]
    with torch.no_grad():
        coarse = predict(model, *views).disparity[:, None]
        start = 1.5 * resized(coarse.clamp(min=0), (96, 192))[..., ::4, ::4] / 4
        fine = model(*(resized(view, (96, 192)) for view in views), init=start)
        unstarted = model(*(resized(view, (96, 192)) for view in views))
    assert (fine.initial - start).abs().mean() < 0.9 * (unstarted.initial - start).abs().mean()
    expected = (resized(fine.disparity[:, None], (64, 128)) / 1.5)[0, 0].clamp(min=0)
    np.testing.assert_allclose(model.infer(left, right), expected.numpy(), atol=1e-4)
    np.testing.assert_array_equal(estimate(model, left, right, scales=(1.0,)).disparity, coarse[0, 0].clamp(min=0).numpy())


def test_the_start_of_a_training_step_is_what_the_second_of_two_looks_starts_from():
    """Padding on the right and below alone, of a map that is the same nowhere: what belongs to a cell is the pixel at its corner."""

    class Ramp(Adds):
        valid_padding = "far"

        def forward(self, left, right, iters=None, init=None):
            self.training_seen, self.init = self.training, init
            return StereoOutput(left.mean(1, keepdim=True) * 100)

    model = Ramp(0.0).train()
    view = torch.rand(1, 3, 40, 104)
    start = coarse_start(model, view, view, scale=0.5)
    assert model.training and not model.training_seen
    with torch.no_grad():
        predict_scales(model.eval(), view, view, scales=(0.5, 1.0))
    torch.testing.assert_close(start, model.init)
    half = resized(view, (20, 52)).mean(1, keepdim=True) * 100
    whole = 2 * resized(half, (40, 104))
    rows, columns = start.shape[-2:]
    assert rows * 4 >= 40 and columns * 4 >= 104
    torch.testing.assert_close(start[..., :10, :26], whole[..., ::4, ::4] / 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_nothing_is_learned(training):
    model = tiny().train(training)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.infer(*pair())
    with pytest.raises(UserError):
        model.infer(*pair(), iters=0)
    assert model.training is training
    assert model.hourglass.training is training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda left, right: (left.astype(np.float32) / 255, right), "left has dtype float32; expected NumPy uint8"),
        (lambda left, right: (left, right[:, :-2]), "different sizes, 70 x 50 and 68 x 50"),
        (lambda left, right: (left[..., 0], right), r"left has shape \(50, 70\); expected NumPy uint8 \(H, W, 3\)"),
        (lambda left, right: (left, right.transpose(2, 0, 1)), r"right has shape \(3, 50, 70\)"),
        (lambda left, right: (left, torch.from_numpy(right.copy())), r"right has shape \(50, 70, 3\); expected torch uint8 \(3, H, W\)"),
        (lambda left, right: ("left.png", right), "left is a str"),
        (lambda left, right: (left[:0], right[:0]), "left has shape"),
    ],
)
def test_what_is_no_pair_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        tiny().infer(*change(*pair()))
