"""Checks of RAFT-Stereo and CREStereo against stored numbers of the published ones; called by `golden.check_golden`.

Files hold flow, whose sign is opposite to that of disparity, for RAFT-Stereo, and predictions with the sign of disparity for CREStereo.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.crestereo import resize_flow
from core.inference import cascade
from tests.core.golden import KINDS, Report, compare_gradients, filled_model, find_reference, gradient_norms, manifest, recording

GATE = 1e-4
# In float32: values up to 190, values up to 44, and sums of many terms; as the notes beside the files say.
WIDER = {"lookup": 1e-3, "cascade2": 1e-3, "grad_norm": 1e-2, "loss_terms": 1e-3}


def check_flow(path: Path, variant: str, model: nn.Module | None) -> Report:
    """Every array of the file within 1e-4; `AssertionError` naming those beyond.

    model: filled with the file's seed; in float32, a few arrays have the wider gates of the notes. Built in float64 when absent, and
    then run with every implementation of its correlation.
    """
    file = np.load(path)
    reference = find_reference(path, variant)
    names = [key for key, _, _ in manifest(reference, variant)]
    given = model is not None
    if model is None:
        model = filled_model(reference, variant, int(file["seed"])).double()
    report = Report()
    implementations = ["reg", "alt"] if variant == "raft_stereo" and not given else [getattr(model, "correlation_implementation", None)]
    for implementation in implementations:
        if implementation is not None:
            model.correlation_implementation = implementation
        check = Check(file, model, report, variant, names)
        (_raft_stereo if variant == "raft_stereo" else _crestereo)(check)
        check.nothing_is_left()
    report.assert_all()
    return report


class Check:
    """One pass over a file with one network."""

    def __init__(self, file: Any, model: nn.Module, report: Report, variant: str, names: list[str]) -> None:
        self.file, self.model, self.report, self.kind, self.names = file, model, report, KINDS[variant], names
        self.dtype = next(model.parameters()).dtype
        self.label = getattr(model, "correlation_implementation", "")
        self.done = {"seed", "fp32_max_abs_deviation"}

    def gate(self, name: str) -> float:
        wider = [gate for part, gate in WIDER.items() if part in name]
        return wider[0] if wider and self.dtype == torch.float32 else GATE

    def compare(self, name: str, found: Tensor) -> None:
        self.report.compare(f"{name} {self.label}", found, self.file[name], self.gate(name))
        self.done.add(name)

    def tensor(self, name: str) -> Tensor:
        self.done.add(name)
        return torch.from_numpy(self.file[name]).to(self.dtype)

    def pair(self, part: str) -> tuple[Tensor, Tensor, int]:
        """Left and right in [0, 1], and the iterations."""
        views = [self.tensor(f"{part}.{side}") / 255 for side in ("left", "right")]
        left, right = (view if view.dim() == 4 else view[None] for view in views)
        self.done.add(f"{part}.disparity")
        height, width, iters = (int(value) for value in self.file[f"{part}.settings_h_w_iters"])
        self.done.add(f"{part}.settings_h_w_iters")
        assert left.shape[-2:] == (height, width)
        return left, right, iters

    def losses(self, terms: Tensor) -> None:
        """Loss terms with their weighted sum, which is descended, and the norm of every gradient."""
        stored = torch.from_numpy(self.file["b.loss_terms"])
        self.done |= {"b.loss_terms", "b.grad_norm"}
        self.report.compare(f"b.loss_terms {self.label}", terms, stored.numpy(), self.gate("b.loss_terms"))
        self.model.zero_grad()
        terms[-1].backward()
        norms = gradient_norms(self.model, self.kind, self.names)
        compare_gradients(f"b.grad_norm {self.label}", norms, self.file["b.grad_norm"], self.names, self.report, self.gate("b.grad_norm"))
        self.model.zero_grad()

    def nothing_is_left(self) -> None:
        untested = [name for name in self.file.files if name not in self.done]
        assert not untested, f"arrays that nothing was compared with: {untested}"


def every_iteration(model: nn.Module, function: Callable[[], Any]) -> Any:
    """With the predictions of all iterations; the layers keep the mode they are in."""
    model.training = True
    try:
        return function()
    finally:
        model.training = False


def weighted(terms: Tensor, gamma: float) -> Tensor:
    """The terms, the last weighing most, and their weighted sum after them."""
    weights = gamma ** torch.arange(len(terms) - 1, -1, -1, dtype=terms.dtype)
    return torch.cat([terms, (weights * terms).sum()[None]])


def _raft_stereo(check: Check) -> None:
    model = check.model
    left, right, iters = check.pair("a")
    modules = {
        "features": model.features,
        "context": model.context,
        "update": model.update,
        "motion": model.update.motion,
        "mask": model.update.mask_head,
        "delta": model.update.flow_head,
    }
    with torch.no_grad(), recording(modules) as seen:
        output = every_iteration(model, lambda: model(left, right, iters=iters))
    features = seen["features"][0][1].chunk(2)
    context, updates = seen["context"][0][1], seen["update"]
    check.compare("a.left_features", features[0])
    check.compare("a.right_features_every8ch", features[1][:, ::8])
    for level, (grid, every) in enumerate(((4, "_every4ch"), (8, "_every2ch"), (16, ""))):
        step = int(every[6:-2]) if every else 1
        check.compare(f"a.hidden_init_{grid}{every}", context.hidden[level][:, ::step])
        for gate, values in zip("zrq", context.gates[level].chunk(3, 1), strict=True):
            check.compare(f"a.context_{gate}_{grid}_every16ch", values[:, ::16])
        check.compare(f"a.hidden_update1_{grid}", updates[0][1][0][level])
    for number in (1, 2):
        check.compare(f"a.lookup_update{number}", updates[number - 1][0][2])
    check.compare("a.motion_update1_every4ch", seen["motion"][0][1][:, ::4])
    check.compare("a.mask_update1_every4ch", 0.25 * seen["mask"][0][1][:, ::4])
    check.compare("a.delta_update1_before_vertical_zeroing", seen["delta"][0][1])
    check.compare("a.flow_quarter_before_each_update", torch.cat([args[3][:, 0] for args, _ in updates]))
    (_, _, _, flow), (_, change) = updates[-1]
    check.compare("a.flow_quarter_final", torch.cat([flow[:, :1] + change[:, :1], flow[:, 1:]], 1))
    check.compare("a.flow_all_updates", -output.disparities)
    with torch.no_grad():
        started = model(left, right, iters=2, init=-check.tensor("c.flow_init")[None])
        check.compare("c.flow_init_final", -started.disparity)
        model.update.slow_fast = True
        check.compare("c.slow_fast_final", -model(left, right, iters=2).disparity)
        model.update.slow_fast = False
    truth = check.tensor("b.disparity")
    left, right, iters = check.pair("b")
    output = every_iteration(model, lambda: model(left, right, iters=iters))
    check.compare("b.flow_final", -output.disparity)
    terms = (output.disparities - truth).abs().mean((0, 2, 3))
    check.losses(weighted(terms, 0.9 ** (15 / (iters - 1))))


def _crestereo(check: Check) -> None:
    model = check.model
    left, right, iters = check.pair("a")
    modules = {
        "features": model.features,
        "offset_16": model.offset[0],
        "offset_8": model.offset[1],
        "self": model.self_attention,
        "cross": model.cross_attention,
        "update": model.update,
        "motion": model.update.motion,
        "mask": model.update.mask_head,
    }
    with torch.no_grad(), recording(modules) as seen:
        output = every_iteration(model, lambda: model(left, right, iters=iters))
    features = seen["features"][0][1].chunk(2)
    check.compare("a.left_features", features[0])
    check.compare("a.right_features_every8ch", features[1][:, ::8])
    for grid in (16, 8):
        check.compare(f"a.offset_conv_{grid}", seen[f"offset_{grid}"][0][1])
    check.compare("a.self_attn_in_left_16", seen["self"][0][0][0].transpose(1, 2))
    for side, view in enumerate(("left", "right")):
        check.compare(f"a.self_attn_{view}_16", seen["self"][side][1].transpose(1, 2))
        check.compare(f"a.cross_attn_{view}_16", seen["cross"][side][1].transpose(1, 2))
    first = {16: 0, 8: iters // 2, 4: 2 * (iters // 2)}  # update of each level
    for grid, number in first.items():
        (state, context, lookup, flow), (hidden, change) = seen["update"][number]
        check.compare(f"a.lookup_{grid}_update1", lookup)
        check.compare(f"a.lookup_{grid}_update2", seen["update"][number + 1][0][2])
        check.compare(f"a.flow_start_{grid}", flow)
        check.compare(f"a.hidden_update1_{grid}", hidden)
        check.compare(f"a.delta_update1_{grid}", change)
        if grid != 8:
            every = "_every4ch" if grid == 4 else ""
            check.compare(f"a.hidden_init_{grid}{every}", state[:, :: 4 if every else 1])
            check.compare(f"a.context_{grid}{every}", context[:, :: 4 if every else 1])
    check.compare("a.motion_16_update1", seen["motion"][0][1])
    check.compare("a.mask_16_update1", 0.25 * seen["mask"][0][1])
    check.compare("a.pred_x_all", output.disparities)
    check.compare("a.pred_y_final", output.vertical[:, -1])
    with torch.no_grad():
        init = resize_flow(check.tensor("c.flow_init")[None], features[0].shape[-2:])
        check.compare("c.flow_init_final", _both(model(left, right, iters=3, init=init)))
        check.compare("c.cascade2_final", _both(cascade(model, left, right, iters=4, cascades=2)))
        check.compare("c.five_iterations_final", _both(model(left, right, iters=5)))
    truth = check.tensor("b.disparity")
    left, right, iters = check.pair("b")
    output = every_iteration(model, lambda: model(left, right, iters=iters))
    check.compare("b.pred_final", _both(output))
    terms = ((output.disparities - truth).abs() + output.vertical.abs()).mean((0, 2, 3)) / 2
    check.losses(weighted(terms, 0.8))


def _both(output: Any) -> Tensor:
    """(B, 2, H, W): disparity and vertical shift of the last iteration."""
    return torch.stack([output.disparity, output.vertical[:, -1]], 1)
