"""A network as an ONNX graph of one size and one number of iterations, believed only after onnxruntime has given the same numbers.

Needs the extra `onnx`. The graph holds operators of the standard domain alone, of those that TensorRT 10 implements.
"""

import importlib.util
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import UserError

OPSET = 18
TORCH = "2.7"  # the first whose exporter works with today's onnxscript
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE_PX = 1e-2  # the sum of the iterations' rounding, in float32; see the gates of tests/core/golden.py
FURTHER = {"log_variance": 1e-2, "pose": 1e-4}  # what else a graph gives where the network does, and how far it may be off
# What TensorRT 10's parser takes of what networks here can hold (onnx-tensorrt, docs/operators.md).
TENSORRT = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos CumSum
    DepthToSpace Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
    Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax LRN MatMul Max MaxPool Mean Min Mod Mul Neg Not Or Pad Pow PRelu Range Reciprocal ReduceL1 ReduceL2
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape
    Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Where Xor
    """.split()  # noqa: SIM905 - one line per name would be a page
)


class Exported(NamedTuple):
    """deviation_px: the largest difference of onnxruntime from the network, on the pair of the check. operators: name -> how many."""

    path: Path
    opset: int
    operators: dict[str, int]
    deviation_px: float


class _Final(nn.Module):
    """The outputs of `names`, as a tuple."""

    def __init__(self, network: nn.Module, iterations: int | None, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.iterations, self.names = network, iterations, names

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        output = self.network(left, right, iters=self.iterations)
        return tuple(getattr(output, name) for name in self.names)


def export_onnx(network: nn.Module, path: Path, size: tuple[int, int], iterations: int | None = None) -> Exported:
    """Write `path`: inputs left and right, float32 (1, 3, H, W) RGB in [0, 1]; output disparity, float32 (1, H, W) pixels, and those of
    `FURTHER` that the network has, as in `StereoOutput`.

    size: (width, height), multiples of the network's. Raises UserError for another size, for a missing package or an old torch, for an
    operator that TensorRT does not have, and where onnxruntime's numbers differ by more than `TOLERANCE_PX` or `FURTHER`; there is no file
    then.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"ONNX: needs {', '.join(missing)}; run with the extra: uv run --extra onnx python scripts/export.py ...")
    width, height = size
    multiple = network.multiple
    if width % multiple or height % multiple:  # pyright: ignore[reportOperatorIssue]
        raise UserError(f"ONNX: {width} x {height} (width x height) is no multiple of {multiple}; pad the images to one that is")
    if torch.__version__ < TORCH:
        raise UserError(f"ONNX: found torch {torch.__version__}; expected {TORCH} or newer, whose exporter goes with today's onnxscript")
    if path.exists():
        raise UserError(f"{path}: exists already and is not overwritten; pass another name")
    pair = _pair(height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own passes
        output = network.eval()(*pair, iters=iterations)
        names = ("disparity", *(name for name in FURTHER if getattr(output, name) is not None))
        model = _Final(network, iterations, names).eval()
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model, pair, path, input_names=["left", "right"], output_names=names, opset_version=OPSET, dynamo=True, verbose=False,
            external_data=False,
        )  # fmt: skip
    try:
        return _check(path, pair, {name: getattr(output, name).numpy() for name in names})
    except BaseException:
        path.unlink()
        raise


def _pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A texture, and the same moved by 4 pixels: there is something to match."""
    texture = torch.from_numpy(np.random.default_rng(0).random((1, 3, height // 4, width // 4 + 1), np.float32))
    wide = nn.functional.interpolate(texture, size=(height, width + 4), mode="bilinear")
    return wide[..., :width].contiguous(), wide[..., 4:].contiguous()


def _check(path: Path, pair: tuple[Tensor, Tensor], expected: Mapping[str, np.ndarray]) -> Exported:
    import onnx
    import onnxruntime

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    operators = count_operators(graph.graph.node)
    if foreign := sorted(operators.keys() - TENSORRT):
        raise UserError(f"{path}: operators that TensorRT does not implement: {', '.join(foreign)}; no file was written")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(expected), {name: view.numpy() for name, view in zip(("left", "right"), pair, strict=True)})
    deviations = {name: float(np.abs(one - expected[name]).max()) for name, one in zip(expected, map(np.asarray, found), strict=True)}
    for name, deviation in deviations.items():
        if not deviation <= (allowed := FURTHER.get(name, TOLERANCE_PX)):
            raise UserError(
                f"{path}: {name} of onnxruntime differs from the network by {deviation:.3g}, allowed {allowed:g}; no file was written"
            )
    return Exported(path, OPSET, operators, deviations["disparity"])


def count_operators(nodes) -> dict[str, int]:
    """Operators of a graph by name, `domain.name` for those of another domain, those of inner graphs as well."""
    counts: dict[str, int] = {}
    for node in nodes:
        name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        counts[name] = counts.get(name, 0) + 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _merge(counts, count_operators(graph.node))
    return counts


def _merge(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
