"""--detect_anomaly: the first module whose output is not finite, by name, with its input and its running statistics."""

import logging

import pytest
import torch
from torch import nn

from tests.core.networks import images, tiny
from train.anomaly import AnomalyDetector, statistics
from utils.errors import UserError


def test_a_poisoned_layer_is_named_with_its_statistics():
    model = tiny().train()
    detector = AnomalyDetector(model)
    detector.at(7, ["made/0003"])
    model(*images())
    with torch.no_grad():
        model.context.stages[1][0].norm1.running_var[2] = 1e4
        model.context.stages[1][0].norm1.weight[2] = float("nan")
    with pytest.raises(UserError) as caught:
        model(*images())
    line = str(caught.value)
    assert "step 7, samples made/0003" in line and "is of context.stages.1.0.norm1 (BatchNorm2d)" in line
    assert "input [1, 8, 32, 48]: from" in line and "its running_var [8]: from" in line and "to 9e+03" in line  # 0.9 of 1e4 is kept
    assert "its weight [8]: from 1 to 1, mean 1, 1 of 8 not finite" in line and "\n" not in line
    detector.close()
    model(*images())


def test_gradient_checkpointing_and_structures_are_seen_through():
    model = tiny(gradient_checkpointing=True).train()
    with torch.no_grad():
        model.update.disparity_head[0].bias[0] = float("inf")
    AnomalyDetector(model)
    with pytest.raises(UserError, match=r"is of update\.disparity_head\.0 \(Conv3x3\)"):
        model(*images())


def test_gradients_that_are_missing_or_not_finite_are_named(caplog):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    detector = AnomalyDetector(model)
    detector.at(0, ["a"])
    model[0](torch.ones(1, 2)).sum().backward()
    model[1](torch.ones(1, 2)).sum().backward(torch.tensor(float("inf")))
    with caplog.at_level(logging.WARNING, "stereofoundry"):
        logging.getLogger("stereofoundry").propagate = True
        detector.look_at_gradients()
        detector.look_at_gradients()
    missing = [record.getMessage() for record in caplog.records if "got no gradient" in record.getMessage()]
    assert len(missing) == 1 and "2.weight, 2.bias" in missing[0]
    bad = [record.getMessage() for record in caplog.records if "are not finite" in record.getMessage()]
    assert len(bad) == 2 and "step 0, samples a: 2 gradients" in bad[0] and "1.weight [2, 2]: nothing finite, 4 of 4" in bad[0]


def test_statistics_by_hand():
    value = torch.tensor([1.0, 3.0, float("nan"), float("inf")])
    assert statistics(value) == "[4]: from 1 to 3, mean 2, 2 of 4 not finite"
