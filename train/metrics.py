"""What is measured: metrics by name as (sum, count) per sample, and their accumulation over batches and ranks. No evaluation loop.

All are taken over the valid pixels, e = |prediction - ground truth| in pixels, pooled over the pixels of a data set (KITTI's rule) and not
averaged over images. A prediction that is not finite has e = infinity: wrong for every threshold, and visible in `epe` and `rmse`.
Shares are in PERCENT, 0 to 100, as the benchmarks print them, but where a name is torchvision's.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from utils.errors import UserError, did_you_mean
from utils.registry import Registry

METRICS = Registry("metric")
SumCount = tuple[Tensor, Tensor]
Gather = Callable[[Tensor], Tensor]
POSE_MSE = "pose_mse"  # of `mse`, where it is of poses
MORE_IS_BETTER = frozenset({"density", "1px", "3px", "5px", "fl-all"})  # of all others less
VALIDATED = ("epe", "rmse", "bad_0.5", "bad_1", "bad_2", "bad_3", "d1", "d3", "d1_all")  # while training; `scores` takes what a suite names


@METRICS.register("epe")
def epe(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """End-point error, mean of e. Pixels. Scene Flow's number (Mayer et al. 2016)."""
    return _sums(_error(prediction, disparity), valid)


@METRICS.register("rmse")
def rmse(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """sqrt(mean of e^2), the root taken after all sums (see `finish`). Pixels. Scharstein and Szeliski 2002, eq. 5."""
    return _sums(_error(prediction, disparity).double().square(), valid)


@METRICS.register("mse")
def mse(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Mean of e^2, `rmse` without the root. Square pixels; of poses, which are compared as (B, 1, 6), square radians and baselines."""
    return rmse(prediction, disparity, valid)


def _bad(threshold: float) -> Callable[[Tensor, Tensor, Tensor], SumCount]:
    def bad(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
        return _sums(100.0 * (_error(prediction, disparity) > threshold), valid)

    bad.__doc__ = f"Percent of valid pixels with e > {threshold:g} px."
    return bad


# Middlebury v3 and ETH3D: "bad 0.5" to "bad 4.0", the papers' BP-1, BP-2; KITTI 2012's "Out-Noc" and "Out-All" are bad_3 by the mask given.
for _threshold in (0.5, 1.0, 2.0, 3.0, 4.0):
    METRICS.register(f"bad_{_threshold:g}")(_bad(_threshold))


@METRICS.register("d1")
def d1(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Percent of valid pixels with e > 3 px, under the name that RAFT-Stereo's evaluation prints; equals `bad_3`, not KITTI's `d1_all`."""
    return METRICS["bad_3"](prediction, disparity, valid)


@METRICS.register("d3")
def d3(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Percent of valid pixels with e > 1 px. The name is the configuration format's; equals `bad_1`."""
    return METRICS["bad_1"](prediction, disparity, valid)


@METRICS.register("d1_all")
def d1_all(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Percent of valid pixels with e > 3 px and e > 5 % of the ground truth. KITTI 2015's D1-all (Menze and Geiger 2015, sec. 5)."""
    error = _error(prediction, disparity)
    return _sums(100.0 * ((error > 3) & (error > 0.05 * disparity)), valid)


@METRICS.register("relepe")
def relepe(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Mean of e / ground truth, a share of 1; which for small errors is that of the depth. Name and definition of torchvision."""
    return _sums(_error(prediction, disparity) / disparity.clamp(min=1e-6), valid)


@METRICS.register("density")
def density(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Percent of valid pixels with a prediction: one that is finite."""
    return _sums(100.0 * torch.isfinite(prediction), valid)


# ---- the names of torchvision's stereo reference, with its definitions, so that its tables can be compared -------------------------------


@METRICS.register("mae")
def mae(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Mean of e, pixels; equals `epe`."""
    return epe(prediction, disparity, valid)


def _within(threshold: float) -> Callable[[Tensor, Tensor, Tensor], SumCount]:
    def within(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
        return _sums(1.0 * (_error(prediction, disparity) < threshold), valid)

    within.__doc__ = f"SHARE of valid pixels with e < {threshold:g} px, 0 to 1: more is better."
    return within


for _threshold in (1, 3, 5):
    METRICS.register(f"{_threshold}px")(_within(_threshold))


@METRICS.register("fl-all")
def fl_all(prediction: Tensor, disparity: Tensor, valid: Tensor) -> SumCount:
    """Percent of valid pixels with e < 3 px and e < 5 % of the ground truth: more is better. KITTI's Fl-all, which is `d1_all` for
    disparity, counts the others, and by `and`."""
    error = _error(prediction, disparity)
    return _sums(100.0 * ((error < 3) & (error < 0.05 * disparity)), valid)


def better(name: str, value: float, than: float) -> bool:
    """Whether one value of a metric (a name, also after that of a data set) beats another. NaN beats nothing, and all beats NaN."""
    if math.isnan(value) or math.isnan(than):
        return not math.isnan(value)
    return value > than if name.rpartition("/")[2] in MORE_IS_BETTER else value < than


def finish(name: str, total: float, count: float) -> float:
    """The metric from its sum and count over everything: the division is last, `rmse`'s root after it. NaN when nothing was counted."""
    mean = total / count if count else math.nan
    return math.sqrt(mean) if name == "rmse" else mean


def _error(prediction: Tensor, disparity: Tensor) -> Tensor:
    """(B, H, W) |prediction - disparity| in float32, infinite where the prediction is not finite."""
    prediction = prediction.float()
    return torch.where(torch.isfinite(prediction), (prediction - disparity).abs(), torch.inf)


def _sums(values: Tensor, valid: Tensor) -> SumCount:
    """(B, H, W) -> (B,), (B,) in float64 (float32 where the device has none)."""
    dtype = _widest(values.device)
    return torch.where(valid, values, 0).sum(dim=(1, 2), dtype=dtype), valid.sum(dim=(1, 2)).to(dtype)


def _widest(device: torch.device | str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


class Means:
    """Running weighted means of named scalars, kept on the device until `reduce`. For the parts of a loss between two log lines.

    The keys are fixed from the start, so that all ranks reduce the same tensor.
    """

    def __init__(self, keys: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.keys = list(keys)
        self._sums = torch.zeros(len(self.keys), 2, dtype=_widest(device), device=device)

    def add(self, values: Mapping[str, Tensor], counts: Mapping[str, int] | int = 1) -> None:
        """values: detached scalars, of each of which `counts` says how much it weighs (a number of samples); absent keys are left alone.

        A value of weight 0 is passed over, whatever it is.
        """
        for row, key in enumerate(self.keys):
            count = counts if isinstance(counts, int) else counts.get(key, 0)
            if key in values and count:
                self._sums[row, 0] += values[key].to(self._sums.device) * count
                self._sums[row, 1] += count

    def reduce(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """The means since the last call, and a new start. reduce: the sum of a tensor over ranks, e.g. `accelerator.reduce`.

        The one place that waits for the device. Keys that nothing was added to are left out.
        """
        found = self._means(self._sums if reduce is None else reduce(self._sums.clone()))
        self._sums = torch.zeros_like(self._sums)
        return found

    def peek(self) -> dict[str, float]:
        """The means of this process so far, for a progress bar. Waits for the device."""
        return self._means(self._sums)

    def state_dict(self, gather: Gather | None = None) -> dict[str, Tensor]:
        """What was added since the last `reduce`, (ranks, 2) per key: a sum over ranks would not give the same bits when it is taken later.

        gather: concatenates a tensor over ranks, e.g. `accelerator.gather`.
        """
        return _pack(self.keys, self._sums, gather)

    def load_state_dict(self, state: Mapping[str, Tensor], rank: int = 0, ranks: int = 1) -> None:
        """Replace everything by what this rank had; with another number of ranks the first takes all. Unknown keys are passed over."""
        self._sums = _unpack(self.keys, self._sums, state, rank, ranks)

    def _means(self, sums: Tensor) -> dict[str, float]:
        return {key: total / count for key, (total, count) in zip(self.keys, sums.tolist(), strict=True) if count}


class MetricSums:
    """Sums of metrics per data set over many batches, kept on the device until `reduce`.

    datasets: names in a fixed order, the same on every rank. max_disparity: pixels whose ground truth is not below it are left out.
    Raises `UserError` beginning with `where` for an unknown metric.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        metrics: Iterable[str] = VALIDATED,
        *,
        max_disparity: float | None = None,
        device: torch.device | str = "cpu",
        where: str = "metrics",
    ) -> None:
        self.datasets, self.metrics, self.max_disparity = list(dict.fromkeys(datasets)), list(metrics), max_disparity
        for name in self.metrics:
            if name not in METRICS:
                raise UserError(f"{where}: unknown metric '{name}'{did_you_mean(name, METRICS)}")
        self._sums = torch.zeros(len(self.datasets), len(self.metrics), 2, dtype=_widest(device), device=device)
        self._samples = dict.fromkeys(self.datasets, 0)  # of this process; not in `state_dict`

    @torch.no_grad()
    def add(self, prediction: Tensor, disparity: Tensor, valid: Tensor, datasets: Sequence[str]) -> None:
        """prediction, disparity: (B, H, W) pixels; valid: bool (B, H, W); datasets: the name of each sample's data set."""
        if self.max_disparity is not None:
            valid = valid & (disparity < self.max_disparity)
        pairs = [METRICS[name](prediction, disparity, valid) for name in self.metrics]
        values = torch.stack([torch.stack(pair, dim=-1) for pair in pairs], dim=1)  # (B, metrics, 2)
        for row, value in zip(datasets, values.to(self._sums), strict=True):  # in order: a scattered add rounds differently each time
            self._sums[self.datasets.index(row)] += value
            self._samples[row] += 1

    def reduce(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """`{"epe": over all data sets, "<dataset>/epe": ...}`. reduce: the sum of a tensor over ranks. The sums stay as they are.

        A data set without a valid pixel is left out; the overall values are NaN when none has one.
        """
        sums = (self._sums if reduce is None else reduce(self._sums.clone())).cpu()
        found = {name: finish(name, *sums[:, column].sum(dim=0).tolist()) for column, name in enumerate(self.metrics)}
        for row, dataset in enumerate(self.datasets):
            for column, name in enumerate(self.metrics):
                if sums[row, column, 1] > 0:
                    found[f"{dataset}/{name}"] = finish(name, *sums[row, column].tolist())
        return found

    def counts(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, tuple[int, int]]:
        """Data set -> (samples, valid pixels), of samples only those since this process began. reduce: the sum of a tensor over ranks."""
        found = torch.stack([torch.tensor(list(self._samples.values())).to(self._sums), self._sums[:, 0, 1]], dim=1)
        found = (found if reduce is None else reduce(found)).cpu()
        return {name: (int(samples), int(pixels)) for name, (samples, pixels) in zip(self.datasets, found.tolist(), strict=True)}

    def reset(self) -> None:
        """A new start."""
        self._sums = torch.zeros_like(self._sums)
        self._samples = dict.fromkeys(self.datasets, 0)

    def state_dict(self, gather: Gather | None = None) -> dict[str, Tensor]:
        """The sums, (ranks, 2) per data set and metric; see `Means.state_dict`."""
        return _pack(self._keys(), self._sums.flatten(0, 1), gather)

    def load_state_dict(self, state: Mapping[str, Tensor], rank: int = 0, ranks: int = 1) -> None:
        """Replace everything; see `Means.load_state_dict`."""
        self._sums = _unpack(self._keys(), self._sums.flatten(0, 1), state, rank, ranks).view_as(self._sums)

    def _keys(self) -> list[str]:
        return [f"{dataset}/{name}" for dataset in self.datasets for name in self.metrics]


def _pack(keys: Sequence[str], sums: Tensor, gather: Gather | None) -> dict[str, Tensor]:
    rows = sums.clone()[None]  # (ranks, keys, 2)
    rows = rows if gather is None else gather(rows)
    return dict(zip(keys, rows.cpu().unbind(dim=1), strict=True))


def _unpack(keys: Sequence[str], sums: Tensor, state: Mapping[str, Tensor], rank: int, ranks: int) -> Tensor:
    found = torch.zeros_like(sums)
    for row, key in zip(found, keys, strict=True):
        if key in state and len(state[key]) == ranks:
            row.copy_(state[key][rank])
        elif key in state and rank == 0:
            row.copy_(state[key].sum(dim=0))
    return found
