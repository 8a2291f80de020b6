"""Which device a name means, and what is said of one that is none."""

import pytest
import torch

from train.predictors import choose_device
from utils.errors import UserError


def test_a_device_is_one_that_networks_run_on():
    assert choose_device("cpu") == torch.device("cpu")
    for name, said in (("meta", "nothing here runs on 'meta'; expected cpu, cuda or cuda:N"), ("gpu", "expected cpu, cuda or cuda:N")):
        with pytest.raises(UserError, match=f"--device {name}: {said}"):
            choose_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    for name, said in (("mps", "there is none on this machine"), ("cuda:2", "GPUs are visible up to cuda:1")):
        with pytest.raises(UserError, match=f"--device {name}: {said}"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU is visible"):
        choose_device("cuda")
