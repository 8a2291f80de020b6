"""How a prediction is scored under a written protocol: masks, range, per image or pooled. What is predicted on is in `suites`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field, field_validator

from train.config import Section, Size
from train.metrics import METRICS, POSE_MSE, finish
from train.sample import StereoSample
from train.sparsification import Sparsification, sparsify
from utils.errors import did_you_mean

Mask = Literal["all", "noc", "occ", "edges"]
QUANTILES = {"a90": 0.90, "a95": 0.95, "a99": 0.99}  # Middlebury v3's A90 ...: the error that this share of the pixels stays below
AUSE = "ause"
EDGE_JUMP_PX = 2.0  # Scharstein and Szeliski 2002, section 5: a discontinuity is a jump of more than this between neighbours,
EDGE_WINDOW = 9  # and what lies within a square of this width around it is near an edge
BINS_PER_PX, MOST_PX = 64, 1024  # of the histogram that pooled quantiles come from: right to 1/64 px, larger errors count as 1024 px
DEFAULT_METRICS = ("epe", "rmse", "bad_0.5", "bad_1", "bad_2", "bad_3", "bad_4", "d1_all", "a90", "a95", "a99", "relepe", "density")


class Protocol(Section):
    """What exactly a number means. It is written beside every result."""

    mask: Mask = "all"
    """Of the numbers without a prefix. all: every pixel with ground truth; noc: those that both eyes see; occ: those that only the left
    one sees; edges: within 9 x 9 pixels around a jump of more than 2 px of the ground truth."""
    more_masks: tuple[Mask, ...] = ()
    """Further masks, whose numbers carry their name: `noc/epe`."""
    min_disparity: float = Field(0.0, ge=0)
    """Ground truth at or below it is not counted, pixels of the native image."""
    max_disparity: float | None = Field(None, gt=0)
    """Ground truth at or beyond it is not counted; none: all is."""
    averaging: Literal["image", "pooled"] = "image"
    """image: the mean of the images' values, as Middlebury and ETH3D; pooled: over all pixels of a data set, as KITTI."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Names of `train.metrics`, and a90, a95, a99. Of a predictor with a confidence, `ause` (see `train.sparsification`) is always beside
    them: with respect to the error in pixels, and the mean of the images whatever `averaging` says, as pixels are ordered within one. So is
    `pose_mse` (see `metrics.mse`) of one that says the right camera's pose, where the data set knows it."""
    resolution: Literal["native"] | Size = "native"
    """native: predictions are compared at the size of the stored images, whatever the network saw. (width, height): pairs and ground truth
    are first resized to it, as in torchvision's tables; a pixel is then one of that size."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METRICS and name not in QUANTILES:
                raise ValueError(f"unknown metric '{name}'{did_you_mean(name, [*METRICS, *QUANTILES])}")
        return names

    @field_validator("resolution", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        """In one sentence, where a union of types would name the first of them only."""
        whole = isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int and 0 < side <= 16384 for side in value)
        if value != "native" and not whole:
            raise ValueError("expected 'native', or [width, height] in pixels up to 16384")
        return value

    @property
    def masks(self) -> tuple[Mask, ...]:
        return (self.mask, *(mask for mask in self.more_masks if mask != self.mask))

    def label(self, mask: Mask, metric: str) -> str:
        """What the number is called: the metric, after the mask where it is not the protocol's own."""
        return metric if mask == self.mask else f"{mask}/{metric}"


@dataclass
class Scores:
    """One image. values: its numbers by label, NaN where a mask holds no pixel. sums: the same as (sum, count), for pooling; histograms: of
    its errors by mask, for pooled quantiles. sparsification: of the protocol's own mask, where there is a confidence."""

    values: dict[str, float] = field(default_factory=dict)
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    sparsification: Sparsification | None = None


def score(
    prediction: np.ndarray, sample: StereoSample, protocol: Protocol, confidence: np.ndarray | None = None, pose: np.ndarray | None = None
) -> Scores:
    """One image. prediction: (H, W) pixels; what is not finite is infinitely wrong. confidence: (H, W), more is surer. pose: (6,).

    A mask that the data set does not know (occlusion) holds no pixel.
    """
    arrays = (prediction.astype(np.float32), sample.disparity)
    predicted, truth = (torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays)
    counted = sample.valid & (sample.disparity > protocol.min_disparity)
    if protocol.max_disparity is not None:
        counted &= sample.disparity < protocol.max_disparity
    error = np.where(np.isfinite(prediction), np.abs(arrays[0] - sample.disparity), np.float32(np.inf))
    found = Scores()
    for mask in protocol.masks:
        pixels = counted & region(sample, mask)
        for metric in protocol.metrics:
            label = protocol.label(mask, metric)
            if metric in QUANTILES:
                found.values[label] = quantile(error[pixels], QUANTILES[metric])
            else:
                total, count = METRICS[metric](predicted, truth, torch.from_numpy(pixels)[None])
                found.sums[label] = (total.item(), count.item())
                found.values[label] = finish(metric, *found.sums[label])
        if protocol.averaging == "pooled" and any(metric in QUANTILES for metric in protocol.metrics):
            bins = np.minimum(error[pixels] * BINS_PER_PX, MOST_PX * BINS_PER_PX).astype(np.int64)
            found.histograms[mask] = np.bincount(bins, minlength=MOST_PX * BINS_PER_PX + 1)
        if confidence is not None:
            sparsification = sparsify(error[pixels], confidence[pixels])
            found.values[protocol.label(mask, AUSE)] = math.nan if sparsification is None else sparsification.ause
            if mask == protocol.mask:
                found.sparsification = sparsification
    if pose is not None and sample.pose is not None:
        off = np.where(np.isfinite(pose), pose - sample.pose, np.inf)
        found.values[POSE_MSE] = float(np.square(off, dtype=np.float64).mean())
    return found


def region(sample: StereoSample, mask: Mask) -> np.ndarray:
    """bool (H, W): the part of the image that a mask means, ground truth or not."""
    if mask == "all":
        return np.ones(sample.valid.shape, bool)
    if mask == "edges":
        return near_edges(sample.disparity, sample.valid)
    if sample.occluded is None:
        return np.zeros(sample.valid.shape, bool)
    return sample.occluded if mask == "occ" else ~sample.occluded


def near_edges(disparity: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool (H, W): around jumps of the ground truth between neighbours that are both known."""
    jumps = np.zeros(disparity.shape, np.uint8)
    across = (np.abs(np.diff(disparity, axis=1)) > EDGE_JUMP_PX) & valid[:, 1:] & valid[:, :-1]
    down = (np.abs(np.diff(disparity, axis=0)) > EDGE_JUMP_PX) & valid[1:] & valid[:-1]
    jumps[:, 1:] |= across
    jumps[:, :-1] |= across
    jumps[1:] |= down
    jumps[:-1] |= down
    return cv2.dilate(jumps, np.ones((EDGE_WINDOW, EDGE_WINDOW), np.uint8)) > 0


def quantile(errors: np.ndarray, share: float) -> float:
    """The smallest error that at least `share` of the pixels do not exceed; NaN of none."""
    if not errors.size:
        return math.nan
    rank = max(math.ceil(share * errors.size), 1) - 1
    return float(np.partition(errors, rank)[rank])


def average(scores: Sequence[Scores], protocol: Protocol) -> dict[str, float]:
    """The numbers of a data set from those of its images, as `protocol.averaging` says. Images without a pixel in a mask are left out."""
    if protocol.averaging == "image":
        return mean([one.values for one in scores])
    values: dict[str, float] = {}
    for mask in protocol.masks:
        for metric in protocol.metrics:
            label = protocol.label(mask, metric)
            if metric in QUANTILES:
                values[label] = _pooled_quantile([one.histograms[mask] for one in scores], QUANTILES[metric])
            else:
                values[label] = finish(metric, *(math.fsum(one.sums[label][part] for one in scores) for part in (0, 1)))
    for label in (*(protocol.label(mask, AUSE) for mask in protocol.masks), POSE_MSE):
        values |= mean([{label: one.values[label]} for one in scores if label in one.values])
    return values


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every number over the rows that have it; NaN means that a row has not."""
    found = {}
    for label in dict.fromkeys(label for row in rows for label in row):
        present = [row[label] for row in rows if label in row and not math.isnan(row[label])]
        found[label] = math.fsum(present) / len(present) if present else math.nan
    return found


def _pooled_quantile(histograms: Sequence[np.ndarray], share: float) -> float:
    """As `quantile`, from histograms: the middle of its bin."""
    counts = np.sum(histograms, axis=0, dtype=np.int64)
    if not counts.sum():
        return math.nan
    rank = max(math.ceil(share * int(counts.sum())), 1)
    return float((np.searchsorted(counts.cumsum(), rank) + 0.5) / BINS_PER_PX)
