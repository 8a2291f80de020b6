"""Orders of a few pixels whose areas are worked out by hand, and the way of the number into a record."""

import math

import numpy as np
import pytest

from train.sample import StereoSample
from train.scores import Protocol, average, score
from train.sparsification import POINTS, sparsify


def test_the_best_order_has_no_area():
    found = sparsify(np.array([3.0, 1, 2, 0]), np.array([0.1, 0.8, 0.2, 0.9]))
    assert found.ause == 0
    # of all 1.5; of 2 1 0, 1; of 1 0, 0.5; of 0, 0
    assert found.by_confidence[[0, 25, 50, 75, 99]] == pytest.approx([1, 1 / 1.5, 0.5 / 1.5, 0, 0])


def test_the_worst_order():
    found = sparsify(np.array([1.0, 3]), np.array([0.2, 0.9]))
    assert found.ause == (0 + (3 - 1) / 2) / 2  # of both 2; then 3 is left, in place of 1
    assert found.by_confidence[[0, 49, 50, 99]].tolist() == [1, 1, 1.5, 1.5] and found.by_error[99] == 0.5


def test_one_confidence_for_all_is_no_order():
    errors, constant = np.array([1.0, 3]), np.full(2, 0.7)
    for order in (errors, errors[::-1]):
        found = sparsify(order, constant)
        assert (found.by_confidence == 1).all() and found.ause == (0 + (2 - 1) / 2) / 2
    half = sparsify(np.array([4.0, 0, 4, 0]), np.array([0.1, 0.1, 0.9, 0.9]))  # on the whole and within the halves 2
    assert half.ause == pytest.approx((0 + (2 - 4 / 3) / 2 + 1 + 1) / 4)


def test_confidence_is_a_matter_of_order_alone():
    generator = np.random.default_rng(0)
    errors, confidence = generator.exponential(2, 1000), generator.random(1000)
    assert sparsify(errors, confidence).ause == pytest.approx(sparsify(10 * errors, confidence**3).ause)
    assert 0 < sparsify(errors, -errors + generator.normal(0, 1, 1000)).ause < sparsify(errors, confidence).ause
    assert sparsify(errors, np.where(errors > 5, np.nan, -errors)).ause < 0.05  # not a number: taken away first


def test_nothing_to_order():
    for errors in ([], [0, 0], [1, math.inf]):
        assert sparsify(np.array(errors, float), np.zeros(len(errors))) is None


@pytest.mark.parametrize("averaging", ["image", "pooled"])
def test_scores_hold_it_by_mask_and_average_it_over_images(averaging):
    protocol = Protocol(more_masks=("noc",), metrics=("epe",), averaging=averaging)
    truth, picture = np.full((1, 3), 10, np.float32), np.zeros((1, 3, 3), np.uint8)
    sample = StereoSample(picture, picture, truth, truth > 0, occluded=np.array([[False, False, True]]))
    found = score(truth + [[1, 3, 5]], sample, protocol, np.array([[0.2, 0.9, 0.1]], np.float32))
    assert found.values["noc/ause"] == 0.5 and found.values["ause"] == pytest.approx((0 + 0 + 2 / 3) / 3)
    assert len(found.sparsification.by_error) == POINTS
    best = score(truth + [[5, 3, 1]], sample, protocol, np.array([[0.1, 0.2, 0.3]], np.float32))
    perfect = score(truth, sample, protocol, np.ones((1, 3), np.float32))
    assert math.isnan(perfect.values["ause"]) and best.values["ause"] == 0
    assert average([found, best, perfect], protocol)["noc/ause"] == 0.25
    assert "ause" not in average([score(truth, sample, protocol)], protocol)
