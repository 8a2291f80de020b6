"""What a run descends: per-sample losses by name, and the weighted sum of them per label type. No optimizer and no averaging over ranks.

Every loss is a mean over the valid pixels of its sample, in float32 also under autocast. A sample without valid pixels counts 0, with
gradient 0: pixels are selected before any arithmetic, because 0 * inf is NaN in a backward pass too.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from core.output import StereoOutput
from train.sample import StereoBatch
from utils.errors import UserError, did_you_mean
from utils.registry import Registry, explain

LOSSES = Registry("loss")
INVALID = "invalid"  # the label type of samples that could not be loaded; needs no entry and contributes 0

PER_SAMPLE = ("left", "right", "disparity", "valid", "keys", "datasets", "label_types", "pose")

Positive = Annotated[float, Field(gt=0)]
Limit = Annotated[float | None, Field(gt=0, description="Pixels; ground truth that is not below this is ignored.")]
Kind = Annotated[Literal["l1", "smooth_l1"], Field(description="smooth_l1 is quadratic below 1 px of error.")]


@LOSSES.register("disparity_l1_loss")
def disparity_l1_loss(output: StereoOutput, batch: StereoBatch, *, max_disparity: Limit = None) -> Tensor:
    """|d - gt| of the final disparity. Pixels, (B,)."""
    return _final(output, batch, max_disparity, beta=0.0)


@LOSSES.register("smooth_l1_loss")
def smooth_l1_loss(output: StereoOutput, batch: StereoBatch, *, beta: Positive = 1.0, max_disparity: Limit = None) -> Tensor:
    """Of the final disparity, e = |d - gt|: e^2 / (2 beta) below beta, e - beta / 2 above. Pixels, (B,)."""
    return _final(output, batch, max_disparity, beta)


@LOSSES.register("epe_loss")
def epe_loss(output: StereoOutput, batch: StereoBatch, *, max_disparity: Limit = None) -> Tensor:
    """End-point error of the final disparity. Pixels, (B,).

    Disparity has one component, so the length of the error vector is |d - gt|: the same numbers as `disparity_l1_loss`, under the name
    that optical flow gives them. Unlike the metric `epe` it averages per sample first.
    """
    return _final(output, batch, max_disparity, beta=0.0)


@LOSSES.register("multi_scale_loss")
def multi_scale_loss(
    output: StereoOutput,
    batch: StereoBatch,
    *,
    weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=10)],
    loss_type: Kind = "smooth_l1",
    max_disparity: Limit = None,
) -> Tensor:
    """Weighted sum of the final disparity's errors on an image pyramid. Full-image pixels, (B,).

    weights: one per level, COARSE TO FINE; the last level is the full size and each earlier one half the next. Not normalised.
    A pixel of a level is the mean over the valid pixels of its block, of prediction and ground truth alike; blocks without one are
    left out. Disparity is not divided by the level's factor: an error of 1 px of the full image weighs the same on all levels.
    """
    prediction, disparity, mask = _select(output.disparity, batch, max_disparity)
    count, total = mask.to(prediction.dtype), 0.0
    for halvings, weight in enumerate(reversed(weights)):
        size = 2**halvings
        share = _pool(count, size)  # of valid pixels in a block; both divided by the same block size, which cancels
        error = (_pool(prediction, size) - _pool(disparity, size)) / share.clamp(min=1e-12)
        total = total + weight * _masked_mean(_penalty(error, _BETA[loss_type]), share > 0)
    return torch.as_tensor(total)


@LOSSES.register("sequence_loss")
def sequence_loss(
    output: StereoOutput,
    batch: StereoBatch,
    *,
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9,
    adjust_gamma: bool = False,
    loss_type: Kind = "l1",
    max_disparity: Limit = None,
) -> Tensor:
    """Sum over the refinement iterations i = 0..T-1 of gamma^(T-1-i) * error_i; the last weighs 1. Pixels, (B,).

    RAFT (Teed and Deng 2020, eq. 7); FoundationStereo (sec. 3.4, eq. 11) takes it with gamma 0.9 and l1.
    adjust_gamma: gamma^(15 / (T-1)) in place of gamma, as RAFT-Stereo's trainer does, so that the first iteration weighs gamma^15
    whatever T is. Without effect for T = 1.
    """
    iterations = output.disparities.shape[1]
    if adjust_gamma and iterations > 1:
        gamma = gamma ** (15 / (iterations - 1))
    prediction, disparity, mask = _select(output.disparities, batch, max_disparity)
    return _sum_over_iterations(_penalty(prediction - disparity, _BETA[loss_type]), mask, gamma)


@LOSSES.register("vertical_loss")
def vertical_loss(
    output: StereoOutput, batch: StereoBatch, *, gamma: Annotated[float, Field(gt=0, le=1)] = 0.8, max_disparity: Limit = None
) -> Tensor:
    """What rows differ by according to the network, summed over iterations as in `sequence_loss`. Pixels, (B,).

    The images are rectified, so the truth is 0. CREStereo is trained on the mean of both components' errors: `sequence_loss` and this one
    with weights of 0.5. Raises `UserError` for a network that does not look across rows.
    """
    vertical, mask = _offered(output, "vertical", "vertical_loss"), _mask(batch, max_disparity)[:, None]
    return _sum_over_iterations(_keep(vertical, mask).abs(), mask, gamma)


@LOSSES.register("uncertainty_loss")
def uncertainty_loss(
    output: StereoOutput, batch: StereoBatch, *, distribution: Literal["gaussian", "laplace"] = "gaussian", max_disparity: Limit = None
) -> Tensor:
    """Negative log-likelihood of the error of the final disparity under the network's own variance, without its constant. (B,).

    Kendall and Gal 2017, eq. 5 and 8: with s = log(variance), (e^2 exp(-s) + s) / 2 for "gaussian". For "laplace", whose scale is
    b = sqrt(variance / 2): |e| / b + log(b), which large errors pull less at. Raises `UserError` for a network without a variance.
    """
    log_variance = _offered(output, "log_variance", "uncertainty_loss")
    prediction, disparity, mask = _select(output.disparity, batch, max_disparity)
    error, log_variance = (prediction - disparity).abs(), _keep(log_variance, mask)
    if distribution == "gaussian":
        return _masked_mean((error.square() * torch.exp(-log_variance) + log_variance) / 2, mask)
    log_scale = (log_variance - math.log(2)) / 2
    return _masked_mean(error * torch.exp(-log_scale) + log_scale, mask)


@LOSSES.register("pose_loss")
def pose_loss(output: StereoOutput, batch: StereoBatch) -> Tensor:
    """Mean square error of the six numbers of the right camera's pose, 0 for a sample without that label: radians^2 and baselines^2, (B,).

    An error of half a degree is 8e-5: the weight has to be in the thousands to be felt beside the errors of disparity. Raises `UserError`
    for a network without a pose.
    """
    pose = _offered(output, "pose", "pose_loss")
    if batch.pose is None:
        return _wide(pose).new_zeros(len(batch))
    known = torch.isfinite(batch.pose)
    return (_keep(pose, known) - _keep(batch.pose, known)).square().mean(dim=1)


@LOSSES.register("initial_disparity_loss")
def initial_disparity_loss(
    output: StereoOutput,
    batch: StereoBatch,
    *,
    resolution: Literal["working", "full"] = "working",
    beta: Positive = 1.0,
    max_disparity: Limit = None,
) -> Tensor:
    """Smooth L1 of the disparity before refinement: FoundationStereo's first term (sec. 3.4, eq. 11). (B,).

    resolution: the paper leaves it open. "working" compares in working-size pixels with the ground truth at [::f, ::f] / f, f = H / h
    (4 in that network); "full" upsamples the prediction (bilinear, align_corners) times f and compares in full-image pixels.
    max_disparity is in full-image pixels either way. Raises `UserError` for a network that has no initial disparity.
    """
    found = _offered(output, "initial", "initial_disparity_loss")
    (height, width), (h, w) = batch.disparity.shape[-2:], found.shape[-2:]
    factor = height // h
    assert (h * factor, w * factor) == (height, width), f"initial disparity {h} x {w} for an image of {height} x {width}"
    if resolution == "full":
        initial = F.interpolate(_wide(found), size=(height, width), mode="bilinear", align_corners=True)[:, 0] * factor
        prediction, disparity, mask = _select(initial, batch, max_disparity)
    else:
        disparity, mask = _at_working_size(batch, max_disparity, factor)
        prediction = _keep(found[:, 0], mask)
    return _masked_mean(_penalty(prediction - disparity, beta), mask)


@LOSSES.register("plane_cross_entropy")
def plane_cross_entropy(output: StereoOutput, batch: StereoBatch, *, max_disparity: Limit = None) -> Tensor:
    """Cross-entropy between the true disparity and the softmax over planes that the initial disparity is the mean of. Nats, (B,).

    The mean alone can be right with the mass on both sides of it, and says little while it is spread over all planes; this says which plane
    is meant. Ours; the idea of a distribution as the target is PDS's (Tulyakov et al. 2018, section 3.3). See `_cross_entropy`. Raises
    `UserError` for a network without planes.
    """
    return _cross_entropy(_offered(output, "plane_scores", "plane_cross_entropy"), batch, max_disparity)


@LOSSES.register("correlation_cross_entropy")
def correlation_cross_entropy(
    output: StereoOutput, batch: StereoBatch, *, sharpness: Positive = 10.0, max_disparity: Limit = None
) -> Tensor:
    """The same of the features themselves: of `sharpness` times the cosine of the left features and the right ones, per plane. Nats, (B,).

    Until the features of a place look alike in both eyes, and of others do not, nothing behind them has anything to learn from. Small
    networks from random weights begin to match in half the steps and fewer. Ours. Raises `UserError` for a network without planes.
    """
    return _cross_entropy(sharpness * _wide(_offered(output, "plane_correlation", "correlation_cross_entropy")), batch, max_disparity)


@LOSSES.register("gradient_loss")
def gradient_loss(output: StereoOutput, batch: StereoBatch, *, edge_weight: Annotated[float, Field(ge=0)] = 10.0) -> Tensor:
    """Edge-aware smoothness of the final disparity: mean of |d_x| exp(-k |I_x|) + mean of |d_y| exp(-k |I_y|). Pixels per pixel, (B,).

    The image gradient stands in the exponent, as in monodepth2 (Godard et al. 2019, eq. 3): a disparity edge is cheap where the image
    has one. |I_x| is the mean over RGB in [0, 1], k = edge_weight. Unlike there, disparity is not divided by its mean: with ground truth
    in the objective shrinking does not pay, and pixels per pixel do not depend on the image size.
    Taken over all pixels of the sample, with or without ground truth (that is its use), but 0 for a sample that has none at all.
    """
    finite = torch.isfinite(output.disparity) | batch.valid  # a broken value counts where it can be blamed, and only there
    disparity, image = _keep(output.disparity, finite), _wide(batch.left)
    value = torch.zeros_like(disparity[:, 0, 0])
    for dim in (-1, -2):
        length = disparity.shape[dim] - 1
        both = finite.narrow(dim, 0, length) & finite.narrow(dim, 1, length)
        edge = image.diff(dim=dim).abs().mean(dim=1)
        value = value + _masked_mean(disparity.diff(dim=dim).abs() * torch.exp(-edge_weight * edge), both)
    return torch.where(batch.valid.flatten(1).any(dim=1), value, 0)


_BETA = {"l1": 0.0, "smooth_l1": 1.0}
NEEDS = {
    "initial_disparity_loss": "initial",
    "plane_cross_entropy": "plane_scores",
    "correlation_cross_entropy": "plane_correlation",
    "vertical_loss": "vertical",
    "uncertainty_loss": "log_variance",
    "pose_loss": "pose",
}
"""Losses that look at more than the disparities -> the field of `StereoOutput` that a network must offer."""
NO_DISPARITY = ("pose_loss",)  # losses that are not 0 for a sample without a valid pixel


def _offered(output: StereoOutput, field: str, loss: str) -> Tensor:
    value = getattr(output, field)
    if value is None:
        raise UserError(f"loss: {loss} needs a network with '{field}' in its output, and this one has none; remove the loss")
    return value


def _sum_over_iterations(errors: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """errors: (B, T, H, W), 0 where the mask (B, 1, H, W) is false. Means over the mask, the last iteration weighing 1. (B,)."""
    per_iteration = errors.sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1)
    weights = gamma ** torch.arange(errors.shape[1] - 1, -1, -1, device=errors.device, dtype=errors.dtype)
    return (per_iteration * weights).sum(dim=1)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: half precision has no use in a loss. Float64 stays, for comparisons."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _mask(batch: StereoBatch, max_disparity: float | None) -> Tensor:
    return batch.valid if max_disparity is None else batch.valid & (batch.disparity < max_disparity)


def _keep(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, _wide(values), 0)


def _select(prediction: Tensor, batch: StereoBatch, max_disparity: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, ground truth and mask of one shape rule, both 0 where not valid; (B, 1, H, W) masks for (B, T, H, W) predictions."""
    mask, disparity = _mask(batch, max_disparity), batch.disparity
    if prediction.dim() == 4:
        mask, disparity = mask[:, None], disparity[:, None]
    return _keep(prediction, mask), _keep(disparity, mask), mask


def _penalty(error: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta) if beta else error.abs()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B, H, W) -> (B,), 0 for a sample whose mask is empty."""
    return _keep(values, mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)


def _pool(values: Tensor, size: int) -> Tensor:
    return values if size == 1 else F.avg_pool2d(values[:, None], size, ceil_mode=True)[:, 0]


def _at_working_size(batch: StereoBatch, max_disparity: float | None, factor: int) -> tuple[Tensor, Tensor]:
    """Ground truth at [::f, ::f] / f, in pixels of that size, 0 where not valid; and where it is valid. (B, h, w)."""
    nearest = (slice(None), slice(None, None, factor), slice(None, None, factor))
    mask = _mask(batch, max_disparity)[nearest]
    return _keep(batch.disparity[nearest], mask) / factor, mask


def _cross_entropy(scores: Tensor, batch: StereoBatch, max_disparity: float | None) -> Tensor:
    """Of (B, D, h, w) scores. The truth, at [::f, ::f] / f as in `initial_disparity_loss`, is shared between the two planes next to it so
    that their mean is the disparity itself; pixels beyond the last plane are left out."""
    planes, factor = scores.shape[1], batch.disparity.shape[-2] // scores.shape[-2]
    disparity, mask = _at_working_size(batch, max_disparity, factor)
    mask = mask & (disparity <= planes - 1)
    scores, disparity = _keep(scores, mask[:, None]), _keep(disparity, mask)
    below = disparity.floor()
    lower = below.long()[:, None]
    chosen = scores.gather(1, torch.cat([lower, (lower + 1).clamp(max=planes - 1)], 1))
    return _masked_mean(scores.logsumexp(1) - torch.lerp(chosen[:, 0], chosen[:, 1], disparity - below), mask)


def _final(output: StereoOutput, batch: StereoBatch, max_disparity: float | None, beta: float) -> Tensor:
    prediction, disparity, mask = _select(output.disparity, batch, max_disparity)
    return _masked_mean(_penalty(prediction - disparity, beta), mask)


class LossTerm(BaseModel):
    """One entry of the configuration's `loss.<label type>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: str
    """Name of a registered loss."""
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Factor in the sum; a loss of weight 0 is reported but not descended."""
    params: dict[str, Any] = {}
    """Keyword arguments of the loss."""


class _Term(NamedTuple):
    name: str
    function: str
    weight: float
    params: dict[str, Any]


class Objective:
    """The weighted sum of losses that each sample gets according to its label type.

    config: `{label_type: {name: {"function", "weight", "params"}}}`, the configuration's `loss` section; its path is `where`. Everything
    is checked here: `UserError` for an unknown function, key or parameter, a wrong type, a negative weight.
    """

    def __init__(self, config: Mapping[str, Mapping[str, Any]], where: str = "loss") -> None:
        self.terms = {
            label: [_term(name, entry, f"{where}.{label}.{name}") for name, entry in entries.items()] for label, entries in config.items()
        }
        if not any(term.weight for terms in self.terms.values() for term in terms):
            raise UserError(f"{where}: no loss with a positive weight; give at least one, as {where}.<label type>.<name>.function")
        self.terms.setdefault(INVALID, [])
        labels = [label for label, terms in self.terms.items() if terms]
        self._prefix = {label: "" if len(labels) == 1 else f"{label}/" for label in labels}
        self.keys = ["loss", *(self._prefix[label] + term.name for label in labels for term in self.terms[label])]
        """Names of the parts, in a fixed order, the same on every rank and for every batch."""

    def check_labels(self, labels: Iterable[str], where: str) -> None:
        """`UserError` that begins with `where` if one of `labels` (label types of data sets) has no entry."""
        for label in labels:
            if label not in self.terms:
                known = [name for name in self.terms if name != INVALID]
                raise UserError(f"{where}: label type '{label}' has no entry in the loss section{did_you_mean(label, known)}")

    def needing(self, field: str) -> list[tuple[str, str, float]]:
        """(label type, name, weight) of the losses that look at `field` of a network's output."""
        return [
            (label, term.name, term.weight) for label, terms in self.terms.items() for term in terms if NEEDS.get(term.function) == field
        ]

    def needs_disparity(self, label: str) -> bool:
        """Whether samples of this label type are trained on their disparity, and with none of it on nothing."""
        return any(term.weight and term.function not in NO_DISPARITY for term in self.terms[label])

    def check_network(self, kind: str, offers: Collection[str], where: str, switches: Mapping[str, str] | None = None) -> None:
        """`UserError` that begins with `where` for a loss of what the network, called `kind`, does not offer. switches: see `core`."""
        for label, terms in self.terms.items():
            for term in terms:
                if (need := NEEDS.get(term.function)) is not None and need not in offers:
                    offered = ", ".join(sorted(offers)) or "the disparities alone"
                    switch = f"set model.{switches[need]} to true, or " if switches and need in switches else ""
                    raise UserError(
                        f"{where}.{label}.{term.name}.function: {term.function} needs a network with '{need}' in its output, and {kind} "
                        f"has {offered}; {switch}remove the loss"
                    )

    def counts(self, batch: StereoBatch) -> dict[str, int]:
        """How many samples of `batch` each part is a mean over: the weight of a part in a mean over batches and ranks."""
        counts = {"loss": len(batch)}
        for label, prefix in self._prefix.items():
            counts |= dict.fromkeys((prefix + term.name for term in self.terms[label]), batch.label_types.count(label))
        return counts

    def __call__(self, output: StereoOutput, batch: StereoBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to descend and the detached scalars to report.

        The first is the sum over samples of their weighted losses, divided by B: how a batch was split does not matter. The second holds
        one unweighted mean per loss over the samples of its label type (0 when there is none, see `counts`), named `name`, or
        `label/name` when several label types have losses, and the first again as `loss`.
        """
        values, parts = self.per_sample(output, batch)
        total = values.mean() + _anchor(output)
        parts["loss"] = total.detach()
        return total, {key: parts[key] for key in self.keys}

    def per_sample(self, output: StereoOutput, batch: StereoBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) weighted losses, and the mean of each loss over the samples of its label type. Tells which sample is not finite."""
        values, parts = _wide(output.disparities[:, -1, 0, 0]).new_zeros(len(batch)), {}
        for label, prefix in self._prefix.items():
            rows = [row for row, found in enumerate(batch.label_types) if found == label]
            everything = len(rows) == len(batch)
            chosen = _rows(output, batch, rows) if rows and not everything else (output, batch)
            for term in self.terms[label]:
                with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                    losses = LOSSES[term.function](*chosen, **term.params) if rows else values.new_zeros(0)
                parts[prefix + term.name] = losses.detach().sum() / max(len(rows), 1)
                if term.weight and rows:
                    values = values + term.weight * (losses if everything else _scatter(losses, rows, len(batch)))
        assert all(label in self.terms for label in batch.label_types), f"label types {batch.label_types} were not checked"
        return values, parts


def _rows(output: StereoOutput, batch: StereoBatch, rows: list[int]) -> tuple[StereoOutput, StereoBatch]:
    """Some of the samples. Stacked one by one, since an index made on the host would make it wait for the device."""

    def take(values: Any) -> Any:
        if values is None:
            return None
        return torch.stack([values[row] for row in rows]) if isinstance(values, Tensor) else [values[row] for row in rows]

    chosen = replace(batch, broken={}, **{name: take(getattr(batch, name)) for name in PER_SAMPLE})
    return StereoOutput(*map(take, output)), chosen


def _scatter(losses: Tensor, rows: list[int], size: int) -> Tensor:
    """(len(rows),) -> (size,), 0 elsewhere."""
    nothing = losses.new_zeros(())
    return torch.stack([losses[rows.index(row)] if row in rows else nothing for row in range(size)])


def _anchor(output: StereoOutput) -> Tensor:
    """0, connected to every output: a parameter that no loss reaches gets gradient 0 on all ranks, and DDP waits for none.

    Selected and not multiplied, since 0 * inf would be NaN.
    """
    zero = output.disparities.new_zeros((), dtype=torch.float32)
    for tensor in output:
        if tensor is not None:
            corner = tensor[..., :1, :1]
            zero = zero + torch.where(torch.zeros_like(corner, dtype=torch.bool), corner, 0).sum()
    return zero


def _term(name: str, entry: Any, where: str) -> _Term:
    try:
        term = LossTerm.model_validate(entry if isinstance(entry, LossTerm) else dict(entry))
    except ValidationError as error:
        raise UserError(explain(error, LossTerm, where)) from None
    except (TypeError, ValueError):
        raise UserError(f"{where}: found {entry!r}; expected an object with 'function', 'weight' and 'params'") from None
    LOSSES.find(term.function, f"{where}.function")
    return _Term(name, term.function, term.weight, LOSSES.check(term.function, term.params, f"{where}.params"))
