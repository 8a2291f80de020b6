"""Every registered network becomes a graph whose numbers onnxruntime confirms; the command, and `foundation_stereo`, are in
`tests/scripts/test_export.py`."""

import pytest

from core import MODELS
from core.onnx_export import TENSORRT, TOLERANCE_PX, export_onnx
from tests.core.networks import tiny_of

LONG = {"crestereo"}  # three levels of two iterations each: half a minute of the exporter
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in MODELS if kind != "foundation_stereo"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_same_numbers_with_operators_that_tensorrt_has(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    network = tiny_of(kind)
    exported = export_onnx(network, tmp_path / "network.onnx", (4 * network.multiple, 2 * network.multiple), iterations=2)
    assert exported.path.stat().st_size > 4 * sum(p.numel() for p in network.parameters())
    assert exported.deviation_px < TOLERANCE_PX / 100 and "Conv" in exported.operators and exported.operators.keys() <= TENSORRT
