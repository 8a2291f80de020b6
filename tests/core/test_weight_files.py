"""Whole networks from files of every kind, and what each bad file is answered with."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core import build_model, load_model
from core.convert import to_published
from core.weight_export import check_half, read_checked
from core.weight_files import read_cfg, read_weights
from tests.conftest import SHARED
from tests.core.golden import filled_state
from tests.core.networks import TINY, images, tiny
from utils.errors import UserError


def our_checkpoint():
    model = tiny().eval()
    return model, {"step": 3, "model_config": TINY, "model": model.state_dict()}


@pytest.mark.parametrize("kind", ["pt", "distributed", "safetensors"])
def test_our_files_give_the_same_network(tmp_path, kind):
    model, content = our_checkpoint()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(content["model"], path, metadata={"model_config": json.dumps(TINY)})
    else:
        prefix = "module." if kind == "distributed" else ""
        torch.save({**content, "model": {prefix + key: value for key, value in content["model"].items()}}, path)
    loaded = load_model(path)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(*images()).disparity, model(*images()).disparity)


def test_keys_of_the_configuration_can_be_changed(tmp_path):
    torch.save(our_checkpoint()[1], tmp_path / "w.pt")
    model = load_model(tmp_path / "w.pt", {"disparity_attention": "heads", "correlation_implementation": "reg", "max_disp": 96})
    assert (model.hourglass.transformer.layers[0].axis, model.correlation_implementation, model.max_disp) == ("heads", "reg", 96)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["published", "plain", "safetensors"])
def test_published_files(tmp_path, kind):
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    state = filled_state(SHARED / "reference", "vits", seed=0)
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model_best_bp2.pth")
    if kind == "published":
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "global_step": 1, "epoch": 0}, path)
        (tmp_path / "cfg.yaml").write_text(
            "corr_levels: 2\nmax_disp: 416\nvit_size: vits\nhidden_dims:\n- 128\n- 128\n- 128\nvalid_iters: 32\n"
        )
    elif kind == "plain":
        torch.save(state, path)
    else:
        save_file(state, path)
    weights = read_weights(path)
    assert weights.published and weights.config["vit_size"] == "vits" and weights.config["max_disp"] == 416
    if kind == "published":
        model = load_model(path, {"max_disp": 64})
        assert model.frozen_parts == {"vit", "decoder"}
        assert np.isfinite(model.infer(*np.zeros((2, 32, 64, 3), np.uint8), iters=1)).all()


@pytest.mark.parametrize("kind", ["raft_stereo", "crestereo"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_of_the_lighter_networks(tmp_path, kind, suffix):
    """As their authors publish them: a plain state dict, RAFT-Stereo's with the prefix of its wrapper."""
    source = build_model({"type": kind}).eval()
    state = to_published({"type": kind}, source.state_dict())
    prefix = "module." if kind == "raft_stereo" else ""
    path = tmp_path / f"published.{suffix}"
    content = {prefix + key: value.clone() for key, value in state.items()}
    if suffix == "pth":
        torch.save(content, path)
    else:
        save_file(content, path)
    weights = read_weights(path)
    assert weights.published and weights.config["type"] == kind
    loaded = load_model(path, {"valid_iters": 2})
    with torch.no_grad():
        assert torch.equal(loaded(*images()).disparity, source(*images(), iters=2).disparity)
    if suffix == "pth":
        del content[f"{prefix}update_block.flow_head.conv1.bias"]
        torch.save(content, path)
        with pytest.raises(UserError, match=r"published\.pth: .*missing: update_block\.flow_head\.conv1\.bias"):
            load_model(path)


def test_cfg_yaml_is_read_for_what_is_needed_and_nothing_more(tmp_path):
    path = tmp_path / "cfg.yaml"
    assert read_cfg(path, "vitl") == {}
    path.write_text("max_disp: 192 # pixels\nnotes: !!python/object/apply:os.system ['true']\nvalid_iters: '16'\n  train_iters: 3\n")
    assert read_cfg(path, "vitl") == {"max_disp": 192, "valid_iters": 16}
    path.write_text("vit_size: vits\n")
    with pytest.raises(UserError, match="vit_size is vits, but the weights beside it are vitl"):
        read_cfg(path, "vitl")
    path.write_text("max_disp: many\n")
    with pytest.raises(UserError, match="max_disp: many; expected a whole number"):
        read_cfg(path, "vitl")


class Bomb:
    """A pickle of it creates a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_bad_files_are_one_clear_line_each(tmp_path):
    _, content = our_checkpoint()
    torch.save(content, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10" * 40)
    torch.save({**content, "extra": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt")
    torch.save(content["model"], tmp_path / "bare.pt")
    torch.save({"model": "nothing"}, tmp_path / "nothing.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    state = dict(content["model"])
    state["surplus"] = state.pop("classifier.score.weight")
    state["context.conv.bias"] = torch.zeros(1)
    torch.save({**content, "model": state}, tmp_path / "misfit.pt")
    expected = {
        "absent.pt": "no such file",
        "truncated.pt": "not a readable weight file",
        "empty.pth": "not a readable weight file",
        "broken.safetensors": "not a readable safetensors file",
        "bomb.pt": "not a readable weight file",
        "bare.pt": "without its configuration",
        "nothing.pt": "no state dict in it",
        "other.pt": "no weights of a known network",
        "misfit.pt": r"1 missing: classifier\.score\.weight; 1 left over: surplus; 1 wrong: context\.conv\.bias is \[1\], expected \[8\]",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            load_model(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value), name
    assert not (tmp_path / "exploded").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    _, content = our_checkpoint()
    state = {key: value.clone() for key, value in content["model"].items()}
    state["classifier.score.weight"].view(-1)[:2] = torch.tensor([float("nan"), float("-inf")])
    torch.save({**content, "model": state}, tmp_path / "w.pt")
    for read in (load_model, read_checked):
        with pytest.raises(UserError, match=r"w\.pt: 2 of \d+ values of classifier\.score\.weight are not finite, and some in 1 entries"):
            read(tmp_path / "w.pt")


def test_weights_of_whole_numbers_are_refused(tmp_path):
    _, content = our_checkpoint()
    state = {**content["model"], "context.conv.bias": torch.zeros(8, dtype=torch.int64)}
    torch.save({**content, "model": state}, tmp_path / "w.pt")
    for read in (load_model, read_checked):
        with pytest.raises(UserError, match=r"1 wrong: context\.conv\.bias is int64, expected floating point"):
            read(tmp_path / "w.pt")


def test_values_that_half_precision_does_not_hold_are_refused():
    check_half({"a": torch.tensor([65504.0]), "steps": torch.tensor(70000)}, "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: as float16: 1 of 2 values of b are not finite.*without --fp16"):
        check_half({"a": torch.tensor([1.0]), "b": torch.tensor([1.0, 70000.0])}, "w.pt")
