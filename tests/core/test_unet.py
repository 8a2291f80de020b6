"""The U-Net, beyond what every network keeps: the ranges of what it says, that its doubt is where its errors are, and its pose."""

import numpy as np
import pytest
import torch
from torch import nn

from core import offered
from core.inference import estimate
from core.tiles import Tiles
from core.unet import LOG_VARIANCE, POSE_SCALE, PoseHead
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
    output = model(*images(batch=2))
    (output.disparities.mean() + output.pose.mean()).backward()
    changed = [norm.running_mean.any() for norm in norms]
    assert all(changed) if policy == "train" else not any(changed)
    assert all((norm.weight.grad is None) == (policy == "frozen") for norm in norms)


def test_one_coarsest_pixel_has_no_batch_statistics():
    with pytest.raises(UserError, match="single value per channel"):
        tiny_of("unet")(*images(height=16, width=16))


def test_the_pose_is_asked_for():
    plain, model = tiny_of("unet", predict_pose=False).eval(), tiny_of("unet").eval()
    assert plain.offers == offered({"type": "unet"}) == {"log_variance"}
    assert model.offers == offered({"type": "unet", "predict_pose": True}) == {"log_variance", "pose"}
    state = model.state_dict()
    assert plain.state_dict().keys() == {name for name in state if not name.startswith("pose_head.")} < state.keys()
    with torch.no_grad():
        one, two = plain(*images(batch=2)), model(*images(batch=2))
    assert one.pose is None and two.pose.shape == (2, 6) and torch.equal(one.disparity, two.disparity)


def test_the_pose_head_by_hand():
    """One channel that is 1 in one column alone: its mean, and the mean of its place across and down, for any size."""
    head = PoseHead(1).eval()
    head.conv = nn.Identity()
    with torch.no_grad():
        head.linear.bias.zero_()
        head.linear.weight.copy_(torch.eye(6, 3))
    for height, width, column, place in ((3, 4, 0, -0.75), (1, 8, 7, 0.875), (2, 1, 0, 0.0)):
        features = torch.zeros(1, 1, height, width)
        features[..., column] = 1
        expected = POSE_SCALE * torch.tensor([[1, place, 0, 0, 0, 0]]) / width
        torch.testing.assert_close(head(features), expected)
        torch.testing.assert_close(head(features.mT)[:, [0, 2, 1]], expected[:, :3])


def test_the_pose_comes_with_the_estimate_but_not_with_tiles():
    model = tiny_of("unet")
    views = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    found = estimate(model, *views)
    assert found.pose.shape == (6,) and found.pose.dtype == np.float32 and found.pose.any()
    tensors = [torch.from_numpy(view).permute(2, 0, 1)[None] / 255 for view in views]
    with torch.no_grad():
        np.testing.assert_array_equal(found.pose, model.eval()(*tensors).pose[0].numpy())
    assert estimate(model, *views[:, :40, :60]).pose.shape == (6,)  # which is padded
    tiled = estimate(model, *views, tiles=Tiles((48, 48), 8, 8))
    assert tiled.pose is None and tiled.log_variance is not None
