"""Pictures of what a network sees and says, one file per sample. Which samples, and when, is the loop's business."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.metrics import METRICS, finish
from train.sample import StereoBatch
from utils.images import write_image
from utils.visualize import caption, colorize_disparity, colorize_error, tile

CAPTION = ("epe", "bad_1", "d1_all")


def save_previews(
    folder: Path, batch: StereoBatch, predictions: Sequence[np.ndarray | Tensor] | Tensor, max_samples: int | None = None
) -> list[Path]:
    """Write `folder/{index:02d}_{data set}_{key}.png` for the first samples; the paths, in order. The folder is created.

    predictions: one (H, W) disparity in pixels per sample. A picture holds left | right | numbers over truth | prediction | error, truth
    and prediction in one scale of colours. Survives whatever is in there: no valid pixel, NaN everywhere, keys with slashes.
    Raises OSError where it cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(min(len(batch), len(batch) if max_samples is None else max_samples)):
        name = f"{index:02d}_{safe_name(batch.datasets[index])}_{safe_name(batch.keys[index])}.png"
        write_image(folder / name, preview(batch, index, _array(predictions[index])))
        paths.append(folder / name)
    return paths


def preview(batch: StereoBatch, index: int, prediction: np.ndarray) -> np.ndarray:
    """The picture of one sample, uint8 RGB, three cells wide and two high."""
    disparity, valid = _array(batch.disparity[index]), batch.valid[index].cpu().numpy()
    known = disparity[valid & np.isfinite(disparity)]
    guess = prediction[np.isfinite(prediction)]
    top = float(np.max(known if known.size else guess, initial=0)) or None
    cells = [
        _image(batch.left[index]),
        _image(batch.right[index]),
        caption(disparity.shape[0], disparity.shape[1], _numbers(batch, index, prediction, disparity, valid)),
        colorize_disparity(disparity, valid, top),
        colorize_disparity(prediction, None, top),
        colorize_error(prediction, disparity, valid),
    ]
    return tile(cells, columns=3)


def safe_name(text: str, longest: int = 80) -> str:
    """`text` as a part of a file name: letters, digits, dot, dash and underscore; no path, never empty. The end is kept, it tells more."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-longest:].strip("._-") or "unnamed"


def _numbers(batch: StereoBatch, index: int, prediction: np.ndarray, disparity: np.ndarray, valid: np.ndarray) -> list[str]:
    arguments = [torch.from_numpy(np.ascontiguousarray(array))[None] for array in (prediction, disparity, valid)]
    lines = [batch.datasets[index], batch.keys[index][-40:], f"valid {100 * valid.mean():.1f} %"]
    for name in CAPTION:
        total, count = METRICS[name](*arguments)
        value = finish(name, total.item(), count.item())
        lines.append(f"{name} {'-' if math.isnan(value) else f'{value:.2f}'}")
    return [line.encode("ascii", "replace").decode() for line in lines]


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)


def _image(image: Tensor) -> np.ndarray:
    """(3, H, W), uint8 or float in [0, 1] -> uint8 (H, W, 3)."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (255 * image.float().nan_to_num(0.0).clamp(0, 1)).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
