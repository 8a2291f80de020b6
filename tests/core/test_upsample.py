"""Convex upsampling worked out by hand."""

import torch

from core.upsample import convex_upsample


def one_hot(neighbour, height, width):
    weights = torch.zeros(1, 9, 4 * height, 4 * width)
    weights[:, neighbour] = 1
    return weights


def test_each_weight_reads_its_neighbour_in_row_major_order():
    disparity = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    padded = torch.nn.functional.pad(disparity, (1, 1, 1, 1))
    for neighbour in range(9):
        dy, dx = divmod(neighbour, 3)
        shifted = 4 * padded[0, 0, dy : dy + 3, dx : dx + 4]  # zero outside, full-size pixels
        expected = shifted.repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert torch.equal(convex_upsample(disparity, one_hot(neighbour, 3, 4))[0], expected)


def test_every_full_size_pixel_has_weights_of_its_own():
    disparity = torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 2)
    weights = one_hot(4, 1, 2)  # the centre everywhere
    weights[0, :, 1, 2] = 0
    weights[0, 5, 1, 2] = 1  # but one pixel looks right
    found = convex_upsample(disparity, weights)[0]
    assert found[1, 2] == 8
    assert found.sum() == 16 * 4 + 16 * 8 + 4


def test_equal_weights_mean_the_neighbourhood():
    disparity = torch.full((1, 1, 3, 3), 2.0)
    found = convex_upsample(disparity, torch.full((1, 9, 12, 12), 1 / 9))
    torch.testing.assert_close(found[0, 4:8, 4:8], torch.full((4, 4), 8.0))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(8.0 * 4 / 9))  # a corner is drawn towards 0
