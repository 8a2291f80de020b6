"""Ground truth that is not there is said, and ends a run that has none; one empty crop of sparse ground truth does neither."""

import pytest
import torch

from train.loop import train
from train.losses import Objective
from train.metrics import MetricSums
from train.signals import StopSignals
from train.truth import ENOUGH, Truth
from utils.errors import UserError


def test_a_dead_data_set_is_named_once(caplog):
    truth = Truth(["a", "b"])
    for _ in range(3 * ENOUGH):
        truth.look({"a": (1, 100), "b": (1, 0), "poses": (1, 0)})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"data set 'b': no valid pixel of ground truth in {ENOUGH} samples; look at it with scripts/inspect_data.py")
    late = Truth(["a", "b"])
    late.look({"a": (1, 100), "b": (1, 0)})
    late.look({"a": (1, 0), "b": (1, 100)}, last=True)
    assert len(caplog.records) == 1
    late = Truth(["a", "b"])
    late.look({"a": (5, 100), "b": (3, 0)}, last=True)
    assert "'b': no valid pixel of ground truth in 3 samples" in caplog.text


def test_none_at_all_ends_the_run_after_enough_samples_or_at_its_end():
    truth = Truth(["a", "b"])
    truth.look({"a": (1, 1), "b": (1, 0)})
    for _ in range(ENOUGH // 2 - 1):
        truth.look({"a": (1, 0), "b": (1, 0)}, last=True)  # had one before
    with pytest.raises(UserError, match=f"^data.datasets: no valid pixel of ground truth in {ENOUGH} samples of a, b, so nothing is"):
        truth.look({"a": (1, 0), "b": (1, 0)})
    with pytest.raises(UserError, match="in 2 samples"):
        Truth(["a"]).look({"a": (2, 0)}, last=True)
    Truth(["a"]).look({"a": (0, 0)}, last=True)  # all its steps were skipped
    Truth([]).look({"poses": (1000, 0)}, last=True)


def test_samples_and_pixels_are_counted_over_processes_until_the_next_report():
    sums, zeros = MetricSums(["a", "b"]), torch.zeros(2, 4, 4)
    valid = zeros.bool()
    valid[0, 0, :3] = True
    sums.add(zeros, zeros, valid, ["a", "b"])
    sums.add(zeros, zeros, valid, ["b", "b"])
    assert sums.counts() == {"a": (1, 3), "b": (3, 3)} and sums.counts(lambda tensor: 2 * tensor) == {"a": (2, 6), "b": (6, 6)}
    sums.reset()
    assert sums.counts() == {"a": (0, 0), "b": (0, 0)}


def test_which_label_types_need_ground_truth():
    epe, pose = {"function": "epe_loss"}, {"function": "pose_loss"}
    objective = Objective({"stereo": {"a": epe, "b": pose}, "posed": {"a": {**epe, "weight": 0}, "b": pose}})
    assert [objective.needs_disparity(label) for label in ("stereo", "posed", "invalid")] == [True, False, False]


@pytest.mark.parametrize("log_every", [0, 1])
def test_a_run_on_nothing_is_no_success(build, caplog, log_every):
    caplog.set_level("INFO", logger="stereofoundry")
    run = build("data.max_disparity=0.001", num_iterations=1, log_every=log_every)
    with pytest.raises(UserError, match="in 1 samples of made, so nothing is trained"), StopSignals() as stop:
        train(run, stop)
    assert ("step 1/1" in caplog.text) == bool(log_every)
