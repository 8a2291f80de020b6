"""Every registered network becomes a graph whose numbers onnxruntime confirms; the command, and `foundation_stereo`, are in
`tests/scripts/test_export.py`."""

import pytest
import torch

from core import MODELS, onnx_export
from core.onnx_export import TENSORRT, TOLERANCE_PX, export_onnx
from tests.core.networks import images, tiny_of
from utils.errors import UserError

LONG = {"crestereo"}  # three levels of two iterations each: half a minute of the exporter
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in MODELS if kind != "foundation_stereo"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_same_numbers_with_operators_that_tensorrt_has(kind, onnxruntime, tmp_path):
    network = tiny_of(kind)
    exported = export_onnx(network, tmp_path / "network.onnx", (4 * network.multiple, 2 * network.multiple), iterations=2)
    assert exported.path.stat().st_size > 4 * sum(p.numel() for p in network.parameters())
    assert exported.deviation_px < TOLERANCE_PX / 100 and "Conv" in exported.operators and exported.operators.keys() <= TENSORRT


def test_a_graph_says_what_the_network_says_beside_disparity(onnxruntime, tmp_path, monkeypatch):
    network, views = tiny_of("unet").eval(), images(height=32, width=64)
    export_onnx(network, tmp_path / "network.onnx", (64, 32))
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["disparity", "log_variance", "pose"]
    with torch.no_grad():
        expected = network(*views)
    for name, found in zip(
        names, session.run(None, dict(zip(("left", "right"), map(torch.Tensor.numpy, views), strict=True))), strict=True
    ):
        torch.testing.assert_close(torch.from_numpy(found), getattr(expected, name), atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(onnx_export, "FURTHER", {"log_variance": 1e-2, "pose": -1.0})
    with pytest.raises(UserError, match="pose of onnxruntime differs from the network by"):
        export_onnx(network, tmp_path / "other.onnx", (64, 32))
    assert not (tmp_path / "other.onnx").exists()
