"""The published recipes among the shipped files: learning rates, shares and losses as their authors state them."""

import re
import shlex

import numpy as np
import pytest
import torch

from core import offered
from train.augment.pipeline import Augmentation
from train.run_file import FOLDER, find_config, load_config
from train.sample import StereoSample
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


PUBLISHED = {
    "crestereo.json": {
        "data.datasets": [264000, 18000, 18000],
        "training.clip_norm": 1.0,
        "optimizer.type": "Adam",
        "data.image_sizes": [(512, 384)],
        "data.max_disparity": 256,
        "model.train_iters": 10,
        "loss.stereo.disparity.params.gamma": 0.8,
    },
    "crestereo_finetune.json": {
        "data.datasets": [12000] * 9,
        "data.stereo_augmentation.scale": pytest.approx(np.log2([0.2, 0.8]), abs=1e-3),
        "data.stereo_augmentation.scale_probability": 1.0,
    },
    "raft_stereo.json": {
        "optimizer.type": "AdamW",
        "training.clip_norm": 1.0,
        "data.image_sizes": [(720, 320)],
        "data.max_disparity": 512,
        "data.stereo_augmentation.scale": [-0.2, 0.4],
        "model.train_iters": 22,
        "model.valid_iters": 32,
        "loss.stereo.sequence.params.gamma": 0.9,
        "loss.stereo.sequence.params.adjust_gamma": True,
        "loss.stereo.sequence.params.max_disparity": 700,
    },
    "unet.json": {"data.image_sizes": [(320, 240)]},
}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in PUBLISHED.items() for path in paths])
def test_numbers_are_the_published_ones(name, path):
    found = load_config(find_config(name))
    for key in path.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    found = [entry.steps for entry in found] if path == "data.datasets" else found
    assert found == PUBLISHED[name][path]


def test_the_eyes_of_the_unet_are_changed_independently():
    """By knobs that the file names: each alone at its strongest makes two pictures of one."""
    config = load_config(find_config("unet.json"))
    entries = {entry["name"]: entry for entry in config.data.image_augmentation}
    knobs = {"jittering": ("brightness", "contrast", "hue"), "blurring": ("scale",), "gaussian_noise": ("sigma",)}
    assert all(entries[name][knob] for name, names in knobs.items() for knob in names)
    assert all(entry["asymmetric_probability"] == 1 for entry in entries.values())  # noise of one strength would differ as well
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    sample = StereoSample(image, image, np.zeros((240, 320), np.float32), np.ones((240, 320), bool))
    for entry in entries.values():
        changed = Augmentation([{**entry, "probability": 1.0}], False, "here")(sample, (320, 240), np.random.default_rng(1))
        assert (changed.left != changed.right).any() and (changed.left != image).any() and (changed.right != image).any(), entry["name"]


def test_the_options_of_the_unets_pose_are_those_of_its_comment():
    text = "".join(re.findall(r"(?m)^//   (--set.*)$", (FOLDER / "unet.json").read_text())).replace("--set", " --set")
    options = [word for word in shlex.split(text) if word != "--set"]
    config = load_config(find_config("unet.json"), options)
    assert "pose" in offered(config.model) and len(options) == 5
    assert config.loss["stereo"]["pose"].function == "pose_loss"
    assert config.data.datasets[0].params["residual_pose"] == config.validation.datasets[0].params["residual_pose"] == (0.5, 0.02)
    assert "pose" not in offered(load_config(find_config("unet.json")).model)
