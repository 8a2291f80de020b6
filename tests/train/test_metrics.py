"""Metrics by values worked out by hand, their behaviour on broken predictions, and that sums do not depend on how they were collected."""

import math

import pytest
import torch

from train.metrics import METRICS, Means, MetricSums, better, finish
from utils.errors import UserError

ERRORS = ["epe", "rmse", "bad_0.5", "bad_1", "bad_2", "bad_3", "bad_4", "d1", "d3", "d1_all", "relepe", "mae", "mse"]
GOOD = {"density": 100, "1px": 1, "3px": 1, "5px": 1, "fl-all": 100}  # value of a perfect prediction
NAMES = [*ERRORS, *GOOD]

# errors 0, 0.5, 0.75, 1, 1.5, 2.5, 3, 4 (of 100), 4 (of 50), 10 px; the last pixel is not valid
TRUTH = torch.tensor([[[10.0, 10, 10, 10, 10, 10, 10, 100, 50, 10]]])
ERROR = torch.tensor([[[0.0, -0.5, 0.75, -1, 1.5, -2.5, 3, 4, -4, 10]]])
VALID = torch.tensor([[[True] * 9 + [False]]])
EXPECTED = {
    "epe": 17.25 / 9,
    "rmse": math.sqrt((0.25 + 0.5625 + 1 + 2.25 + 6.25 + 9 + 16 + 16) / 9),
    "mse": (0.25 + 0.5625 + 1 + 2.25 + 6.25 + 9 + 16 + 16) / 9,
    "bad_0.5": 700 / 9,  # strictly more than the threshold
    "bad_1": 500 / 9,
    "bad_2": 400 / 9,
    "bad_3": 200 / 9,
    "d1": 200 / 9,
    "d3": 500 / 9,
    "d1_all": 100 / 9,  # 4 px of 100 is within 5 %, 4 px of 50 is not
    "bad_4": 0,
    "relepe": (0 + 0.05 + 0.075 + 0.1 + 0.15 + 0.25 + 0.3 + 0.04 + 0.08) / 9,
    "mae": 17.25 / 9,
    "density": 100,
    "1px": 3 / 9,  # strictly less than the threshold
    "3px": 6 / 9,
    "5px": 1,
    "fl-all": 100 / 9,  # 0 of 10 alone: 0.5 of 10 is 5 % and not less, 4 of 100 is not below 3 px
}


def value(name, prediction, truth=TRUTH, valid=VALID):
    total, count = METRICS[name](prediction, truth, valid)
    assert total.shape == count.shape == (len(truth),)
    return finish(name, total.sum().item(), count.sum().item())


def test_the_names_are_these():
    assert sorted(METRICS) == sorted(NAMES) == sorted(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_value_by_hand(name):
    assert value(name, TRUTH + ERROR) == pytest.approx(EXPECTED[name], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_scores_zero_or_all(name):
    assert value(name, TRUTH) == GOOD.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_invalid_pixels_count_nothing_whatever_they_hold(name):
    prediction, truth = TRUTH + ERROR, TRUTH.clone()
    for rubbish in (math.nan, math.inf):
        prediction[..., -1], truth[..., -1] = rubbish, rubbish
        assert value(name, prediction, truth) == pytest.approx(EXPECTED[name], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_prediction_is_an_error_and_not_dropped(name, broken):
    prediction = TRUTH.clone()
    prediction[..., 0] = broken
    expected = math.inf if name in ("epe", "rmse", "mse", "mae", "relepe") else GOOD[name] * 8 / 9 if name in GOOD else 100 / 9
    assert value(name, prediction) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_predictions_are_widened_first(name):
    total, _ = METRICS[name]((TRUTH + ERROR).bfloat16(), TRUTH, VALID)
    assert total.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_which_of_two_values_is_better(name):
    low, high = (1.0, 2.0) if name in ERRORS else (2.0, 1.0)
    for called in (name, f"made/{name}"):
        assert better(called, low, high) and not better(called, high, low) and not better(called, low, low)
        assert better(called, high, math.nan) and not better(called, math.nan, high) and not better(called, math.nan, math.nan)


def two_samples():
    truth = torch.tensor([[[10.0, 10.0]], [[10.0, 300.0]]])
    return truth + torch.tensor([[[1.0, 3.0]], [[2.0, 8.0]]]), truth, torch.ones_like(truth, dtype=torch.bool)


def test_sums_pool_pixels_per_data_set_and_over_all():
    sums = MetricSums(["a", "b", "empty"], ["epe", "rmse", "bad_2"])
    prediction, truth, valid = two_samples()
    valid[1, 0, 1] = False
    sums.add(prediction, truth, valid, ["a", "b"])
    sums.add(prediction[:1], truth[:1], valid[:1], ["a"])
    assert sums.reduce() == pytest.approx(
        {
            "epe": (1 + 3 + 2 + 1 + 3) / 5,
            "a/epe": 2,
            "b/epe": 2,
            "rmse": math.sqrt((1 + 9 + 4 + 1 + 9) / 5),
            "a/rmse": math.sqrt(5),
            "b/rmse": 2,
            "bad_2": 40,
            "a/bad_2": 50,
            "b/bad_2": 0,
        }
    )


def test_how_batches_were_split_over_ranks_does_not_matter():
    prediction, truth, valid = two_samples()
    whole, ranks = MetricSums(["a", "b"]), [MetricSums(["a", "b"]) for _ in range(2)]
    whole.add(prediction, truth, valid, ["a", "b"])
    for row, (rank, name) in enumerate(zip(ranks, "ab", strict=True)):
        rank.add(prediction[row : row + 1], truth[row : row + 1], valid[row : row + 1], [name])
    assert ranks[0].reduce(lambda tensor: tensor + ranks[1]._sums) == whole.reduce()


def test_max_disparity_masks_ground_truth():
    prediction, truth, valid = two_samples()
    sums = MetricSums(["a"], ["epe"], max_disparity=192)
    sums.add(prediction, truth, valid, ["a", "a"])
    assert sums.reduce()["epe"] == 2


def test_nothing_valid_is_nan_and_names_no_data_set():
    sums = MetricSums(["a"], ["epe"])
    prediction, truth, valid = two_samples()
    sums.add(prediction, truth, valid & False, ["a", "a"])
    (key, found) = sums.reduce().popitem()
    assert key == "epe" and math.isnan(found)


def test_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"^validation.metrics: unknown metric 'bad2'; did you mean 'bad_2'\?"):
        MetricSums(["a"], ["bad2"], where="validation.metrics")


def test_means_are_weighted_and_start_anew():
    means = Means(["loss", "dense", "laser"])
    means.add({"loss": torch.tensor(1.0), "dense": torch.tensor(3.0), "laser": torch.tensor(math.nan)}, {"loss": 4, "dense": 1})
    means.add({"loss": torch.tensor(2.0), "dense": torch.tensor(6.0)}, {"loss": 4, "dense": 2})
    assert means.reduce() == {"loss": 1.5, "dense": 5.0}
    means.add({"loss": torch.tensor(7.0)})
    assert means.reduce(lambda tensor: 2 * tensor) == {"loss": 7.0}


def test_means_can_be_looked_at_and_continued_elsewhere():
    means, other = Means(["loss", "dense"]), Means(["dense", "new"])
    means.add({"loss": torch.tensor(1.0), "dense": torch.tensor(3.0)}, 2)
    assert means.peek() == means.peek() == {"loss": 1.0, "dense": 3.0}
    other.load_state_dict(means.state_dict())
    other.add({"dense": torch.tensor(6.0), "new": torch.tensor(1.0)})
    assert other.reduce() == {"dense": 4.0, "new": 1.0}
    assert means.reduce() == {"loss": 1.0, "dense": 3.0}


@pytest.mark.parametrize(("ranks", "expected"), [(2, [(1.0, 1), (5.0, 2)]), (1, [(6.0, 3)]), (3, [(6.0, 3), (0.0, 0), (0.0, 0)])])
def test_every_rank_gets_back_its_own_and_another_number_of_them_the_whole(ranks, expected):
    first, second = Means(["loss"]), Means(["loss"])
    first.add({"loss": torch.tensor(1.0)})
    second.add({"loss": torch.tensor(2.5)}, 2)
    state = first.state_dict(lambda tensor: torch.cat([tensor, second._sums[None]]))
    assert state["loss"].tolist() == [[1, 1], [5, 2]]
    for rank, (total, count) in enumerate(expected):
        found = Means(["loss"])
        found.load_state_dict(state, rank, ranks)
        assert found._sums.tolist() == [[total, count]]


def test_sums_continue_elsewhere_and_start_anew(tmp_path):
    prediction, truth, valid = two_samples()
    sums, other = MetricSums(["a", "b"], ["epe", "bad_2"]), MetricSums(["b", "c"], ["rmse", "epe"])
    sums.add(prediction, truth, valid, ["a", "b"])
    torch.save(sums.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.reduce()["b/epe"] == sums.reduce()["b/epe"] == 5
    sums.reset()
    assert math.isnan(sums.reduce()["epe"])
