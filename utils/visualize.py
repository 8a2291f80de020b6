"""Arrays as pictures for people: disparity and its error in colour, several pictures in one. Reading and writing files is for `images`."""

from collections.abc import Sequence

import cv2
import numpy as np

# Error in pixels below which a colour ends; the table of the KITTI 2015 development kit, blue to 3 px and red beyond
ERROR_STEPS_PX = (0.1875, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0)
ERROR_COLOURS = np.array(
    [
        (49, 54, 149),
        (69, 117, 180),
        (116, 173, 209),
        (171, 217, 233),
        (224, 243, 248),
        (254, 224, 144),
        (253, 174, 97),
        (244, 109, 67),
        (215, 48, 39),
        (165, 0, 38),
    ],
    np.uint8,
)


def colorize_disparity(disparity: np.ndarray, valid: np.ndarray | None = None, max_disparity: float | None = None) -> np.ndarray:
    """(H, W) pixels -> uint8 (H, W, 3) RGB: 0 dark blue (far) to `max_disparity` dark red (near), in the turbo colours.

    max_disparity: by default the largest value shown. Black where not valid and where not finite.
    """
    shown = np.isfinite(disparity) if valid is None else np.isfinite(disparity) & valid
    values = np.where(shown, disparity, 0).astype(np.float32)
    top = float(values.max(initial=0)) if max_disparity is None else max_disparity
    levels = np.rint(255 * np.clip(values / max(top, 1e-6), 0, 1)).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.where(shown[..., None], rgb, 0).astype(np.uint8)


def colorize_error(prediction: np.ndarray, disparity: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """|prediction - disparity|, (H, W) pixels -> uint8 (H, W, 3) RGB in logarithmic steps: blue up to 3 px, yellow to red beyond.

    Black where not valid; a prediction that is not finite has the last colour. Unlike KITTI's kit, no 5 % rule and no dilation.
    """
    comparable = valid & np.isfinite(prediction) & np.isfinite(disparity)
    error = np.abs(np.where(comparable, prediction, 0) - np.where(comparable, disparity, 0))
    error = np.where(valid & ~comparable, np.inf, error)
    rgb = ERROR_COLOURS[np.searchsorted(ERROR_STEPS_PX, error, side="left")]
    return np.where(valid[..., None], rgb, 0).astype(np.uint8)


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """uint8 RGB pictures row by row into one; smaller ones stand in the corner of a cell of the largest size. Gaps and rest are black."""
    height, width = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def caption(height: int, width: int, lines: Sequence[str]) -> np.ndarray:
    """A black uint8 (height, width, 3) picture with lines of text, as large as the longest one allows."""
    canvas = np.zeros((height, width, 3), np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    longest = max((cv2.getTextSize(line, font, 1.0, 1)[0][0] for line in lines), default=1)
    scale = min(0.9 * width / max(longest, 1), 0.6 * height / (30 * max(len(lines), 1)), 0.8)
    for index, line in enumerate(lines):
        origin = (int(0.05 * width), int((index + 1) * 45 * scale))
        cv2.putText(canvas, line, origin, font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas
