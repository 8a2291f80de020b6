"""Pictures of what a network sees and says, one file per sample. Which samples, and when, is the loop's business."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from train.metrics import METRICS, finish
from train.sample import StereoSample
from utils.images import write_image
from utils.visualize import caption, colorize_disparity, colorize_error, tile

log = logging.getLogger("stereofoundry")

CAPTION = ("epe", "bad_1", "d1_all")


def save_previews(folder: Path, samples: Sequence[tuple[str, StereoSample]], predict: Callable[[StereoSample], np.ndarray]) -> list[Path]:
    """Write `folder/{index:02d}_{data set}_{key}.png` for every (data set, sample); the paths, in order. The folder is created.

    predict: a sample to its (H, W) disparity in pixels. Survives whatever is in there: no valid pixel, NaN everywhere, keys with slashes.
    A disk that takes no pictures ends them with a warning; no run has to stop for that.
    """
    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, (dataset, sample) in enumerate(samples):
            path = folder / f"{index:02d}_{safe_name(dataset)}_{safe_name(sample.key)}.png"
            write_image(path, preview(dataset, sample, predict(sample)))
            paths.append(path)
    except OSError as error:
        log.warning("%s: pictures cannot be written (%s); the run goes on", folder, error.strerror or error)
    return paths


def preview(dataset: str, sample: StereoSample, prediction: np.ndarray) -> np.ndarray:
    """left | right | numbers over truth | prediction | error, truth and prediction in one scale of colours; uint8 RGB."""
    disparity, valid = sample.disparity, sample.valid
    known, guess = disparity[valid & np.isfinite(disparity)], prediction[np.isfinite(prediction)]
    top = float(np.max(known if known.size else guess, initial=0)) or None
    height, width = disparity.shape
    cells = [
        sample.left,
        sample.right,
        caption(height, width, _numbers(dataset, sample, prediction)),
        colorize_disparity(disparity, valid, top),
        colorize_disparity(prediction, None, top),
        colorize_error(prediction, disparity, valid),
    ]
    return tile(cells, columns=3)


def safe_name(text: str, longest: int = 80) -> str:
    """`text` as a part of a file name: letters, digits, dot, dash and underscore; no path, never empty. The end is kept, it tells more."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-longest:].strip("._-") or "unnamed"


def _numbers(dataset: str, sample: StereoSample, prediction: np.ndarray) -> list[str]:
    arrays = (prediction.astype(np.float32), sample.disparity, sample.valid)
    arguments = [torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays]
    lines = [dataset, sample.key[-40:], f"valid {100 * sample.valid.mean():.1f} %"]
    for name in CAPTION:
        total, count = METRICS[name](*arguments)
        value = finish(name, total.item(), count.item())
        lines.append(f"{name} {'-' if math.isnan(value) else f'{value:.2f}'}")
    return [line.encode("ascii", "replace").decode() for line in lines]
