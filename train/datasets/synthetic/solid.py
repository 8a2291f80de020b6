"""Bodies with faces, and the ground and the walls around them: rays are cut with planes and quadrics, in each eye by itself, so that
perspective, the sides that only one eye sees and the ground truth are exact. What stands where is decided elsewhere.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from train.datasets.synthetic.render import COARSER, EYES, Eye, Lens, Part, Skin

SMALLEST = 1e-6  # a plane nearer to an eye than this, in baselines, is taken to be this far
SHADE_STEP = 4  # pixels per cell of a shade


@dataclass(frozen=True)
class Quadric:
    """An ellipsoid, or with two radii a cylinder without ends.

    axes: (3, 3) unit rows: towards the viewer, across, and up or along. radii: baselines along the axes.
    wrapping: texels per baseline of the surface, and the texture's column and row in the middle of the near side.
    """

    centre: np.ndarray
    axes: np.ndarray
    radii: np.ndarray
    wrapping: tuple[float, float, float]

    @property
    def form(self) -> np.ndarray:
        """(2 or 3, 3): |form (p - centre)| is 1 on the surface."""
        return self.axes[: len(self.radii)] / self.radii[:, None]


@dataclass(frozen=True)
class Lighting:
    """Sun or lamp and the light from everywhere; what stands on the ground is darker towards it.

    direction: unit vector to the sun. ambient, direct: factors on the colour.
    floor: (4,) plane of the ground, normal up: normal . p - floor[3] is a point's height. reach: height over which the ground darkens.
    """

    direction: np.ndarray
    ambient: float
    direct: float
    floor: np.ndarray | None = None
    reach: float = 1.0


@dataclass(frozen=True)
class Solid:
    """What lies within all of `planes` and in `quadric`: a convex body; a single plane is half of the world, seen from its free side.

    planes: (n, 4), unit normal outwards and offset: normal . p <= offset inside.
    frames: (n, 2, 4), for each plane from (p, 1) to (column, row) of the texture.
    edges: pairs of planes that meet in an edge; None for any two.
    corners: (n, 3) points around the body; None for a half-space, which may be anywhere in the picture.
    beside: (n, 4) other half-spaces; this one is not looked at where one of them is nearer.
    flat: a card without thickness, of one plane, with two sides.
    shade: float32 (h, w), another factor on the light, over the left view and what the right eye sees beside it, in cells of
        `SHADE_STEP` pixels.
    fineness: for a skin with coarse textures, texels per pixel at disparity 1.
    """

    lens: Lens
    planes: np.ndarray
    frames: np.ndarray
    skin: Skin
    lighting: Lighting
    edges: tuple[tuple[int, int], ...] | None = None
    quadric: Quadric | None = None
    corners: np.ndarray | None = None
    beside: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    flat: bool = False
    shade: np.ndarray | None = None
    fineness: float = 0.0

    @property
    def nearness(self) -> float:
        return 0.0 if self.corners is None else self.lens.focal / float(self.corners[:, 2].mean())

    def look(self, eye: Eye, size: tuple[int, int]) -> Part | None:
        at = EYES[eye]
        window = self._window(at, size)
        if window is None:
            return None
        rays = _Rays(self.lens, window, at)
        faces, inside = self._cut(rays)
        if not faces:
            return None
        disparity = faces[0][1]
        for _, values in faces[1:]:
            disparity = cv2.min(disparity, values)
        distance = 1 / np.maximum(disparity, np.float32(0.01))

        coats = [self._curved(rays, distance) if number is None else self._plane(number, rays, distance) for number, _ in faces]
        for other, (_, values) in zip(coats[1:], faces[1:], strict=True):
            mask = cv2.compare(values, disparity, cv2.CMP_LE)
            for target, source in zip(coats[0], other, strict=True):
                if target is not None and source is not None:
                    cv2.copyTo(source, mask, target)
        u, v, light, turned, *mirrored = coats[0]
        light = self._darkened(light, rays, distance, disparity)
        level = None
        if self.skin.coarse:
            level = cv2.log(np.maximum(np.float32(self.fineness) * distance, 1)) * np.float32(1 / np.log(COARSER))
        return Part(window[:2], disparity, inside, light, u, v, level, None if mirrored[0] is None else tuple(mirrored), turned.view(bool))

    def _window(self, at: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """x0, y0 and, beyond the last pixel, x1, y1 of what may be seen by the eye at `at`."""
        width, height = size
        if self.corners is not None:
            points = self.lens.project(self.corners, at)
        else:
            points = np.array([(-1, -1), (width, -1), (width, height), (-1, height)], float)
            own = _slope(self.planes[0], at)
            for other in self.beside:
                points = _clipped(points, self.lens, own - _slope(other, at))
            points = _clipped(points, self.lens, own)
        if not len(points):
            return None
        x0, y0 = (max(int(np.floor(low)) - 1, 0) for low in points.min(axis=0))
        x1, y1 = (min(int(np.ceil(high)) + 2, most) for high, most in zip(points.max(axis=0), size, strict=True))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _cut(self, rays: "_Rays") -> tuple[list[tuple[int | None, np.ndarray]], np.ndarray | None]:
        """Faces that the eye may see, by plane number or None for the quadric, with their disparities, of which the least counts; and the
        distance to the outline in pixels.
        """
        slopes = [_slope(plane, rays.at) for plane in self.planes]
        front = [n for n, plane in enumerate(self.planes) if self.flat or plane[3] - rays.at * plane[0] < 0]
        back = [n for n in range(len(slopes)) if n not in front]
        pairs = self.edges if self.edges is not None else tuple((n, m) for n in front for m in back)
        inside = None
        for n, m in pairs:
            if (n in front) == (m in front):
                continue
            n, m = (n, m) if n in front else (m, n)
            across = slopes[n] - slopes[m]
            margin = rays.dot(across / max(float(np.hypot(across[0], across[1])), 1e-12))
            inside = margin if inside is None else cv2.min(inside, margin)
        faces: list[tuple[int | None, np.ndarray]] = [(n, rays.dot(slopes[n])) for n in front]
        if self.quadric is not None:
            near, far, rim = _roots(self.quadric, rays)
            inside = rim if inside is None else cv2.min(inside, rim)
            for margin in [near - rays.dot(slopes[m]) for m in back] + [values - far for _, values in faces]:
                inside = cv2.min(inside, _in_pixels(margin))
            faces.append((None, near))
        return faces, inside

    def _plane(self, number: int, rays: "_Rays", distance: np.ndarray) -> "_Coat":
        plane, frame = self.planes[number], self.frames[number]
        u, v = (rays.dot(line[:3]) * distance + np.float32(line[3] + rays.at * line[0]) for line in frame)
        lit = self.lighting.ambient + self.lighting.direct * max(float(plane[:3] @ self.lighting.direction), 0.0)
        away = not self.flat and plane[3] - (1 - rays.at) * plane[0] >= 0
        mirrored = (None, None)
        if self.skin.gloss is not None:
            bounce = np.eye(3) - 2 * np.outer(plane[:3], plane[:3])
            mirrored = self.skin.gloss.place(*(rays.dot(row) / rays.length for row in bounce[:2]))
        return _Coat(u, v, np.full_like(u, lit), np.full(u.shape, away, np.uint8), *mirrored)

    def _curved(self, rays: "_Rays", distance: np.ndarray) -> "_Coat":
        body = self.quadric
        assert body is not None
        start = np.array([rays.at, 0, 0]) - body.centre
        form, axes, radii = body.form, body.axes, body.radii
        unit = [rays.dot(row) * distance + np.float32(row @ start) for row in form]  # |unit| is 1 on the surface
        texels, u0, v0 = body.wrapping
        u = (cv2.phase(-unit[0], -unit[1]) - np.float32(np.pi)) * np.float32(texels * radii[1]) + np.float32(u0)
        if len(radii) == 3:
            v = np.arcsin(np.clip(unit[2], -1, 1)) * np.float32(texels * radii[2]) + np.float32(v0)
        else:
            v = rays.dot(axes[2] * texels) * distance + np.float32(texels * (axes[2] @ start) + v0)

        normals = [values * np.float32(1 / radius) for values, radius in zip(unit, radii, strict=True)]
        square = np.maximum(sum(values * values for values in normals), np.float32(1e-12))
        sun = axes[: len(radii)] @ self.lighting.direction
        facing = sum(np.float32(s) * values for s, values in zip(sun, normals, strict=True)) / cv2.sqrt(square)
        light = np.float32(self.lighting.ambient) + np.float32(self.lighting.direct) * np.maximum(facing, 0)
        to_other = form @ (start + (1 - 2 * rays.at, 0, 0))
        away = sum(np.float32(part) * values for part, values in zip(to_other, unit, strict=True)) < 1
        mirrored = (None, None)
        if self.skin.gloss is not None:
            along = sum(rays.dot(axis) * values for axis, values in zip(axes, normals, strict=False)) * (2 / square)
            normal = [sum(np.float32(axis[k]) * values for axis, values in zip(axes, normals, strict=False)) for k in range(2)]
            mirrored = self.skin.gloss.place(*((rays.dot(np.eye(3)[k]) - along * normal[k]) / rays.length for k in range(2)))
        return _Coat(u, v, light, away.view(np.uint8), *mirrored)

    def _darkened(self, light: np.ndarray, rays: "_Rays", distance: np.ndarray, disparity: np.ndarray) -> np.ndarray:
        """With the shade, and with what the ground takes from things that stand on it."""
        floor = self.lighting.floor
        if floor is not None:
            height = rays.dot(floor[:3]) * distance + np.float32(rays.at * floor[0] - floor[3])
            light = light * (1 - np.float32(0.5) * cv2.exp(np.maximum(height, 0) * np.float32(-1 / self.lighting.reach)))
        if self.shade is not None:
            x = (rays.columns + np.float32(rays.at) * disparity + np.float32(0.5)) * np.float32(1 / SHADE_STEP) - np.float32(0.5)
            y = np.broadcast_to((rays.rows + np.float32(0.5)) * np.float32(1 / SHADE_STEP) - np.float32(0.5), x.shape)
            light = light * cv2.remap(self.shade, x, np.ascontiguousarray(y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return light


class _Coat(NamedTuple):
    """Of one face, for all pixels of a window: place in the texture, light, turned away from the other eye, place in the reflection."""

    u: np.ndarray
    v: np.ndarray
    light: np.ndarray
    turned: np.ndarray
    mirror_u: np.ndarray | None = None
    mirror_v: np.ndarray | None = None


class _Rays:
    """The rays of a window's pixels from the eye at `at`."""

    def __init__(self, lens: Lens, window: tuple[int, int, int, int], at: float) -> None:
        x0, y0, x1, y1 = window
        self.at = at
        self.columns = np.arange(x0, x1, dtype=np.float32)
        self.rows = np.arange(y0, y1, dtype=np.float32)[:, None]
        self._x, self._y, self._focal = self.columns - np.float32(lens.centre[0]), self.rows - np.float32(lens.centre[1]), lens.focal

    def dot(self, vector: np.ndarray) -> np.ndarray:
        a, b, c = vector
        return (np.float32(a) * self._x + np.float32(c * self._focal)) + np.float32(b) * self._y

    @cached_property
    def length(self) -> np.ndarray:
        return cv2.sqrt(self._x * self._x + (self._y * self._y + np.float32(self._focal**2)))


def _slope(plane: np.ndarray, at: float) -> np.ndarray:
    """(3,): slope . ray is the disparity of a plane (4,) for the eye at `at`."""
    offset = plane[3] - at * plane[0]
    return plane[:3] / (offset if abs(offset) > SMALLEST else -SMALLEST)


def _roots(body: Quadric, rays: _Rays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disparity where rays enter and leave, of the nearest point where they miss; and the distance to the outline in pixels.

    With s the ray and w the eye in units of the body, |s / disparity + w| = 1. The discriminant (s.w)^2 - s.s (w.w - 1) is written as
    s.s - |s x w|^2, which loses nothing where a body is thin and far.
    """
    form, start = body.form, body.form @ (np.array([rays.at, 0, 0]) - body.centre)
    square = sum(slant * slant for slant in (rays.dot(row) for row in form))
    for i, j in ((0, 1), (1, 2), (2, 0))[: 1 if len(form) == 2 else 3]:
        crossed = rays.dot(form[i] * start[j] - form[j] * start[i])
        square -= crossed * crossed
    root, middle = cv2.sqrt(np.maximum(square, 0)), rays.dot(start @ form)
    scale = np.float32(1 / (float(start @ start) - 1))  # above 0: the eye is outside
    return (root - middle) * scale, (-root - middle) * scale, _in_pixels(square)


def _in_pixels(margin: np.ndarray) -> np.ndarray:
    """Distance to where `margin` is 0, to first order."""
    across, down = cv2.Sobel(margin, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(margin, cv2.CV_32F, 0, 1, ksize=1)
    return 2 * margin / np.maximum(cv2.magnitude(across, down), np.float32(1e-12))


def _clipped(points: np.ndarray, lens: Lens, slope: np.ndarray) -> np.ndarray:
    """The polygon (n, 2) where slope . ray >= 0."""
    values = (points - lens.centre) @ slope[:2] + slope[2] * lens.focal
    kept = []
    for n in range(len(points)):
        here, there = values[n - 1], values[n]
        if (here >= 0) != (there >= 0):
            kept.append(points[n - 1] + (points[n] - points[n - 1]) * (here / (here - there)))
        if there >= 0:
            kept.append(points[n])
    return np.array(kept).reshape(-1, 2)
