"""What one eye sees: surfaces painted over each other, and which left pixels the right eye misses. The surfaces are `sheet`'s and
`solid`'s; what lens and sensor make of the view is `camera`'s.

A surface can be looked at by either eye, and gives its disparity at that eye's own pixel centres, exactly. Coordinates are the left eye's,
in baselines: x to the right, y down, z ahead; the right eye is at (1, 0, 0). A pixel (x, y) looks along r = (x - cx, y - cy, focal), and
what it sees at disparity d lies at r / d, since d = focal / z; for the right eye, one baseline further in x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np

Eye = Literal["left", "right"]
EYES: dict[Eye, float] = {"left": 0.0, "right": 1.0}


@dataclass(frozen=True)
class Lens:
    """focal: pixels. centre: (cx, cy), where the optical axis meets the image, the same in both eyes."""

    focal: float
    centre: tuple[float, float]

    def ray(self, x: float, y: float) -> np.ndarray:
        return np.array([x - self.centre[0], y - self.centre[1], self.focal])

    def project(self, points: np.ndarray, at: float) -> np.ndarray:
        """(n, 2) pixels of (n, 3) points in the eye at `at` baselines."""
        return (points[:, :2] - (at, 0)) * (self.focal / points[:, 2:]) + self.centre


@dataclass(frozen=True)
class Gloss:
    """A reflection of far things: it lies behind the surface, and so contradicts its disparity.

    picture: float32 (h, w), grey levels that are added, by direction: what is right ahead in the middle, to the sides at the borders.
    """

    picture: np.ndarray

    def place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of the picture for the first two parts of unit vectors."""
        height, width = self.picture.shape
        return (x + 1) * np.float32(width / 2), (y + 1) * np.float32(height / 2)


@dataclass(frozen=True)
class Skin:
    """How a surface looks wherever it is drawn.

    texture: uint8 (th, tw, 4): RGB and coverage; mirrored beyond its border, where a cut-out is nothing.
    coarse: the same picture in ever coarser steps of `COARSER`, for surfaces that reach from near to far.
    """

    texture: np.ndarray
    cutout: bool = False
    coarse: tuple[np.ndarray, ...] = ()
    gloss: Gloss | None = None


@dataclass(frozen=True)
class Part:
    """A surface as one eye sees it, at the pixel centres of a window, all float32 (h, w).

    corner: (x, y) of the window's first pixel in this view.
    disparity: pixels, above 0 where it is shown. inside: distance to the outline in pixels, positive inside; None for no outline.
    light: factor on the colour. u, v: column and row of the texture.
    level: how many steps of `COARSER` the texture is too fine here; None for none.
    mirrored: u and v in the picture of the gloss, where there is one.
    turned: bool, where the surface is turned away from the other eye; None for nowhere.
    """

    corner: tuple[int, int]
    disparity: np.ndarray
    inside: np.ndarray | None
    light: np.ndarray
    u: np.ndarray
    v: np.ndarray
    level: np.ndarray | None = None
    mirrored: tuple[np.ndarray, np.ndarray] | None = None
    turned: np.ndarray | None = None


class Surface(Protocol):
    """nearness: its typical disparity, by which a stack is sorted, farthest first."""

    @property
    def skin(self) -> Skin: ...

    @property
    def nearness(self) -> float: ...

    def look(self, eye: Eye, size: tuple[int, int]) -> Part | None:
        """None where this eye, of `size` (width, height), sees nothing of it."""
        ...


@dataclass(frozen=True)
class Scene:
    """surfaces: farthest first. lens: of either eye."""

    surfaces: list[Surface]
    lens: Lens


@dataclass(frozen=True)
class View:
    """What one eye sees. image: float32 (H, W, 3) 0..255 and above; disparity: float32 (H, W); surface: int16 (H, W), index, -1 for none;
    turned: bool (H, W), turned away from the other eye.
    """

    image: np.ndarray
    disparity: np.ndarray
    surface: np.ndarray
    turned: np.ndarray


COARSER = 4  # ratio of the sizes of one texture and its next coarser one


def paint(surfaces: Sequence[Surface], size: tuple[int, int], eye: Eye) -> View:
    """The stack as one eye sees it, `size` (width, height). Nearest wins at every pixel centre; outlines are softened over one pixel.

    Order matters only to the softening: give the farthest first.
    """
    width, height = size
    image = np.zeros((height, width, 4), np.uint8)
    light, glow = np.ones((height, width), np.float32), np.zeros((height, width), np.float32)
    disparity = np.full((height, width), -1, np.float32)
    surface = np.full((height, width), -1, np.int16)
    turned = np.zeros((height, width), np.uint8)
    any_glow = any_turned = False
    for number, entry in enumerate(surfaces):
        part = entry.look(eye, size)
        if part is None:
            continue
        y, x = (slice(start, start + length) for start, length in zip(part.corner[::-1], part.disparity.shape, strict=True))
        ahead = cv2.compare(part.disparity, disparity[y, x], cv2.CMP_GT)
        if not cv2.hasNonZero(ahead):
            continue
        colour = _colour(entry.skin, part, ahead)
        shine = None
        if entry.skin.gloss is not None and part.mirrored is not None:
            shine = cv2.remap(entry.skin.gloss.picture, *part.mirrored, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        elif any_glow:
            shine = np.zeros_like(part.light)
        layers = [(colour, image[y, x]), (part.light, light[y, x])] + ([] if shine is None else [(shine, glow[y, x])])
        if part.inside is None and not entry.skin.cutout:
            solid = ahead
            for new, old in layers:
                cv2.copyTo(new, solid, old)
        else:
            alpha = (ahead.view(np.int8) < 0).astype(np.float32)
            if part.inside is not None:
                alpha *= np.minimum(np.maximum(part.inside + np.float32(0.5), 0), 1)
            if entry.skin.cutout:
                alpha *= cv2.extractChannel(colour, 3) * np.float32(1 / 255)
            solid, rest = (alpha > np.float32(0.5)).view(np.uint8), 1 - alpha  # OpenCV would take a window of one pixel for a scalar
            for new, old in layers:
                cv2.blendLinear(new, old, alpha, rest, dst=old)
        cv2.copyTo(part.disparity, solid, disparity[y, x])
        cv2.copyTo(np.full(solid.shape, number, np.int16), solid, surface[y, x])
        if part.turned is not None or any_turned:
            cv2.copyTo(np.zeros_like(solid) if part.turned is None else part.turned.view(np.uint8), solid, turned[y, x])
        any_glow, any_turned = any_glow or shine is not None, any_turned or part.turned is not None
    lit = cv2.multiply(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), cv2.merge([light] * 3), dtype=cv2.CV_32F)
    return View(cv2.add(lit, cv2.merge([glow] * 3)) if any_glow else lit, disparity, surface, turned.view(bool))


def occlusion(left: View, right: View) -> np.ndarray:
    """bool (H, W), left pixels that the right eye does not see.

    Their match lies left of the right image, or they are on a side turned away from the right eye, or the right pixel nearest to the
    match shows another, nearer surface.
    """
    height, width = left.disparity.shape
    match = np.arange(width, dtype=np.float32) - left.disparity
    nearest = np.clip(np.rint(match), 0, width - 1).astype(np.int64) + np.arange(height)[:, None] * width
    hidden = (right.surface.take(nearest) != left.surface) & (right.disparity.take(nearest) > left.disparity)
    return hidden | left.turned | (match < 0)


def _colour(skin: Skin, part: Part, shown: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4), RGB and coverage, of the part's pixels where `shown`, uint8 (h, w), is not 0. OpenCV before 5 rounds the place
    to 1/32 texel: ground truth is not touched by that.
    """
    border = cv2.BORDER_CONSTANT if skin.cutout else cv2.BORDER_REFLECT
    u, v = (cv2.copyTo(place, shown) for place in (part.u, part.v))  # elsewhere it may be far out, which takes long to mirror
    if skin.coarse:
        u, v = _folded(u, skin.texture.shape[1]), _folded(v, skin.texture.shape[0])
    colour = cv2.remap(skin.texture, u, v, cv2.INTER_LINEAR, borderMode=border)
    if part.level is not None:
        for step, texture in enumerate(skin.coarse):
            share = np.clip(part.level - np.float32(step), 0, 1)
            rows = np.flatnonzero(share.any(axis=1))
            if not len(rows):
                break
            some = slice(rows[0], rows[-1] + 1)
            scale = np.float32(1 / COARSER ** (step + 1))
            shift = np.float32(0.5 * float(scale) - 0.5)
            coarse = cv2.remap(texture, u[some] * scale + shift, v[some] * scale + shift, cv2.INTER_LINEAR, borderMode=border)
            cv2.blendLinear(coarse, colour[some], share[some], 1 - share[some], dst=colour[some])
    return colour


def _folded(place: np.ndarray, side: int) -> np.ndarray:
    """Mirrored back into 0..side, however far out."""
    turns = place * np.float32(1 / (2 * side))
    turns -= np.rint(turns)
    return np.abs(turns, out=turns) * np.float32(2 * side)
