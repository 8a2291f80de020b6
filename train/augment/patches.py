"""Rectangles of the right image that show something else. The left image keeps its ground truth, as published: what it shows is where it
was, and a network has to tell it from the surroundings, as behind any occlusion.
"""

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from train.augment.base import IMAGE_AUGMENTATIONS, Limits, Probability
from train.sample import StereoSample

Counts = Limits[Annotated[int, Field(ge=0, le=100)]]
Sides = Limits[Annotated[int, Field(ge=1)]]
Box = tuple[slice, slice]  # rows, columns


@IMAGE_AUGMENTATIONS.register("eraser")
def eraser(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    probability: Probability = 0.5,
    patches: Counts = (1, 2),
    size: Sides = (50, 99),
) -> StereoSample:
    """Rectangles in the mean colour of the right image (RAFT-Stereo, core/utils/augmentor.py: its numbers; CREStereo: one of 100 to 200).

    Numbers and sides, in pixels of the crop, are drawn uniformly, both limits included. A rectangle may reach beyond the border.
    """
    boxes = draw_boxes(sample.right.shape[:2], rng, probability, patches, size)
    colour = np.rint(cv2.mean(sample.right)[:3]).astype(np.uint8)
    return cover(sample, boxes, [colour] * len(boxes))


@IMAGE_AUGMENTATIONS.register("occlusion")
def occlusion(
    sample: StereoSample,
    rng: np.random.Generator,
    *,
    probability: Probability = 0.5,
    patches: Counts = (1, 1),
    size: Sides = (50, 100),
) -> StereoSample:
    """Rectangles that show another place of the right image: unlike a single colour, something that can be mistaken for a match.

    Drawn as those of `eraser`. What is shown is turned by half a turn, or a match of the same row might be shown twice.
    """
    height, width = sample.right.shape[:2]
    boxes = draw_boxes((height, width), rng, probability, patches, size)
    shown = []
    for rows, columns in boxes:
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        y, x = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        shown.append(sample.right[y : y + tall, x : x + wide][::-1, ::-1])
    return cover(sample, boxes, shown)


def draw_boxes(
    shape: tuple[int, int], rng: np.random.Generator, probability: float, patches: tuple[int, int], size: tuple[int, int]
) -> list[Box]:
    """None, or with `probability` between `patches[0]` and `patches[1]` rectangles with sides from `size[0]` to `size[1]`.

    The first pixel is anywhere in an image of `shape` (H, W); what lies outside is cut off.
    """
    if rng.random() >= probability:
        return []
    boxes = []
    for _ in range(rng.integers(patches[0], patches[1] + 1)):
        first = [int(rng.integers(side)) for side in shape]
        last = [min(start + int(rng.integers(size[0], size[1] + 1)), side) for start, side in zip(first, shape, strict=True)]
        boxes.append((slice(first[0], last[0]), slice(first[1], last[1])))
    return boxes


def cover(sample: StereoSample, boxes: Sequence[Box], shown: Sequence[np.ndarray]) -> StereoSample:
    """The sample whose right image shows `shown` in `boxes`.

    The left view's disparity stays. The right view's is that of pixels that are no longer seen, and becomes unknown there; `occluded`,
    where it is known, gains the left pixels whose match is covered.
    """
    if not boxes:
        return sample
    right = sample.right.copy()
    for box, picture in zip(boxes, shown, strict=True):
        right[box] = picture
    changes = {"right": right}
    if sample.disparity_right is not None and sample.valid_right is not None:
        changes["disparity_right"], changes["valid_right"] = sample.disparity_right.copy(), sample.valid_right.copy()
        for box in boxes:
            changes["disparity_right"][box] = 0
            changes["valid_right"][box] = False
    if sample.occluded is not None:
        changes["occluded"] = sample.occluded.copy()
        for rows, columns in boxes:
            match = np.rint(np.arange(right.shape[1], dtype=np.float32) - sample.disparity[rows])
            changes["occluded"][rows] |= sample.valid[rows] & (match >= columns.start) & (match < columns.stop)
    return sample.replace(**changes)
