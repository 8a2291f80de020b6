"""What is exported is read by libraries that are not ours, and gives the same numbers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core import build_model, load_model, onnx_export
from scripts.export import main
from tests.scripts.tiny import TINY

PAIR = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build_model(TINY["model"])
    run = {
        "data": {**TINY["data"], "datasets": [{**TINY["data"]["datasets"][0], "weight": 1.0}]},
        "loss": {"stereo": {"l": {"function": "epe_loss"}}},
    }
    path = tmp_path / "00000005_ema.pt"
    torch.save({"model_config": {"type": "foundation_stereo", **TINY["model"]}, "model": model.state_dict(), "config": run}, path)
    return path


def export(*options):
    result = CliRunner().invoke(main, [str(option) for option in options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def refused(result, *words):
    assert result.exit_code == 2 and result.output.startswith("error: ") and all(word in result.output for word in words), result.output


def test_weights_configuration_and_card(checkpoint, tmp_path):
    from safetensors import safe_open

    metrics = tmp_path / "r.json"
    metrics.write_text(json.dumps({"suite": "scenes", "protocol": {"mask": "all"}, "mean": {"epe": 1.25, "bad_2": None}}))
    result = export(checkpoint, tmp_path / "out", "--metrics", metrics)
    assert result.exit_code == 0, result.output
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    ours = load_model(checkpoint).state_dict()
    assert stored.keys() == ours.keys() and all((stored[key] == ours[key].numpy()).all() for key in stored)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["volume_dim"] == TINY["model"]["volume_dim"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "made (synthetic)" in card and "| epe | 1.25 |" in card and "random numbers" in card
    left, right = PAIR
    expected = load_model(checkpoint).infer(left, right)
    assert (load_model(tmp_path / "out" / "model.safetensors").infer(left, right) == expected).all()


def test_the_hub_mixin_loads_a_folder_and_saves_it_again(checkpoint, tmp_path):
    from core.hub import StereoModel

    assert export(checkpoint, tmp_path / "out").exit_code == 0
    model = StereoModel.from_pretrained(str(tmp_path / "out"))
    left, right = PAIR
    expected = load_model(checkpoint).infer(left, right)
    assert (model.infer(left, right) == expected).all()
    model.save_pretrained(tmp_path / "again")
    assert (StereoModel.from_pretrained(str(tmp_path / "again")).infer(left, right) == expected).all()


def test_half_the_size_is_nearly_the_same_disparity(checkpoint, tmp_path):
    assert export(checkpoint, tmp_path / "full").exit_code == 0 and export(checkpoint, tmp_path / "half", "--fp16").exit_code == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    left, right = PAIR
    found = [load_model(tmp_path / name / "model.safetensors").infer(left, right) for name in ("full", "half")]
    assert 0 < np.abs(found[0] - found[1]).max() < 0.2


def test_what_half_precision_makes_infinite_is_refused_before_anything_is_written(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["classifier.score.weight"].view(-1)[0] = 70000
    torch.save(content, checkpoint)
    refused(export(checkpoint, tmp_path / "out", "--fp16"), "as float16", "classifier.score.weight", "--fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("implementation", "scales"), [("reg", [1.0]), ("alt", [1.0, 1.5])])
def test_the_graph_gives_the_same_numbers_elsewhere(checkpoint, onnxruntime, tmp_path, implementation, scales):
    """It is one pass, which is said where the network makes several."""
    import onnx

    content = torch.load(checkpoint, weights_only=True)
    content["model_config"] |= {"correlation_implementation": implementation, "valid_scales": scales, "start_cost": 0.5}
    torch.save(content, checkpoint)
    result = export(checkpoint, tmp_path / "out", "--onnx", 96, 64, "--iterations", 1)
    assert result.exit_code == 0 and "opset 18" in result.output, result.output
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert {entry.domain for entry in graph.opset_import} == {""} and {node.domain for node in graph.graph.node} == {""}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    views = [view.transpose(2, 0, 1)[None].astype(np.float32) / 255 for view in PAIR]
    found = session.run(None, dict(zip(("left", "right"), views, strict=True)))[0]
    with torch.no_grad():
        expected = load_model(checkpoint)(*map(torch.from_numpy, views), iters=1).disparity
    assert ("one pass; `infer` makes one at each of 1.0, 1.5 times the size" in result.output) == (len(scales) > 1), result.output
    assert found.shape == (1, 64, 96) and np.abs(found - expected.numpy()).max() < 1e-2


class Shift(torch.nn.Module):
    """The smallest thing that has the protocol of a network."""

    multiple = 32

    def forward(self, left, right, iters=None):
        from core.output import StereoOutput

        disparity = (left - right).mean(1, keepdim=True)
        return StereoOutput(disparity, disparity)


def test_a_graph_with_foreign_operators_or_other_numbers_is_refused(onnxruntime, tmp_path, monkeypatch):
    from utils.errors import UserError

    good = onnx_export.export_onnx(Shift(), tmp_path / "good.onnx", (64, 32))
    assert good.deviation_px < 1e-6 and "Sub" in good.operators
    with pytest.raises(UserError, match="exists already"):
        onnx_export.export_onnx(Shift(), tmp_path / "good.onnx", (64, 32))
    monkeypatch.setattr(onnx_export, "TENSORRT", onnx_export.TENSORRT - {"Sub"})
    with pytest.raises(UserError, match="TensorRT does not implement: Sub; no file was written"):
        onnx_export.export_onnx(Shift(), tmp_path / "foreign.onnx", (64, 32))
    monkeypatch.undo()
    monkeypatch.setattr(onnx_export, "TOLERANCE_PX", -1.0)
    with pytest.raises(UserError, match="differs from the network by"):
        onnx_export.export_onnx(Shift(), tmp_path / "other.onnx", (64, 32))
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["good.onnx"]


def test_wrong_input_is_one_line(checkpoint, tmp_path, monkeypatch):
    refused(export(tmp_path / "absent.pt", tmp_path / "out"), "absent.pt")
    refused(export(checkpoint, tmp_path), "exists already")
    refused(export(checkpoint, tmp_path / "out", "--iterations", 5), "--iterations: does nothing without --onnx; leave it out")
    refused(export(checkpoint, tmp_path / "out", "--metrics", checkpoint), "--metrics")
    refused(export(checkpoint, tmp_path / "out", "--onnx", 90, 64), "no multiple of 32")
    assert not (tmp_path / "out").exists()  # so that the corrected command may write it
    monkeypatch.setattr(onnx_export, "TORCH", "99.0")
    refused(export(checkpoint, tmp_path / "old", "--onnx", 96, 64), "found torch 2.", "expected 99.0 or newer")

    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", offline)
    refused(export(checkpoint, tmp_path / "pushed", "--push_to_hub", "a/b"), "not uploaded", "is complete")
    assert (tmp_path / "pushed" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "carried", "words"),
    [
        ({"pretrained_backbone": "none"}, False, "random numbers"),
        ({"pretrained_backbone": "none"}, True, "NVIDIA"),
        ({"pretrained_backbone": "weights/depth_anything_v2_vits.pth"}, False, "Apache"),
        ({"pretrained_backbone": "hf:depth-anything/Depth-Anything-V2-Large/depth_anything_v2_vitl.pth"}, False, "CC BY-NC"),
        ({"pretrained_backbone": "own.pth"}, False, "own.pth, whose licence"),
    ],
)
def test_the_card_says_whose_licence_the_weights_carry(model, carried, words):
    from train.model_card import find_origin

    assert words in find_origin(model, carried)
