"""A place as a camera sees it: where the eyes look from, the ground, the walls, the light, and the bodies that things are built of.

Lengths are in metres as people know them; `World.metre` says how many baselines one is, which is what `solid` counts in. A turned frame
is three unit rows: to the right, down, and ahead.
"""

from dataclasses import replace

import cv2
import numpy as np

from train.datasets.synthetic.render import Lens, Scene, Skin, Surface
from train.datasets.synthetic.skins import LARGE, SIDE, TEXELS, Skins
from train.datasets.synthetic.solid import SHADE_STEP, Lighting, Quadric, Solid
from train.datasets.synthetic.spread import Spread

LARGEST = 0.4  # share of the picture that one thing may take


class World:
    """A place with its ground and nothing on it yet.

    size: (width, height) pixels. spread: the disparities to be used. floor: the ground's skin. focal: focal length in widths of the image.
    horizon: its row in heights of the image. lift_m: height of the eyes above the ground. foot: disparity of the ground at the lower edge.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: tuple[int, int],
        spread: Spread,
        skins: Skins,
        floor: Skin,
        *,
        focal: float,
        horizon: float,
        lift_m: float,
        foot: float,
    ) -> None:
        width, height = size
        self.rng, self.size, self.spread, self.skins = rng, size, spread, skins
        self.lens = Lens(focal * width, (width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)))
        pitch, roll = np.arctan((self.lens.centre[1] - horizon * height) / self.lens.focal), rng.normal(0, 0.015)
        turn = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        self.frame = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]) @ turn

        down = self.frame[1]
        self.reach = width + int(np.ceil(spread.limits[1])) + 2  # the right eye looks past the left view's border
        lift = max(float(down @ self.lens.ray(width / 2, height)) / foot, 2 * abs(down[0]))
        lift = max(lift, self._nearest(-down))
        self.lift, self.metre = lift, lift / lift_m
        self.ground = np.array([*-down, -lift])

        high, aside = rng.uniform(0.25, 1.2), rng.uniform(-np.pi, np.pi)
        sun = np.array([np.cos(high) * np.sin(aside), -np.sin(high), -np.cos(high) * np.cos(aside)]) @ self.frame
        ambient = rng.uniform(0.35, 0.8)
        self.lighting = Lighting(sun, ambient, 1.25 - ambient, self.ground, rng.uniform(0.05, 0.3) * self.metre)
        self.plain = Lighting(sun, ambient, 1.25 - ambient)  # of what the ground does not darken
        self.sharp_shadows = rng.random() < 0.5
        self.corners_dark = rng.uniform(0, 0.4)
        self.walls = [(self.ground, floor)]
        self.sheets: list[Surface] = []
        self.backdrop: Surface | None = None
        self.bodies: list[Solid] = []

    # Where things may be

    def spot(self, disparity: float, x: float) -> np.ndarray:
        """(3,) the point of the ground at that disparity in image column `x` of the left view; it may lie below the picture."""
        down, (cx, _) = self.frame[1], self.lens.centre
        y = (self.lift * disparity - down[0] * (x - cx) - down[2] * self.lens.focal) / down[1]
        return np.array([x - cx, y, self.lens.focal]) / disparity

    def turned(self, yaw: float) -> np.ndarray:
        """The upright frame, turned about the vertical."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]) @ self.frame

    def add(self, *bodies: Solid) -> bool:
        """All of them, or none where one would leave the range of disparity, or hide most of the rest."""
        lowest, highest = self.spread.limits
        corners = np.concatenate([body.corners for body in bodies if body.corners is not None])
        if corners[:, 2].min() < self.lens.focal / highest or corners[:, 2].max() > self.lens.focal / lowest:
            return False
        spots = np.clip(self.lens.project(corners, 0.0), 0, self.size)
        if np.prod(np.ptp(spots, axis=0)) > LARGEST * np.prod(self.size):
            return False
        self.bodies.extend(bodies)
        return True

    def wall(self, normal: np.ndarray, distance: float, skin: Skin) -> float:
        """A half-space whose free side, where the eyes are, `normal` points to; moved away as far as the range of disparity asks. Returns
        the distance that it then has.
        """
        distance = max(distance, self._nearest(normal))
        self.walls.append((np.array([*normal, -distance]), skin))
        return distance

    def _nearest(self, normal: np.ndarray) -> float:
        """The least distance of a half-space from the left eye that keeps it within the range of disparity in both."""
        width, height = self.size
        rays = np.array([self.lens.ray(x, y) for x in (0, width - 1) for y in (0, height - 1)])
        least = max(1.001 * float((rays @ -normal).max()) / self.spread.limits[1], 0.05)
        return max(least, least - float(normal[0]))

    def close(self, skin: Skin, disparity: float) -> None:
        """What is seen where nothing else is: square to the view, as a picture that fills it."""
        high, wide = skin.texture.shape[:2]
        across, down = wide / self.reach, high / self.size[1]  # texels per pixel
        lines = [(disparity * across, 0, 0, self.lens.centre[0] * across), (0, disparity * down, 0, self.lens.centre[1] * down)]
        plane = np.array([[0, 0, -1, -self.lens.focal / disparity]])
        light = Lighting(self.lighting.direction, 1.0, 0.0)
        self.backdrop = Solid(self.lens, plane, np.array([lines]), skin, light, beside=np.stack([plane for plane, _ in self.walls]))

    # Bodies

    def box(self, foot: np.ndarray, frame: np.ndarray, sides_m: tuple[float, float, float], skin: Skin) -> Solid:
        """Standing on `foot`: width, height and depth along the frame."""
        half = np.array(sides_m) * self.metre / 2
        centre = foot - frame[1] * half[1]
        planes = [(*(sign * axis), sign * float(axis @ centre) + side) for axis, side in zip(frame, half, strict=True) for sign in (-1, 1)]
        grips = [(frame[2], frame[1]), (frame[0], frame[2]), (frame[0], frame[1])]
        signs = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
        corners = centre + signs * half @ frame
        edges = tuple((2 * a + i, 2 * b + j) for a, b in ((0, 1), (1, 2), (0, 2)) for i in (0, 1) for j in (0, 1))
        return self._body(np.array(planes), [grip for grip in grips for _ in range(2)], corners, skin, edges)

    def prism(self, foot: np.ndarray, frame: np.ndarray, radii_m: tuple[float, float], height_m: float, sides: int, skin: Skin) -> Solid:
        """Standing on `foot`, with so many sides; radii of its edges from the middle, at the foot and at the top, which may be 0."""
        low, high, tall = radii_m[0] * self.metre, radii_m[1] * self.metre, height_m * self.metre
        face = np.cos(np.pi / sides)  # distance of a side, for an edge at 1
        top = foot - frame[1] * tall
        planes, grips = [(*frame[1], float(frame[1] @ foot)), (*-frame[1], float(-frame[1] @ top))], [(frame[0], frame[2])] * 2
        for turn in 2 * np.pi * (np.arange(sides) + self.rng.random()) / sides:
            out, along = np.cos(turn) * frame[0] + np.sin(turn) * frame[2], np.cos(turn) * frame[2] - np.sin(turn) * frame[0]
            normal = out * tall - frame[1] * (low - high) * face
            normal /= np.linalg.norm(normal)
            planes.append((*normal, float(normal @ (foot + out * low * face))))
            grips.append((along, frame[1]))
        wide = max(low, high)
        corners = np.array([end + a * wide * frame[0] + b * wide * frame[2] for end in (foot, top) for a in (-1, 1) for b in (-1, 1)])
        edges = tuple((2 + n, m) for n in range(sides) for m in (0, 1, 2 + (n + 1) % sides))
        return self._body(np.array(planes), grips, corners, skin, edges)

    def cylinder(self, foot: np.ndarray, axis: np.ndarray, radius_m: float, height_m: float, skin: Skin) -> Solid:
        """From `foot` along the unit vector `axis`."""
        radius, top = radius_m * self.metre, foot + axis * height_m * self.metre
        across, towards = self._facing((foot + top) / 2, axis)
        planes = np.array([(*-axis, float(-axis @ foot)), (*axis, float(axis @ top))])
        corners = np.array([end + a * radius * across + b * radius * towards for end in (foot, top) for a in (-1, 1) for b in (-1, 1)])
        quadric = Quadric(foot, np.array([towards, across, -axis]), np.array([radius] * 2), (self._texels(corners, 1.0), *self._start()))
        return self._body(planes, [(across, towards)] * 2, corners, skin, quadric=quadric)

    def ellipsoid(self, centre: np.ndarray, up: np.ndarray, radii_m: tuple[float, float, float], skin: Skin) -> Solid:
        """radii_m: towards the viewer, across, and along `up`."""
        across, towards = self._facing(centre, up)
        axes, radii = np.array([towards, across, -up]), np.array(radii_m) * self.metre
        corners = centre + np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * radii @ axes
        quadric = Quadric(centre, axes, radii, (self._texels(corners, 1.0), *self._start()))
        return self._body(np.empty((0, 4)), [], corners, skin, quadric=quadric)

    def card(self, foot: np.ndarray, frame: np.ndarray, sides_m: tuple[float, float], skin: Skin) -> Solid:
        """A sheet without thickness that shows its whole picture; `foot` is the middle of its lower edge."""
        half = np.array(sides_m) * self.metre / 2
        centre = foot - frame[1] * half[1]
        normal = frame[2] if frame[2] @ centre < 0 else -frame[2]
        corners = np.array([centre + a * half[0] * frame[0] + b * half[1] * frame[1] for a in (-1, 1) for b in (-1, 1)])
        skin = _reduced(skin, 2 * half * self.lens.focal / max(float(centre[2]), 1e-3))
        high, wide = skin.texture.shape[:2]
        lines = []
        for axis, side, texels in ((frame[0] * self.rng.choice((-1, 1)), half[0], wide), (frame[1], half[1], high)):
            scale = axis * texels / (2 * side)
            lines.append((*scale, texels / 2 - 0.5 - float(scale @ centre)))
        planes = np.array([(*normal, float(normal @ centre))])
        return Solid(self.lens, planes, np.array([lines]), skin, self.plain, corners=corners, flat=True)

    # The whole

    def scene(self) -> Scene:
        planes = [plane for plane, _ in self.walls]
        assert self.backdrop is not None
        grounds = [self.backdrop, *self.sheets]
        for number, (plane, skin) in enumerate(self.walls):
            beside = np.array([other for n, other in enumerate(planes) if n != number]).reshape(-1, 4)
            grounds.append(self._half_space(plane, skin, beside, self._shade(plane, beside, shadows=number == 0)))
        return Scene([*grounds, *sorted(self.bodies, key=lambda body: body.nearness)], self.lens)

    def _half_space(self, plane: np.ndarray, skin: Skin, beside: np.ndarray, shade: np.ndarray) -> Solid:
        normal = plane[:3]
        level = np.abs(normal @ self.frame[1]) > 0.7
        along = self.frame[0] if level or abs(normal @ self.frame[0]) < 0.7 else self.frame[2]
        along = along - normal * (along @ normal)
        along /= np.linalg.norm(along)
        grip = (along, np.cross(normal, along)) if level else (along, self.frame[1])
        texels = self.rng.uniform(*TEXELS) * self.spread.near
        frames = np.array([[(*(texels * axis), self.rng.uniform(0, LARGE)) for axis in grip]])
        return Solid(self.lens, plane[None], frames, skin, self.plain, beside=beside, shade=shade, fineness=0.7 * texels)

    def _shade(self, plane: np.ndarray, beside: np.ndarray, shadows: bool) -> np.ndarray:
        """A lamp's reach, dark corners, and on the ground the shadows of what stands on it."""
        across = np.arange(0, self.reach + SHADE_STEP, SHADE_STEP) + (SHADE_STEP - 1) / 2 - self.lens.centre[0]
        down = np.arange(0, self.size[1] + SHADE_STEP, SHADE_STEP) + (SHADE_STEP - 1) / 2 - self.lens.centre[1]
        rays = np.stack(np.broadcast_arrays(across, down[:, None], self.lens.focal), -1).astype(np.float32)
        disparity = np.maximum(rays @ (plane[:3] / plane[3]).astype(np.float32), np.float32(0.3 * self.spread.limits[0]))
        points = rays / disparity[..., None]
        lamp = self.lens.ray(*(self.rng.uniform(-0.2, 1.2, size=2) * self.size)) / self.spread.draw(self.rng)
        strength, reach = self.rng.uniform(0, 0.7), np.linalg.norm(lamp) * self.rng.uniform(0.3, 1)
        away = ((points - lamp.astype(np.float32)) ** 2).sum(-1)
        shade = np.float32(1 - strength) + np.float32(1.4 * strength) / (1 + away * np.float32(1 / reach**2))
        for other in beside.astype(np.float32):
            apart = np.maximum(points @ other[:3] - other[3], 0)
            shade *= 1 - np.float32(self.corners_dark) * cv2.exp(apart * np.float32(-1 / (0.35 * self.metre)))
        return shade * self._shadows(shade.shape) if shadows else shade

    def _shadows(self, shape: tuple[int, int]) -> np.ndarray:
        """float32, on the ground below and beside the bodies."""
        light = np.ones(shape, np.float32)
        up, sun = self.ground[:3], self.lighting.direction
        steep = max(float(sun @ up), 0.2)
        for body in self.bodies:
            assert body.corners is not None
            heights = (body.corners @ up - self.ground[3])[:, None]
            below = body.corners - up * heights
            fallen = below - (sun - up * (sun @ up)) * np.maximum(heights, 0) / steep  # along the sun's rays
            cv2.min(light, self._hull(fallen, shape, 0.45 if self.sharp_shadows else 0.8), dst=light)
            if heights.min() < 0.3 * self.metre:
                light *= self._hull(below, shape, 0.6)
        return cv2.GaussianBlur(light, (0, 0), 1.0 if self.sharp_shadows else 3.0)

    def _hull(self, points: np.ndarray, shape: tuple[int, int], value: float) -> np.ndarray:
        """float32, `value` within the hull of `points` (n, 3) in the left view and 1 elsewhere, in cells of a shade."""
        patch = np.ones(shape, np.float32)
        if points[:, 2].min() > 0.5:  # ahead of the eyes
            spots = ((self.lens.project(points, 0.0) + 0.5) / SHADE_STEP - 0.5).clip(-1e4, 1e4)
            cv2.fillConvexPoly(patch, np.rint(cv2.convexHull(spots.astype(np.float32)) * 16).astype(np.int32), value, cv2.LINE_8, 4)
        return patch

    def _body(
        self, planes: np.ndarray, grips: list, corners: np.ndarray, skin: Skin, edges: tuple | None = None, quadric: Quadric | None = None
    ) -> Solid:
        texels = self._texels(corners, self.rng.uniform(*TEXELS))
        low = float((corners @ self.ground[:3]).min()) - self.ground[3] < 2 * self.lighting.reach
        frames = np.array([[(*(texels * axis), start) for axis, start in zip(grip, self._start(), strict=True)] for grip in grips])
        return Solid(self.lens, planes, frames.reshape(-1, 2, 4), skin, self.lighting if low else self.plain, edges, quadric, corners)

    def _texels(self, corners: np.ndarray, per_pixel: float) -> float:
        return per_pixel * self.lens.focal / float(corners[:, 2].mean())

    def _start(self) -> tuple[float, float]:
        return self.rng.uniform(0, SIDE), self.rng.uniform(0, SIDE)

    def _facing(self, point: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Across and towards the viewer, at right angles to `axis` and each other."""
        across = np.cross(axis, point)
        across /= np.linalg.norm(across)
        towards = np.cross(across, axis)
        return across, towards if towards @ point < 0 else -towards


def _reduced(skin: Skin, size: np.ndarray) -> Skin:
    """The skin with hardly more texels than the pixels (width, height) that show it, so that what is thinner than a pixel becomes faint
    and not dashed.
    """
    picture = skin.texture
    while min(picture.shape[:2]) > 8 and 1.5 * float(size.max()) < max(picture.shape[:2]):
        picture = cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return replace(skin, texture=picture)
