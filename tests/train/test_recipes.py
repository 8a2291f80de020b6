"""The published recipes among the shipped files: learning rates, shares and losses as their authors state them."""

import pytest
import torch

from train.config import find_config, load_config
from train.utils import build_lr_scheduler, build_optimizer


def rates(name: str, steps: int, at: list[int]) -> list[float]:
    """Learning rates of a run of `steps` at some of them."""
    config = load_config(find_config(name))
    optimizer = build_optimizer(torch.nn.Linear(1, 1), config.optimizer)
    schedule = build_lr_scheduler(optimizer, config.lr_scheduler, steps)
    found = []
    for step in range(max(at) + 1):
        if step in at:
            found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_crestereo_warms_up_holds_and_decays():
    """4e-4 after 6000 steps, decay after 30000 to 2e-5; half-way down the mean of both."""
    found = rates("crestereo.json", 33000, [0, 3000, 6000, 30000, 31500, 33000])
    assert found == pytest.approx([8e-6, 2.04e-4, 4e-4, 4e-4, 2.1e-4, 2e-5])


def test_crestereos_second_stage_only_decays():
    assert rates("crestereo_finetune.json", 1000, [0, 500, 1000]) == pytest.approx([4e-4, 2.1e-4, 2e-5])


def test_raft_stereo_has_one_cycle():
    """From a 25th, up within 1 % of the steps, then linearly down."""
    found = rates("raft_stereo.json", 2000, [0, 19, 1009])
    assert found[:2] == pytest.approx([8e-6, 2e-4])
    assert found[2] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize(("name", "shares"), [("crestereo.json", [88, 6, 6]), ("crestereo_finetune.json", [100 / 9] * 9)])
def test_shares_of_the_data_sets(name, shares):
    found = [entry.share for entry in load_config(find_config(name)).data.datasets]
    assert [100 * share / sum(found) for share in found] == pytest.approx(shares)
