"""What can be measured and used: a sample in, disparity and what is known of it out. A trained network, or what people use without one
(`baselines`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from train.baselines import sgbm
from train.inference import SGBM, Precision, Result, Settings, build_estimator
from train.sample import StereoSample
from utils.errors import UserError

Predict = Callable[[StereoSample], Result]


@dataclass(frozen=True)
class Predictor:
    """`result = predictor(sample)`. settings: how its network looks at a pair; None without a network."""

    predict: Predict
    settings: Settings | None = None

    def __call__(self, sample: StereoSample) -> Result:
        return self.predict(sample)


def build_predictor(
    checkpoint: str,
    device: torch.device,
    *,
    iterations: int | None = None,
    cascades: int = 1,
    precision: Precision = "fp32",
    changes: Mapping[str, Any] | None = None,
) -> Predictor:
    """sample -> disparity and, of a network that says it, confidence, at the size of the sample.

    checkpoint: "sgbm", or what `load.load_trained` takes. iterations: the network's own number where not given. cascades: coarse-to-fine
    levels, each half the size of the next. changes: keys of the model section that are to differ from the file's.
    """
    if checkpoint == SGBM:
        return Predictor(_sgbm)
    settings = Settings(iterations=iterations, cascades=cascades, precision=precision)
    estimator = build_estimator(checkpoint, device, settings, changes=changes)
    return Predictor(lambda sample: estimator(sample.left, sample.right), estimator.settings)


def _sgbm(sample: StereoSample) -> Result:
    return Result(sgbm(sample.left, sample.right, float(sample.disparity[sample.valid].max(initial=0)) or None))


def choose_device(name: str | None) -> torch.device:
    """The device of that name; a GPU where there is one and none is named. Raises UserError for one that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: nothing here runs on '{device.type}'; expected cpu, cuda or cuda:N")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: there is none on this machine; use --device cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no GPU is visible; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: GPUs are visible up to cuda:{torch.cuda.device_count() - 1}")
    return device


def unlabelled(left: np.ndarray, right: np.ndarray) -> StereoSample:
    """A pair without ground truth as a sample: uint8 (H, W, 3) RGB, twice."""
    size = left.shape[:2]
    return StereoSample(left, right, np.zeros(size, np.float32), np.zeros(size, bool))
