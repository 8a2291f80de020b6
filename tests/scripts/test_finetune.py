"""Starting from the weights of a file: what is taken and what is not, what is frozen, what travels along, what is said and refused."""

import copy
import json
import logging

import pytest
import torch
from click.testing import CliRunner

from core import build_model, load_model
from core.convert import from_published
from tests.conftest import SHARED
from tests.core.golden import filled_state
from tests.core.networks import tiny_of
from tests.scripts.test_train import FEW, refused
from tests.scripts.tiny import TINY, assert_same, weights
from train import plan
from train.start import unhealthy

ONE = ["--num_iterations", 1, "--save_every", 1, "--log_every", 1]


@pytest.fixture
def unplanned(monkeypatch):
    """Dry runs without their estimate of memory, which takes most of their time."""
    monkeypatch.setattr(plan, "estimate_or_warn", lambda planner, setting: None)


def write_tiny(path, **changes):
    torch.manual_seed(5)
    model = build_model({**TINY["model"], **changes})
    torch.save({"model_config": {"type": "foundation_stereo", **TINY["model"], **changes}, "model": model.state_dict()}, path)
    return model.state_dict()


def test_init_only_takes_the_weights_and_nothing_else(train, tiny, tmp_path):
    state = write_tiny(tmp_path / "start.pt")
    outcome = train(*FEW, tiny, "--checkpoint", "start.pt", "--init_only", "--workspace", "run", "--set", "optimizer.params[0].lr=1e-12")
    assert outcome.code == 0, outcome.output
    after = weights(tmp_path / "run", 4)
    for name, value in state.items():
        if value.is_floating_point() and "running" not in name:
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)
    optimizer = torch.load(tmp_path / "run" / "checkpoint" / "00000004_optimizer.pt", weights_only=True)
    assert optimizer["step"] == 4 and optimizer["optimizer"]["state"][0]["step"] == 4
    assert "from start.pt (ours)" in outcome.output and "starting from step 0" not in outcome.output


def test_a_run_that_began_so_continues_exactly_and_can_be_begun_from(train, tiny, tmp_path):
    write_tiny(tmp_path / "start.pt")
    first = [*FEW, tiny, "--checkpoint", "start.pt", "--init_only"]
    assert train(*first, "--workspace", "whole").code == 0
    outcome = train(*FEW, tiny, "--checkpoint", "whole/checkpoint/00000002.pt", "--workspace", "rest")
    assert outcome.code == 0, outcome.output
    for part in ("", "_ema"):
        assert_same(weights(tmp_path / "whole", 4, part), weights(tmp_path / "rest", 4, part))
    outcome = train(*FEW, tiny, *ONE, "--checkpoint", "whole/checkpoint/00000004_ema.pt", "--init_only", "--workspace", "next")
    assert outcome.code == 0 and (tmp_path / "next" / "checkpoint" / "00000001.pt").exists(), outcome.output
    refused(train(*first, "--workspace", "whole"), "already holds a run")


def test_what_cannot_be_meant_is_one_line(train, tiny, tmp_path):
    write_tiny(tmp_path / "start.pt")
    (tmp_path / "00000007.pt").write_bytes((tmp_path / "start.pt").read_bytes())
    write_tiny(tmp_path / "wide.pt", volume_dim=8, corr_groups=4, max_disp=64)
    run = [*FEW, tiny, "--workspace", "run"]
    refused(train(*run, "--init_only"), "--init_only", "not given", "weight file")
    refused(train(*run, "--init_only", "--checkpoint", "latest"), "--init_only", "latest")
    refused(train(*run, "--init_only", "--checkpoint", "absent.pth"), "absent.pth", "no such file")
    refused(train(*run, "--checkpoint", "start.pt"), "start.pt", "add --init_only")
    refused(train(*run, "--checkpoint", "00000007.pt"), "00000007_optimizer.pt", "add --init_only")
    differing = train(*run, "--init_only", "--checkpoint", "wide.pt")
    refused(differing, "wide.pt", "volume_dim: 4 / 8", "corr_groups: 2 / 4")
    error = next(line for line in differing.lines if line.startswith("error: "))
    assert "max_disp" not in error  # no entry depends on it
    refused(train("--config", "finetune.json", "--workspace", "run", "--set", 'data.datasets=[{"name": "a", "type": "synthetic"}]'),
            "model.freeze_backbone", "random weights", "weight file")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_other_use_of_the_same_weights_is_said(train, tiny, tmp_path):
    write_tiny(tmp_path / "start.pt", disparity_attention="heads", max_disp=64)
    outcome = train(*FEW, tiny, *ONE, "--checkpoint", "start.pt", "--init_only", "--workspace", "run")
    assert outcome.code == 0, outcome.output
    assert "disparity_attention: 'tokens' / 'heads', max_disp: 32 / 64" in outcome.output


def test_health_and_narrow_crops_are_told_at_the_start(train, tiny, tmp_path, unplanned):
    write_tiny(tmp_path / "start.pt")
    content = torch.load(tmp_path / "start.pt", weights_only=True)
    content["model"]["context.norm.running_var"][3] = 1e4
    content["model"]["cost_volume.project.weight"][0] = 2e3
    content["model"]["classifier.score.weight"][0, 0, 0, 0, 0] = 3e38  # finite; what it makes is not
    torch.save(content, tmp_path / "start.pt")
    sizes = ["--set", "model.max_disp=128", "--set", "data.image_sizes=[[128, 64], [64, 64]]", "--dry_run"]
    outcome = train(*FEW, tiny, "--checkpoint", "start.pt", "--init_only", "--workspace", "run", *sizes)
    assert outcome.code == 0, outcome.output
    assert "health: context.norm.running_var: from 1 to 1e+04, sane is 0 to 1000\n" in outcome.output
    assert "health: cost_volume.project.weight: from" in outcome.output and "to 2e+03, sane is -1000 to 1000" in outcome.output
    assert "health: classifier.score.weight: from" in outcome.output and "to 3e+38" in outcome.output
    narrow = [line for line in outcome.lines if "narrower than the disparity range" in line]
    assert len(narrow) == 1 and "data.image_sizes[1]: crops are 64 pixels wide" in narrow[0] and "50 % of" in narrow[0]
    assert "smallest width for model.max_disp 128 is 128" in narrow[0] and "model.max_disp to 64" in narrow[0]
    assert "skipped: the gradient norm is nan" in outcome.output
    single = ["--set", "data.image_sizes=[[32, 32]]", "--batch_size_forward", 1]
    refused(train(*FEW, tiny, "--workspace", "run", *single), "data.image_sizes[0]", "single value", "frozen_statistics")


def test_what_is_not_finite_is_unhealthy():
    """As where a run goes on, or in a backbone's weights; any other start from such a file is refused."""
    network = tiny_of("foundation_stereo")
    assert not unhealthy(network)
    network.get_parameter("classifier.score.weight").data[0, 0, 0, 0, :2] = torch.nan
    network.get_buffer("context.norm.running_var")[3] = torch.inf
    assert [line.partition(", ")[0] for line in unhealthy(network)] == [
        "context.norm.running_var: from 1 to inf", "classifier.score.weight: from nan to nan",
    ]  # fmt: skip


def test_detect_anomaly_ends_the_run_with_the_module(train, tiny, tmp_path):
    write_tiny(tmp_path / "start.pt")
    content = torch.load(tmp_path / "start.pt", weights_only=True)
    content["model"]["context.norm.weight"][3] = 3e38
    torch.save(content, tmp_path / "start.pt")
    run = [*FEW, tiny, "--checkpoint", "start.pt", "--init_only", "--workspace", "run"]
    refused(train(*run, "--detect_anomaly"), "step 0, samples made/", "context.norm (BatchNorm2d)", "its weight", "running_var")


def test_anomaly_detection_changes_no_weight(train, tiny, tmp_path):
    assert train(*FEW, tiny, "--workspace", "plain").code == 0
    outcome = train(*FEW, tiny, "--workspace", "watched", "--detect_anomaly")
    assert outcome.code == 0 and "got no gradient" not in outcome.output, outcome.output
    assert_same(weights(tmp_path / "plain", 4), weights(tmp_path / "watched", 4))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file like the published one, ViT-S, with filled weights; and its state dict."""
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    state = filled_state(SHARED / "reference", "vits", seed=3)
    path = tmp_path_factory.mktemp("released") / "model_best_bp2.pth"
    torch.save({"model": state, "global_step": 1, "epoch": 0}, path)
    return path, state


@pytest.mark.data
def test_released_weights_are_fine_tuned_and_go_back(train, released, tmp_path):
    """The shipped recipe on a few small crops: monocular branch frozen and untouched, carried entries in every weights file, also after
    going on; the result is a file as NVIDIA's code reads it."""
    path, published = released
    from train.run_file import FOLDER
    from utils.files import read_config

    recipe = copy.deepcopy(read_config(FOLDER / "finetune.json"))
    recipe["data"] |= {"datasets": TINY["data"]["datasets"], "image_sizes": [[64, 64]], "workers": 0}
    recipe["model"] |= {"max_disp": 64, "train_iters": 1}
    recipe["validation"] = {"every": 0}
    recipe["optimizer"] |= {"type": "SGD", "params": [{**group, "lr": 1e-3} for group in recipe["optimizer"]["params"]]}
    recipe["lr_scheduler"] = {"type": "ConstantLR", "params": {"factor": 1.0}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    run = ["--config", "recipe.json", "--workspace", "run", "--batch_size_forward", 1, "--enable_mlflow", "false", *ONE]
    outcome = train(*run, "--checkpoint", path, "--init_only")
    assert outcome.code == 0, outcome.output
    rows = [line.split() for line in outcome.lines if "(published)" in line]
    assert [row[:-3] for row in rows] == [["monocular", "vit", "frozen"], ["monocular", "decoder", "frozen"], ["cnn", "trained"],
                                          ["all", "else", "trained"]]  # fmt: skip
    assert "max_disp: 64 / 416" in outcome.output and "health" not in outcome.output
    outcome = train(*run, "--checkpoint", "latest", "--num_iterations", 2)
    assert outcome.code == 0 and "monocular vit      frozen" in outcome.output, outcome.output

    _, ours, carried = from_published(published)
    for part in ("", "_ema"):
        content = torch.load(tmp_path / "run" / "checkpoint" / f"00000002{part}.pt", weights_only=True)
        assert_same(content["carried"], carried)
        changed = {name for name, value in content["model"].items() if not torch.equal(value, ours[name])}
        assert changed and not any(name.startswith("backbone.monocular.") or "running_" in name for name in changed)
        assert any(name.startswith("backbone.cnn.") for name in changed)

    from scripts.convert import main

    result = CliRunner().invoke(main, ["run/checkpoint/00000002_ema.pt", "out/model.pth", "--to", "nvidia"])
    assert result.exit_code == 0, result.output
    back = torch.load(tmp_path / "out" / "model.pth", weights_only=True)["model"]
    assert back.keys() == published.keys() and torch.equal(back["stem_4.1.weight"], published["stem_4.1.weight"])
    assert load_model(tmp_path / "run" / "checkpoint" / "00000002_ema.pt").frozen_parts == {"vit", "decoder"}


@pytest.mark.data
@pytest.mark.parametrize(("freeze", "frozen"), [(None, {"vit", "decoder"}), (False, set())])
def test_freezing_is_as_the_file_says_unless_the_configuration_does(released, tmp_path, freeze, frozen):
    from train.run_file import load_config
    from train.start import start_from_file

    model = {**TINY["model"], "freeze_backbone": freeze, "max_disp": 64}
    for key in ("feature_type", "cnn", "volume_dim", "corr_groups", "n_gru_layers", "hidden_dims", "context_dims"):
        del model[key]
    (tmp_path / "run.json").write_text(json.dumps({**TINY, "model": model}))
    start = start_from_file(load_config(tmp_path / "run.json"), released[0])
    assert start.network.frozen_parts == frozen
    again = build_model(start.config.model, with_pretrained=False)  # as going on from its checkpoint does
    assert again.frozen_parts == frozen


@pytest.mark.parametrize("freeze", [None, True])
def test_what_was_frozen_stays_so_when_the_file_that_filled_it_is_gone(train, tmp_path, unplanned, freeze):
    """A DINOv2 file fills the ViT and not the decoder; no name says so once the file is gone."""
    model = {**TINY["model"], "feature_type": "dinov2", "pretrained_backbone": "dinov2.pth", "freeze_backbone": freeze}
    vit = build_model({**model, "pretrained_backbone": "none", "freeze_backbone": None}).backbone.monocular.vit
    torch.save(vit.state_dict(), tmp_path / "dinov2.pth")
    (tmp_path / "run.json").write_text(json.dumps({**TINY, "model": model}))
    run = ["--config", "run.json", "--workspace", "run", "--batch_size_forward", 1, "--enable_mlflow", "false", *ONE]
    run += ["--set", "data.image_sizes=[[64, 64]]"]
    first = train(*run)
    (tmp_path / "dinov2.pth").unlink()
    second = train(*run, "--checkpoint", "latest", "--num_iterations", 2)
    third = train(*run[:2], "--workspace", "next", *run[4:], "--checkpoint", "run/checkpoint/00000002.pt", "--init_only", "--dry_run")
    for outcome in (first, second) if freeze else (first, second, third):  # asked to freeze, a new run takes it for the whole branch
        assert outcome.code == 0, outcome.output
        assert "monocular vit      frozen" in outcome.output and "monocular decoder  trained" in outcome.output
    assert "continuing with" not in second.output


def test_no_nan_reaches_a_weight_and_every_skip_is_explained(tmp_path, monkeypatch, caplog):
    """Exploded running variances in one layer, a sample without valid pixels in every step, and ground truth that is not finite and marked
    as valid all the same, which no reader passes on: inf has the gradient of any far value and is clipped, NaN is skipped."""
    from train import loop
    from train.run import Options, build_run
    from train.run_file import load_config

    write_tiny(tmp_path / "start.pt")
    content = torch.load(tmp_path / "start.pt", weights_only=True)
    content["model"]["context.stages.1.0.norm1.running_var"].fill_(1e4)
    torch.save(content, tmp_path / "start.pt")
    (tmp_path / "run.json").write_text(json.dumps(TINY))
    options = Options(tmp_path / "run", checkpoint=str(tmp_path / "start.pt"), init_only=True, batch_size_forward=2, num_iterations=9,
                      save_every=0, enable_mlflow=False)  # fmt: skip
    with build_run(load_config(tmp_path / "run.json"), options) as run:
        batches = run.loader.batches

        def poisoned(step):
            for batch in batches(step):
                batch.valid[0] = False
                if step % 3:
                    batch.disparity[1, 8, 8], batch.valid[1, 8, 8] = float("inf" if step % 3 == 1 else "nan"), True
                yield batch

        monkeypatch.setattr(run.loader, "batches", poisoned)
        logging.getLogger("stereofoundry").propagate = True
        for step in range(9):
            loop.update(run, step)
            for network in (run.network, run.ema.module):
                assert all(value.isfinite().all() for value in network.state_dict().values() if value.is_floating_point())
        assert run.skipped == 3 and run.ema.num_updates == 6
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(lines) == 3 and all("not finite in made/" in line and "," not in line for line in lines)  # the one sample, and no other
