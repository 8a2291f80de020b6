"""Every mask, range and way of averaging on images a few pixels large, the numbers worked out by hand."""

import math
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from train.metrics import METRICS
from train.sample import StereoSample
from train.scores import QUANTILES, Mask, Protocol, average, mean, near_edges, quantile, region, score

NAN = math.nan


def image(truth, occluded=None, valid=None):
    truth = np.array([truth], np.float32)
    valid = truth > 0 if valid is None else np.array([valid])
    picture = np.zeros((*truth.shape, 3), np.uint8)
    return StereoSample(picture, picture, truth, valid, occluded=None if occluded is None else np.array([occluded]))


def values(errors, sample, **protocol):
    return score(sample.disparity + np.array([errors], np.float32), sample, Protocol(**protocol)).values


def test_masks_choose_pixels_and_name_their_numbers():
    sample = image([10, 10, 10, 10, 0], occluded=[False, True, True, False, True])
    found = values([1, 2, 4, 3, 99], sample, more_masks=("noc", "occ"), metrics=("epe", "bad_2"))
    assert found == {"epe": 2.5, "bad_2": 50, "noc/epe": 2, "noc/bad_2": 50, "occ/epe": 3, "occ/bad_2": 50}
    own = values([1, 2, 4, 3, 99], sample, mask="noc", more_masks=("all", "noc"), metrics=("epe",))
    assert own == {"epe": 2, "all/epe": 2.5}


def test_a_data_set_that_knows_no_occlusion_has_no_such_numbers():
    found = values([1, 2], image([10, 10]), more_masks=("noc", "occ"), metrics=("epe", "a90"))
    assert found["epe"] == 1.5 and all(math.isnan(found[f"{mask}/{name}"]) for mask in ("noc", "occ") for name in ("epe", "a90"))


def test_the_range_is_of_the_ground_truth():
    sample = image([1, 5, 10, 20])
    errors = [1, 2, 3, 4]
    assert values(errors, sample, metrics=("epe",)) == {"epe": 2.5}
    assert values(errors, sample, metrics=("epe",), min_disparity=1)["epe"] == 3  # at the limit it is left out
    assert values(errors, sample, metrics=("epe",), max_disparity=10)["epe"] == 1.5
    assert math.isnan(values(errors, sample, metrics=("epe",), max_disparity=1)["epe"])


def test_edges_are_jumps_of_more_than_two_pixels_and_nine_by_nine_around_them():
    truth = np.full((20, 30), 10, np.float32)
    truth[:, 15:] = 12.5
    near = near_edges(truth, truth > 0)
    assert near[:, 10:20].all() and near.sum() == 20 * 10  # columns 14 and 15 touch the jump, four more on each side
    assert not near_edges(np.where(truth > 10, 12, truth), truth > 0).any()  # a jump of 2 is none
    hole = truth > 0
    hole[:, 15] = False
    assert not near_edges(truth, hole).any()  # what is next to unknown is not known to jump
    assert near_edges(truth.T.copy(), truth.T > 0).sum() == 200
    assert region(StereoSample(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8), truth, truth > 0), "edges").sum() == 200


@pytest.mark.parametrize(("share", "expected"), [(0.9, 9), (0.95, 10), (0.99, 10), (0.05, 1), (0.1, 1), (0.11, 2)])
def test_a_quantile_is_the_error_that_this_share_does_not_exceed(share, expected):
    assert quantile(np.random.default_rng(0).permutation(np.arange(1, 11)).astype(np.float32), share) == expected


def test_quantiles_of_an_image():
    errors = np.arange(1, 101, dtype=np.float32)
    found = score(np.array([200 + errors]), image([200] * 100), Protocol(metrics=("a90", "a95", "a99"))).values
    assert found == {"a90": 90, "a95": 95, "a99": 99}


def test_images_weigh_alike_or_pixels_do():
    few, many = image([10] * 2), image([10] * 8)
    for averaging, epe, rmse, bad in (
        ("image", (4 + 1) / 2, (4 + 1) / 2, 50),
        ("pooled", (2 * 4 + 8) / 10, math.sqrt((2 * 16 + 8) / 10), 20),
    ):
        protocol = Protocol(averaging=averaging, metrics=("epe", "rmse", "bad_2"))
        scores = [score(few.disparity + 4, few, protocol), score(many.disparity + 1, many, protocol)]
        assert average(scores, protocol) == pytest.approx({"epe": epe, "rmse": rmse, "bad_2": bad})


# What a pixel of ground truth 20 counts for, by its error, worked out by hand.
BY_ERROR = {
    0.25: {
        "epe": 0.25, "rmse": 0.25, "bad_0.5": 0, "bad_1": 0, "bad_2": 0, "bad_3": 0, "bad_4": 0, "d1": 0, "d3": 0, "d1_all": 0,
        "mse": 0.0625, "relepe": 0.0125, "density": 100, "mae": 0.25, "1px": 1, "3px": 1, "5px": 1, "fl-all": 100,
        "a90": 0.25, "a95": 0.25, "a99": 0.25,
    },
    3.5: {
        "epe": 3.5, "rmse": 3.5, "bad_0.5": 100, "bad_1": 100, "bad_2": 100, "bad_3": 100, "bad_4": 0, "d1": 100, "d3": 100, "d1_all": 100,
        "mse": 12.25, "relepe": 0.175, "density": 100, "mae": 3.5, "1px": 0, "3px": 0, "5px": 1, "fl-all": 0,
        "a90": 3.5, "a95": 3.5, "a99": 3.5,
    },
}  # fmt: skip


def pixels_of(mask, count, error):
    """An image and its prediction with `count` pixels in the mask, all of one error; what lies outside of it is 99 px wrong."""
    truth, occluded = np.full(30, 20, np.float32), np.zeros(30, bool)
    truth[0] = 23  # beyond the range, and the other side of an edge
    meant = np.arange(30) - 1 < count
    valid = meant | (np.arange(30) == 25) & (mask != "all")
    occluded[meant if mask == "occ" else 25] = mask in ("occ", "noc")
    return image(truth, occluded, valid), np.where(meant, truth + error, truth + 99)[None]


@pytest.mark.parametrize("averaging", ["image", "pooled"])
@pytest.mark.parametrize("mask", get_args(Mask))
def test_every_metric_under_every_mask_and_rule_by_hand(mask, averaging):
    low, high = BY_ERROR.values()
    assert low.keys() == high.keys() == {*METRICS, *QUANTILES}
    protocol = Protocol(mask=mask, max_disparity=22, averaging=averaging, metrics=tuple(low))
    scores = [score(prediction, sample, protocol) for sample, prediction in (pixels_of(mask, 1, 0.25), pixels_of(mask, 4, 3.5))]
    assert [one.values for one in scores] == [pytest.approx(low), pytest.approx(high)]
    expected = {name: (low[name] + high[name]) / 2 for name in low}  # two images
    if averaging == "pooled":  # five pixels; 90, 95 and 99 % of them are five
        expected = {name: (low[name] + 4 * high[name]) / 5 for name in low} | dict.fromkeys(QUANTILES, 3.5)
        expected["rmse"] = math.sqrt((0.0625 + 4 * 12.25) / 5)
    assert average(scores, protocol) == pytest.approx(expected, abs=1 / 64 if averaging == "pooled" else 1e-6)


def test_pooled_quantiles_are_right_to_a_64th_of_a_pixel():
    protocol = Protocol(averaging="pooled", metrics=("a90", "a99"))
    errors = np.random.default_rng(0).exponential(3, (5, 1000)).astype(np.float32)
    scores = [score(100 + row[None], image([100] * 1000), protocol) for row in errors]
    found = average(scores, protocol)
    exact = (100 + errors).astype(np.float32) - 100
    assert found == pytest.approx({"a90": quantile(exact.ravel(), 0.9), "a99": quantile(exact.ravel(), 0.99)}, abs=1 / 64)


def test_an_image_without_pixels_is_left_out_of_the_mean_and_is_no_zero():
    protocol = Protocol(metrics=("epe", "a90"))
    scores = [score(np.array([[13.0]]), image([10]), protocol), score(np.array([[13.0]]), image([0]), protocol)]
    assert average(scores, protocol) == {"epe": 3, "a90": 3}
    assert average(scores, Protocol(averaging="pooled", metrics=("epe",))) == {"epe": 3}
    assert mean([{"epe": 1.0}, {"epe": NAN}, {"bad_1": 4.0}]) == {"epe": 1, "bad_1": 4}


def test_a_prediction_that_is_not_finite_is_infinitely_wrong():
    sample = image([10, 10])
    found = score(np.array([[NAN, 10.0]]), sample, Protocol(metrics=("epe", "bad_4", "density", "a90"))).values
    assert found == {"epe": math.inf, "bad_4": 50, "density": 50, "a90": math.inf}


def test_a_protocol_refuses_what_it_does_not_know():
    with pytest.raises(ValidationError, match="unknown metric 'bad2'; did you mean 'bad_2'"):
        Protocol(metrics=("bad2",))
    with pytest.raises(ValidationError):
        Protocol(mask="some")
