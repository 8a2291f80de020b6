"""The command that translates weight files: every format, there and back bit for bit, and one line for each bad file."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from core import load_model
from core.convert import from_published
from core.weight_files import read_weights
from tests.conftest import SHARED
from tests.core.golden import filled_state, manifest
from tests.core.networks import TINY, images, tiny
from tests.core.test_weight_files import Bomb
from tests.scripts.tiny import Outcome, assert_same

REFERENCE = SHARED / "reference"
CFG = "max_disp: 192\nvit_size: vits\nvalid_iters: 16\nhidden_dims:\n- 128\n- 128\n- 128\n"


@pytest.fixture
def convert(monkeypatch, tmp_path):
    from scripts.convert import main

    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> Outcome:
        result = CliRunner().invoke(main, [str(option) for option in options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.output)

    return run


@pytest.fixture(scope="module")
def published():
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    return filled_state(REFERENCE, "vits", seed=2)


def refused(outcome, *words):
    assert outcome.code == 2, outcome.output
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: "), outcome.output
    assert all(word in outcome.lines[0] for word in words), outcome.output


def ours(path, **content):
    torch.save({"model_config": TINY, "model": tiny().state_dict(), **content}, path)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_published_weights_go_there_and_back_bit_for_bit(convert, published, tmp_path, kind):
    (tmp_path / "released").mkdir()
    torch.save({"model": published, "global_step": 1, "epoch": 0}, tmp_path / "released" / "model_best_bp2.pth")
    (tmp_path / "released" / "cfg.yaml").write_text(CFG)
    outcome = convert("released/model_best_bp2.pth", f"ours.{kind}")
    assert outcome.code == 0, outcome.output
    for words in ("vit_size vits", "max_disp 192", "backbone.monocular.vit", "hourglass", "disparity_attention tokens: over the disparity"):
        assert words in outcome.output, outcome.output
    carried = from_published(published)[2]
    assert f"{len(carried)} entries that the published network holds and never reads" in outcome.output
    found = read_weights(tmp_path / f"ours.{kind}")
    assert not found.published and found.config["valid_iters"] == 16 and found.config["freeze_backbone"] is True
    assert_same(found.carried, carried)

    outcome = convert(f"ours.{kind}", f"back/model.{kind}", "--to", "nvidia")
    assert outcome.code == 0 and "cfg.yaml" in outcome.output, outcome.output
    if kind == "pth":
        content = torch.load(tmp_path / "back" / "model.pth", weights_only=True)
        assert content.keys() == {"model", "global_step", "epoch"}
        back = content["model"]
    else:
        back = load_file(tmp_path / "back" / "model.safetensors")
    assert_same(back, published)
    entries = {key: (list(shape), getattr(torch, dtype)) for key, shape, dtype in manifest(REFERENCE, "vits")}
    assert {key: (list(value.shape), value.dtype) for key, value in back.items()} == entries
    again = read_weights(tmp_path / "back" / f"model.{kind}")
    assert again.config["max_disp"] == 192 and again.config["vit_size"] == "vits"
    assert_same(again.state, found.state)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["raft_stereo", "crestereo"])
def test_the_lighter_networks_go_there_and_back(convert, shared, tmp_path, kind):
    state = filled_state(REFERENCE, kind, seed=2)
    prefix = "module." if kind == "raft_stereo" else ""
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "released.pth")
    outcome = convert("released.pth", "ours.pt")
    assert outcome.code == 0 and f"model     type {kind}" in outcome.output, outcome.output
    assert convert("ours.pt", "back.pth", "--to", "published").code == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(key.startswith(prefix) for key in back)
    assert_same({key.removeprefix(prefix): value for key, value in back.items()}, state)
    refused(convert("ours.pt", "nvidia.pth", "--to", "nvidia"), f"NVIDIA published no {kind}", "published")


@pytest.mark.data
def test_the_way_back_remembers_how_the_disparities_attend(convert, published, tmp_path):
    _, state, carried = from_published(published)
    config = {"vit_size": "vits", "disparity_attention": "heads", "freeze_backbone": True}
    torch.save({"model_config": config, "model": state, "carried": carried}, tmp_path / "in.pt")
    outcome = convert("in.pt", "out/model.pth", "--to", "nvidia")
    assert outcome.code == 0 and "disparity_attention heads: inside each plane" in outcome.output, outcome.output
    assert read_weights(tmp_path / "out" / "model.pth").config["disparity_attention"] == "heads"
    assert load_model(tmp_path / "in.pt", {"max_disp": 64}).frozen_parts == {"vit", "decoder"}


@pytest.mark.data
def test_bad_published_files_are_one_line(convert, published, tmp_path):
    missing = {key: value for key, value in published.items() if key != "proj_cmb.bias"}
    for name, state, words in (
        ("missing", missing, ["1 missing: proj_cmb.bias"]),
        ("extra", {**published, "surplus": torch.zeros(1)}, ["1 left over: surplus"]),
        ("shape", {**published, "sam.samconv.weight": torch.zeros(1, 2, 3, 3)}, ["sam.samconv.weight is [1, 2, 3, 3]", "[1, 2, 7, 7]"]),
    ):
        torch.save({"model": state}, tmp_path / "bad.pth")
        refused(convert("bad.pth", f"{name}.pt"), "bad.pth", *words)
        assert not (tmp_path / f"{name}.pt").exists()


def test_our_checkpoints_become_plain_weights(convert, tmp_path):
    ours(tmp_path / "00000003_ema.pt", step=3, num_updates=5)
    assert convert("00000003_ema.pt", "w.safetensors").code == 0
    assert convert("w.safetensors", "w.pth").code == 0
    before, after = load_model(tmp_path / "00000003_ema.pt"), load_model(tmp_path / "w.pth")
    with torch.no_grad():
        assert torch.equal(before(*images()).disparity, after(*images()).disparity)
    refused(convert("w.pth", "n.pth", "--to", "nvidia"), "n.pth", "published sizes")


def test_bad_files_are_one_line(convert, tmp_path):
    state = tiny().state_dict()
    ours(tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    ours(tmp_path / "bomb.pt", extra=Bomb(tmp_path / "exploded"))
    ours(tmp_path / "missing.pt", model={key: value for key, value in state.items() if key != "classifier.score.weight"})
    ours(tmp_path / "extra.pt", model={**state, "surplus": torch.zeros(1)})
    ours(tmp_path / "shape.pt", model={**state, "context.conv.bias": torch.zeros(1)})
    ours(tmp_path / "config.pt", model_config={**TINY, "max_dips": 3})
    for name, words in {
        "absent.pt": ["no such file"],
        "truncated.pt": ["not a readable weight file"],
        "bomb.pt": ["not a readable weight file"],
        "missing.pt": ["1 missing: classifier.score.weight"],
        "extra.pt": ["1 left over: surplus"],
        "shape.pt": ["context.conv.bias is [1]", "[8]"],
        "config.pt": ["max_dips", "max_disp"],
    }.items():
        refused(convert(name, "out.pt"), name, *words)
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "out.pt").exists()


def test_nothing_is_overwritten(convert, tmp_path):
    ours(tmp_path / "good.pt")
    before = (tmp_path / "good.pt").read_bytes()
    refused(convert("good.pt", "good.pt"), "exists already")
    refused(convert("good.pt", "good.txt"), "unknown kind of file")
    assert (tmp_path / "good.pt").read_bytes() == before


@pytest.mark.data
def test_a_cfg_of_something_else_is_not_overwritten(convert, published, tmp_path):
    torch.save({"model": published}, tmp_path / "in.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cfg.yaml").write_text("max_disp: 64\n")
    refused(convert("in.pth", "out/model.pth", "--to", "nvidia"), "cfg.yaml", "exists already")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cfg.yaml"]
