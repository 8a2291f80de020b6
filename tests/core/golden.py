"""Checks of our networks against stored numbers of the published ones. `check_golden(path, variant)` takes any such file.

Weights come from a rule and not from a download; the rule and the contents of a file are described beside the files.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import build_model
from core.convert import PUBLISHED, from_published, rename
from core.cost_volume import group_correlation
from core.inference import predict_hierarchical
from core.plain import concatenation

KINDS = dict.fromkeys(("vits", "vitb", "vitl"), "foundation_stereo") | {"raft_stereo": "raft_stereo", "crestereo": "crestereo"}
GAINS = {
    "classifier.2.weight": 8.0,
    "cost_agg.conv_patch.0.weight": 0.05,
    "update_block.disp_head.conv.4.weight": 4.0,
    "feature.dino.depth_anything.depth_head.scratch.output_conv1.weight": 0.002,
}


def filled(key: str, shape: list[int], seed: int) -> Tensor:
    """One entry of a filled state dict: noise of variance 1 that depends on name, shape and seed, scaled by what the entry is."""
    if key.startswith("cnet."):
        key = key.replace(".downsample.1.", ".norm3.")  # two names, one tensor
    last = key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    generator = np.random.RandomState((crc32(key.encode()) + 7919 * seed) % 2**32)
    noise = np.sqrt(12.0) * (generator.random_sample(tuple(shape)) - 0.5)
    scales = {
        "running_var": (1.0, 0.25),
        "running_mean": (0.0, 0.1),
        "bias": (0.0, 0.1),
        "gamma": (0.4, 0.1),
        "gamma_xca": (0.4, 0.1),
        "temperature": (1.0, 0.2),
        "cls_token": (0.0, 0.3),
        "pos_embed": (0.0, 0.3),
        "mask_token": (0.0, 0.3),
    }
    gain = GAINS.get(key, 0.8 if key.startswith("cnet.") or "k_proj" in key else 2.0)
    default = (1.0, 0.15) if len(shape) == 1 else (0.0, np.sqrt(gain / np.prod(shape[1:])))
    offset, scale = scales.get(last, default)
    value = offset + scale * noise if offset else scale * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def manifest_path(reference: Path, variant: str) -> Path:
    return reference / (f"foundation_stereo_{variant}.keys.json" if variant.startswith("vit") else f"{variant}.keys.json")


def manifest(reference: Path, variant: str) -> list[tuple[str, list[int], str]]:
    """(key, shape, dtype) of every published entry, in order."""
    entries = json.loads(manifest_path(reference, variant).read_text())["entries"]
    return [(key, shape, dtype) for key, shape, dtype, _kind in entries]


def filled_state(reference: Path, variant: str, seed: int) -> dict[str, Tensor]:
    """Every entry by the rule, but those that are no weights; two names of one tensor get the same."""
    formulas = PUBLISHED[KINDS[variant]].formulas
    second = {"flow_head.": "update_block.flow_head."} if variant == "crestereo" else {}
    state = {}
    for key, shape, _ in manifest(reference, variant):
        first = next((name + key.removeprefix(other) for other, name in second.items() if key.startswith(other)), key)
        state[key] = formulas[key]() if key in formulas else filled(first, shape, seed)
    return state


def filled_model(reference: Path, variant: str, seed: int) -> nn.Module:
    """Our network of that variant with filled weights, no dropout, in evaluation mode and float32."""
    config, state, _ = from_published(filled_state(reference, variant, seed))
    if variant.startswith("vit"):
        config["dropout"] = 0.0
    model = build_model(config, with_pretrained=False)
    model.load_state_dict(state)
    if variant.startswith("vit"):
        model.freeze_backbone_()
    return model.eval()


@dataclass(frozen=True)
class Gates:
    """Largest deviations accepted. Full-size disparities in pixels; the rest in the array's own unit."""

    disparity: float
    initial: float
    feature: float
    volume: float
    state: float
    lookup: float
    loss: float  # relative
    gradient: float  # relative to the norm, for norms above 1e-4
    trained_disparity: float  # with batch statistics, in pixels
    trained_loss: float
    trained_gradient: float


FLOAT64 = Gates(1e-3, 5e-4, 2e-5, 1e-4, 1e-4, 1e-3, 1e-5, 1e-3, 1e-2, 1e-5, 1e-2)
FLOAT32 = Gates(1e-2, 4e-3, 2e-4, 1e-3, 1e-3, 1e-2, 1e-4, 1e-2, 1e-1, 2e-3, 5e-2)


@dataclass
class Report:
    """What was compared: array -> (largest deviation, gate). `assert_all` names every array beyond its gate."""

    rows: dict[str, tuple[float, float]] = field(default_factory=dict)

    def compare(self, name: str, found: Tensor, stored: np.ndarray, gate: float) -> None:
        found_array = found.detach().double().cpu().numpy()
        assert found_array.size == stored.size, f"{name}: {found_array.shape} against {stored.shape}"
        deviation = np.abs(found_array.reshape(stored.shape) - stored).max()
        self.rows[name] = (float(deviation) if np.isfinite(deviation) else float("inf"), gate)

    def worst(self) -> tuple[str, float, float]:
        name = max(self.rows, key=lambda row: self.rows[row][0] / self.rows[row][1])
        return name, *self.rows[name]

    def assert_all(self) -> None:
        beyond = [f"{name}: {deviation:.2e} > {gate:.0e}" for name, (deviation, gate) in self.rows.items() if not deviation <= gate]
        assert not beyond, "\n".join(beyond)


@contextmanager
def recording(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """(arguments, output) of the modules, call by call."""
    seen: dict[str, list] = {name: [] for name in modules}
    handles = [
        module.register_forward_hook(lambda _module, args, output, name=name: seen[name].append((args, output)))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attend_over(model: nn.Module, axis: str) -> None:
    for layer in model.hourglass.transformer.layers:
        layer.axis = axis


def pair(file: np.lib.npyio.NpzFile, part: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    dtype = next(model.parameters()).dtype
    left, right = (torch.from_numpy(file[f"{part}.{side}"]).to(dtype) / 255 for side in ("left", "right"))
    return (left, right) if left.dim() == 4 else (left[None], right[None])


def find_reference(path: Path, variant: str) -> Path:
    """The folder with the list of keys: that of the file, or the development data."""
    from tests.conftest import SHARED

    return path.parent if manifest_path(path.parent, variant).is_file() else SHARED / "reference"


def check_golden(path: Path, variant: str, *, parts: str = "abht", model: nn.Module | None = None, gates: Gates = FLOAT64) -> Report:
    """Compare a network with every array of the file; `AssertionError` naming those beyond their gate.

    variant: "vits" or "vitl"; "raft_stereo" and "crestereo", whose arrays are all compared (see `golden_flow.py`).
    parts: of a (all intermediates), b (batch of two, losses and gradients), h (hierarchical), t (b in training mode). model: filled with
    the file's weight seed; built in float64 when absent. The list of keys is looked for beside `path` first and in the development data
    otherwise.
    """
    if not variant.startswith("vit"):
        from tests.core.golden_flow import check_flow

        return check_flow(path, variant, model)
    file = np.load(path)
    meta = json.loads(str(file["meta"]))
    assert meta["vit_size"] == variant, f"{path} holds {meta['vit_size']}, not {variant}"
    reference = find_reference(path, variant)
    if model is None:
        model = filled_model(reference, variant, meta["weight_seed"]).double()
    report = Report()
    names = [key for key, _, _ in manifest(reference, variant)]
    for part in parts:
        settings = meta["b" if part == "t" else part]
        model.max_disp = settings["max_disp"]
        attend_over(model, "heads")
        run = {"a": _intermediates, "b": _evaluated, "h": _hierarchical, "t": _trained}[part]
        run(file, model, settings["updates"], report, gates, names)
        if part in "ab" and f"{part}.disparity_attention.init_disp" in file.files:
            attend_over(model, "tokens")
            with torch.no_grad():
                output = model.eval()(*pair(file, part, model), iters=settings["updates"])
            report.compare(
                f"{part}.disparity_attention.init_disp", output.initial, file[f"{part}.disparity_attention.init_disp"], gates.initial
            )
            final = file[f"{part}.disparity_attention.final_disp"]
            report.compare(f"{part}.disparity_attention.final_disp", output.disparity, final, gates.disparity)
    report.assert_all()
    return report


def _intermediates(file, model: nn.Module, updates: int, report: Report, gates: Gates, _names: list[str]) -> None:
    volume = model.hourglass
    stages = {
        "corr_stem": model.cost_volume.stem,
        "corr_feature_att": model.cost_volume.gate,
        "cost_agg.conv1": volume.down8,
        "cost_agg.conv2": volume.down16,
        "cost_agg.conv3": volume.down32,
        "cost_agg.agg_0": volume.merge16,
        "cost_agg.agg_1": volume.merge8,
        "cost_agg.conv1_up": volume.up4,
        "cost_agg.conv_patch": volume.transformer.norm,
        "cost_agg": volume,
    }
    others = {
        "backbone": model.backbone,
        "stem_2": model.upsample.image,
        "classifier": model.classifier,
        "context": model.context,
        "update": model.update,
        "up": model.upsample.up,
        "upsample": model.upsample,
    }
    model.eval()
    with torch.no_grad(), recording(stages | others) as seen:
        output = model(*pair(file, "a", model), iters=updates)
        everything = _every_update(model, seen["upsample"], seen["update"])
    left = [level.chunk(2)[0] for level in seen["backbone"][0][1][0]]
    right = seen["backbone"][0][1][0][0].chunk(2)[1]
    context, calls = seen["context"][0][1], seen["update"]
    planes = model.max_disp // 4
    with torch.no_grad():
        volumes = {
            "gwc_volume": group_correlation(left[0], right, groups=model.cost_volume.groups, planes=planes),
            "concat_volume": concatenation(model.cost_volume.project(left[0]), model.cost_volume.project(right), planes),
            "cost_agg.atts.4": volume.transformer.attend(seen["cost_agg.conv_patch"][0][1]),
            **{name: seen[name][0][1] for name in stages},
        }
    for name, value in volumes.items():
        report.compare(f"a.slice.{name}", value[0, :, ::7, ::3, ::5], file[f"a.slice.{name}"], gates.volume)
        if f"a.stat.{name}" in file.files:
            statistics = torch.stack([value[0].flatten(1).mean(1), value[0].flatten(1).std(1, correction=0)])
            report.compare(f"a.stat.{name}", statistics, file[f"a.stat.{name}"], gates.volume)
    disparities = torch.cat([args[3] for args, _ in calls])
    seed = json.loads(str(file["meta"]))["weight_seed"]
    with torch.no_grad():
        logits = model.classifier(seen["classifier"][0][0][0])
    logits = logits + filled("classifier.2.bias", [1], seed)  # ours has no bias before the softmax
    arrays = {
        "vit_feat_left": (seen["backbone"][0][1][1].chunk(2)[0], gates.feature),
        **{f"feat_left_{4 * 2**level}": (left[level], gates.feature) for level in range(4)},
        "feat_right_4_every4ch": (right[:, ::4], gates.feature),
        "stem_2_every4ch": (seen["stem_2"][0][1][:, ::4], gates.feature),
        "logits_every2px": (logits[0, :, ::2, ::2], gates.volume),
        "lookup0_h2_w4": (calls[0][0][2][0, :, ::2, ::4], gates.lookup),
        "net0_4_every4ch": (context.hidden[0][:, ::4], gates.state),
        "net0_8_every2ch": (context.hidden[1][:, ::2], gates.state),
        "net0_16": (context.hidden[2], gates.state),
        "inp_4_every4ch": (context.context[0][:, ::4], gates.state),
        "inp_8_every2ch": (context.context[1][:, ::2], gates.state),
        "inp_16": (context.context[2], gates.state),
        **{f"att_{4 * 2**level}": (context.attention[level], gates.state) for level in range(3)},
        "net1_4_every4ch": (calls[0][1][0][0][:, ::4], gates.state),
        "net1_16": (calls[0][1][0][2], gates.state),
        "disp_before_each_update": (disparities, gates.initial),
        "delta_each_update": (torch.cat([change for _, (_, change) in calls]), gates.initial),
        "init_disp": (output.initial, gates.initial),
        "disp_all_updates": (everything, gates.disparity),
    }
    with torch.no_grad():
        arrays["mask_feat_iter1_every2ch"] = (model.update.mask_features(calls[0][1][0][0])[:, ::2], gates.state)
    for name, (found, gate) in arrays.items():
        report.compare(f"a.{name}", found, file[f"a.{name}"], gate)
    tested = {f"a.{name}" for name in arrays} | {name for name in report.rows if name.startswith("a.")} | {"a.left", "a.right"}
    untested = [name for name in file.files if name.startswith("a.") and "disparity_attention" not in name and name not in tested]
    assert not untested, f"arrays that nothing was compared with: {untested}"


def _every_update(model: nn.Module, upsample_calls: list, update_calls: list) -> Tensor:
    """Full-size disparities after every update: evaluation computes the last one only, from the same parts."""
    (last, _, image_features), _ = upsample_calls[-1]
    full = []
    for index, (_, (states, change)) in enumerate(list(update_calls)):
        disparity = update_calls[index][0][3] + change
        full.append(model.upsample(disparity, model.update.mask_features(states[0]), image_features))
    assert torch.equal(disparity, last)
    return torch.stack(full, 1)


def loss_terms(initial: Tensor, disparities: Tensor, truth: Tensor) -> Tensor:
    """[initial, update 1..K, total] of the paper's objective as the files define it."""
    terms = [F.smooth_l1_loss(initial, truth[..., ::4, ::4] / 4)]
    terms += [(disparity - truth[:, 0]).abs().mean() for disparity in disparities.unbind(1)]
    count = disparities.shape[1]
    total = terms[0] + sum(0.9 ** (count - k) * term for k, term in enumerate(terms[1:], start=1))
    return torch.stack([*terms, total])


def gradient_norms(model: nn.Module, kind: str, names: list[str]) -> np.ndarray:
    gradients = rename({"type": kind}, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return np.array([float(gradients[name].double().norm()) if name in gradients else np.nan for name in names])


def compare_gradients(name: str, found: np.ndarray, stored: np.ndarray, names: list[str], report: Report, gate: float) -> None:
    """Published gradients we lack are of entries that our network leaves out, whose norms are rounding noise around 0."""
    ours = ~np.isnan(found)
    assert not np.isnan(stored[ours]).any(), [names[i] for i in np.flatnonzero(ours & np.isnan(stored))]
    aliases = np.array([".downsample.1." in key for key in names])
    lacking = ~ours & ~np.isnan(stored) & ~aliases
    assert (stored[lacking] < 1e-4).all(), [names[i] for i in np.flatnonzero(lacking & (stored >= 1e-4))]
    large = ours & (stored > 1e-4)
    relative = np.abs(found[large] - stored[large]) / stored[large]
    report.rows[name] = (float(relative.max()), gate)
    report.rows[f"{name} (small)"] = (float(np.abs(found[ours & ~large] - stored[ours & ~large]).max(initial=0.0)), 1e-3)


def _with_losses(
    file, model: nn.Module, updates: int, mode: str, report: Report, names: list[str], gates: tuple[float, float, float]
) -> None:
    """One forward and backward with all updates upsampled; in evaluation mode that needs the training flag of the top module alone."""
    disparity_gate, loss_gate, gradient_gate = gates
    model.zero_grad()
    model.training = True  # all iterations are returned; the layers keep the mode they are in
    output = model(*pair(file, "b", model), iters=updates)
    terms = loss_terms(output.initial, output.disparities, torch.from_numpy(file["b.disp_gt"]).to(output.initial.dtype))
    terms[-1].backward()
    stored = file[f"b.{mode}.loss_terms"]
    report.compare(f"b.{mode}.init_disp", output.initial, file[f"b.{mode}.init_disp"], disparity_gate)
    report.compare(f"b.{mode}.final_disp", output.disparity, file[f"b.{mode}.final_disp"], disparity_gate)
    report.compare(f"b.{mode}.loss_terms", terms / torch.from_numpy(stored), np.ones_like(stored), loss_gate)
    found = gradient_norms(model, "foundation_stereo", names)
    compare_gradients(f"b.{mode}.grad_norm", found, file[f"b.{mode}.grad_norm"], names, report, gradient_gate)
    model.zero_grad()
    model.eval()


def _evaluated(file, model: nn.Module, updates: int, report: Report, gates: Gates, names: list[str]) -> None:
    model.eval()
    with torch.no_grad():
        output = model(*pair(file, "b", model), iters=updates)
    report.compare("b.init_disp", output.initial, file["b.init_disp"], gates.initial)
    report.compare("b.final_disp", output.disparity, file["b.final_disp"], gates.disparity)
    _with_losses(file, model, updates, "eval", report, names, (gates.disparity, gates.loss, gates.gradient))


def _trained(file, model: nn.Module, updates: int, report: Report, gates: Gates, names: list[str]) -> None:
    """In training mode; the running statistics it changes are compared and put back."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    tolerances = (gates.trained_disparity, gates.trained_loss, gates.trained_gradient)
    _with_losses(file, model, updates, "train", report, names, tolerances)
    after = rename({"type": "foundation_stereo"}, {name: buffer for name, buffer in model.named_buffers() if name not in ("mean", "std")})
    for name in file.files:
        if name.startswith("b.train.after."):
            report.compare(name, after[name.removeprefix("b.train.after.")], file[name], gates.volume)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def _hierarchical(file, model: nn.Module, updates: int, report: Report, gates: Gates, _names: list[str]) -> None:
    model.eval()
    with torch.no_grad():
        disparity = predict_hierarchical(model, *pair(file, "h", model), iters=updates).disparity
    report.compare("h.final_disp", disparity, file["h.final_disp"], gates.disparity)
