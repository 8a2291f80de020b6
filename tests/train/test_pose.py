"""The right camera's pose through a whole run: who may train it, that it is learned, measured and logged, and where it comes out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core import build_model
from core.inference import Estimate
from train.config import ValidationConfig
from train.dataloader import Loaded, collate
from train.evaluation import ValidationSet, constant_pose_mse, validate
from train.inference import Estimator, Settings
from train.inference_output import pose_record
from train.losses import Objective
from train.measure_report import comparison
from train.sample import StereoSample
from train.scores import Protocol, average, score
from train.sources import Source, check_poses
from utils.errors import UserError

POSES = [np.array(pose, np.float32) for pose in ([0.01, 0, 0, 0, 0, 0.02], [0.03, 0, 0, 0, 0, -0.04])]


def sample_of(pose=None):
    image, truth = np.zeros((16, 16, 3), np.uint8), np.ones((16, 16), np.float32)
    return StereoSample(image, image, truth, truth > 0, pose=pose, key="a").check()


class Fixed:
    """Samples as they are given."""

    has_right_disparity, has_pose = False, True

    def __init__(self, samples):
        self.samples = samples

    def load(self, i):
        return self.samples[i]


def source(name, *poses):
    return Source(name, Fixed([sample_of(pose) for pose in poses]), np.arange(len(poses)), 1.0, "stereo", lambda sample, *_: sample)


def test_a_batch_says_which_samples_have_a_label():
    def batch_of(*poses):
        return collate([Loaded(sample_of(pose), source("made", pose)) for pose in poses])

    mixed = batch_of(POSES[0], None)
    assert torch.equal(mixed.pose[0], torch.from_numpy(POSES[0])) and mixed.pose[1].isnan().all() and mixed.pose.dtype == torch.float32
    assert batch_of(None, None).pose is None and batch_of(None).to("cpu").select([0]).pose is None
    assert torch.equal(mixed.to("cpu").select([0, 0]).pose, mixed.pose[[0, 0]])


def test_validation_compares_the_poses_that_are_known():
    """Off by 0.01 and by 0.03 in one number of six, overall and per data set; the third sample has no label."""
    held = ValidationSet([source("one", POSES[0], None), source("two", POSES[1])], ValidationConfig(), None)

    def say(pose):
        return lambda sample: Estimate(sample.disparity, pose=pose)

    def measured(pose):
        return validate(held, say(pose), rank=0, ranks=1, reduce=lambda tensor: tensor)

    found = measured(np.array([0.02, 0, 0, 0, 0, 0.02], np.float32))
    assert found["one/pose_mse"] == pytest.approx(1e-4 / 6) and found["two/pose_mse"] == pytest.approx((1e-4 + 36e-4) / 6)
    assert found["pose_mse"] == pytest.approx(38e-4 / 12) and found["epe"] == 0
    assert constant_pose_mse(held) == pytest.approx((1e-4 + 9e-4) / 6)  # 0.01 and 0.03 off the mean of both
    assert not any("pose" in name for name in measured(None))
    unknown = ValidationSet([source("one", None)], ValidationConfig(), None)
    assert "pose_mse" not in validate(unknown, say(POSES[0]), rank=0, ranks=1, reduce=lambda tensor: tensor)
    parts = [validate(held, say(POSES[0]), rank=rank, ranks=2, reduce=lambda tensor: tensor) for rank in range(2)]  # of one process each
    assert "two/pose_mse" in parts[0] and "pose_mse" not in parts[1]


@pytest.mark.parametrize("averaging", ["image", "pooled"])
def test_a_suite_reports_it_beside_its_metrics(averaging):
    protocol = Protocol(metrics=("epe",), averaging=averaging)
    truth = np.ones((16, 16), np.float32)
    scores = [score(truth, sample_of(pose), protocol, pose=POSES[0]) for pose in (*POSES, None)]
    assert average(scores, protocol) == pytest.approx({"epe": 0, "pose_mse": (4e-4 + 36e-4) / 12})
    assert "pose_mse" not in average([score(truth, sample_of(POSES[0]), protocol)], protocol)
    assert score(truth, sample_of(POSES[0]), protocol, pose=np.full(6, np.nan, np.float32)).values["pose_mse"] == np.inf


def test_a_table_does_not_round_it_away():
    record = SimpleNamespace(mean={"epe": 1.25, "pose_mse": 5.13e-5, "zero": 0.0}, about={}, seconds=0.5, memory_gib=12.345)
    assert comparison([record], ["model"])[1] == ["-", "1.250", "5.1e-05", "0.000", "0.500", "12.35"]


def test_a_loss_that_nothing_is_known_for_is_refused_but_not_one_of_weight_0():
    def objective(weight):
        return Objective({"stereo": {"l1": {"function": "epe_loss"}, "pose": {"function": "pose_loss", "weight": weight}}})

    without = replace(source("plain", None), dataset=SimpleNamespace(has_pose=False))
    check_poses([without], objective(0.0))
    check_poses([without, source("posed", POSES[0])], objective(1.0))
    for sources in ([without], [without, replace(source("posed", POSES[0]), label_type="other")]):
        with pytest.raises(UserError, match=r"^loss\.stereo\.pose: no data set of label type 'stereo' has poses"):
            check_poses(sources, objective(1.0))


def test_it_comes_through_at_any_scale_and_as_plain_numbers():
    look = lambda left, right: Estimate(np.ones(left.shape[:2], np.float32), pose=POSES[1])  # noqa: E731
    views = np.zeros((2, 20, 30, 3), np.uint8)
    for settings in (Settings(), Settings(scale=0.5), Settings(left_right=True)):
        assert (Estimator(look, settings)(*views).pose == POSES[1]).all()
    record = json.loads(json.dumps(pose_record(POSES[1])))
    assert record == {"rotation_rad": pytest.approx([0.03, 0, 0]), "position_baselines": pytest.approx([0, 0, -0.04])}
    assert pose_record(None) is None


def test_a_label_that_is_none_breaks_the_contract():
    for wrong in (POSES[0][:5], POSES[0].astype(np.float64), np.full(6, np.nan, np.float32)):
        with pytest.raises(AssertionError):
            sample_of(wrong)


def test_predictions_of_no_number_are_seen():
    held = ValidationSet([source("one", POSES[0])], ValidationConfig(), None)
    broken = Estimate(np.ones((16, 16), np.float32), pose=np.full(6, np.nan, np.float32))
    assert validate(held, lambda _: broken, rank=0, ranks=1, reduce=lambda tensor: tensor)["pose_mse"] == np.inf


def test_a_plain_network_says_nothing_of_it():
    model = build_model({"type": "unet", "dims": [4] * 5})
    assert model(*torch.rand(2, 2, 3, 32, 32)).pose is None
