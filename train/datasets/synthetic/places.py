"""Kinds of places, by name: what surrounds, how the eyes stand, and what stands about. The abstract ones, of nothing in the world, are
`abstract`'s.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from train.datasets.synthetic.abstract import abstract, background
from train.datasets.synthetic.render import Scene, Skin
from train.datasets.synthetic.skins import Skins
from train.datasets.synthetic.spread import Spread, draw
from train.datasets.synthetic.things import INDOORS, OUTDOORS, SMALL, STREET, Thing, some
from train.datasets.synthetic.world import World

TRIES = 3  # places that a thing is tried at
MOST_BODIES = 32  # in a scene: time is spent by the body, and a table is six

Place = Callable[[np.random.Generator, tuple[int, int], Spread, int, Skins], Scene]
Range = tuple[float, float]


def room(rng: np.random.Generator, size: tuple[int, int], spread: Spread, count: int, skins: Skins) -> Scene:
    """Floor, one to three walls, perhaps a ceiling; furniture along them, and pictures on the wall ahead."""
    floor = skins.material("wood", "masonry", "cloth", "plaster", "paint", large=True)
    world = _place(rng, size, spread, skins, floor, depth=(2.5, 12), focal=(0.7, 1.5), horizon=(-0.1, 0.45), lift_m=(1, 1.7))
    walls = skins.material("paint", "paint", "plaster", "masonry", "cloth", "wood", "print", large=True)
    heading = rng.uniform(-0.6, 0.6)
    frame = world.turned(heading)
    away = _wall_ahead(world, frame, walls)
    wide = away * size[0] / world.lens.focal
    for side in (-1, 1):
        if rng.random() < 0.6:
            world.wall(side * frame[0], wide * rng.uniform(0.35, 0.9), walls)
    if rng.random() < 0.3:
        world.wall(world.frame[1], world.lift * rng.uniform(0.6, 1.2), skins.material("paint", large=True))
    _close(world, "plaster", "paint")
    for _ in range(int(rng.integers(0, 6))):  # pictures, windows, doors
        place = frame[2] * away + frame[0] * wide * rng.uniform(-0.5, 0.5) + frame[1] * (world.lift - rng.uniform(0.4, 2) * world.metre)
        world.add(world.box(place, frame, (*rng.uniform(0.3, 1.4, size=2), 0.04), skins.material("print", "paint", "facade")))
    _fill(world, count, INDOORS, heading)
    return world.scene()


def street(rng: np.random.Generator, size: tuple[int, int], spread: Spread, count: int, skins: Skins) -> Scene:
    """A road between houses, hedges or nothing, under the sky."""
    floor = skins.material("asphalt", "asphalt", "masonry", "plaster", large=True)
    world = _place(rng, size, spread, skins, floor, depth=(8, 60), focal=(0.5, 1.1), horizon=(0.3, 0.6), lift_m=(1.2, 2.2))
    heading = rng.normal(0, 0.25)
    for side in (-1, 1):
        if rng.random() < 0.5:
            skin = skins.material("facade", "facade", "masonry", "leaves", "plaster", large=True)
            world.wall(side * world.turned(heading)[0], rng.uniform(3, 12) * world.metre, skin)
    _close(world, "sky")
    _fill(world, count, STREET, heading)
    return world.scene()


def desk(rng: np.random.Generator, size: tuple[int, int], spread: Spread, count: int, skins: Skins) -> Scene:
    """Things close together on a table, before a wall or a cloth in folds."""
    floor = skins.material("wood", "cloth", "paint", "print", "masonry", large=True)
    world = _place(rng, size, spread, skins, floor, depth=(1.7, 6), focal=(0.9, 2.5), horizon=(-0.6, 0.3), lift_m=(0.3, 0.9))
    if rng.random() < 0.3:
        world.sheets.append(background(rng, (world.reach, size[1]), world.spread, skins))
    else:
        wall = skins.material("cloth", "cloth", "print", "print", "paint", "masonry", "books", "wood", large=True)
        _wall_ahead(world, world.turned(rng.normal(0, 0.4)), wall)
    _close(world, "plaster", "paint")
    _fill(world, count, SMALL)
    return world.scene()


def garden(rng: np.random.Generator, size: tuple[int, int], spread: Spread, count: int, skins: Skins) -> Scene:
    """Grass, trees, bushes, fences, far from any wall."""
    floor = skins.material("leaves", "leaves", "plaster", "asphalt", large=True)
    world = _place(rng, size, spread, skins, floor, depth=(3, 30), focal=(0.6, 1.4), horizon=(0.1, 0.55), lift_m=(0.7, 1.8))
    _close(world, "sky", "sky", "leaves")
    _fill(world, count, OUTDOORS)
    return world.scene()


SCENES: dict[str, Place] = {"abstract": abstract, "room": room, "street": street, "desk": desk, "garden": garden}


def _place(
    rng: np.random.Generator,
    size: tuple[int, int],
    spread: Spread,
    skins: Skins,
    floor: Skin,
    *,
    depth: Range,
    focal: Range,
    horizon: Range,
    lift_m: Range,
) -> World:
    """An empty world within these ranges; `depth` is how many times farther the farthest is than the nearest."""
    far = max(spread.near / draw(rng, *depth, "log_uniform"), 1.01 * spread.limits[0])
    spread = replace(spread, far=min(far, spread.near))
    foot = spread.near * rng.uniform(0.5, 1)
    return World(
        rng, size, spread, skins, floor, focal=rng.uniform(*focal), horizon=rng.uniform(*horizon), lift_m=rng.uniform(*lift_m), foot=foot
    )


def _wall_ahead(world: World, frame: np.ndarray, skin: Skin) -> float:
    """Stands where the middle of the picture has the farthest disparity; returns its distance from the eyes in baselines."""
    return world.wall(-frame[2], world.lens.focal / world.spread.far * float(frame[2, 2]), skin)


def _close(world: World, *kinds: str) -> None:
    world.close(world.skins.material(*kinds), max(0.7 * world.spread.far, world.spread.limits[0]))


def _fill(world: World, count: int, things: tuple[Thing, ...], heading: float | None = None) -> None:
    """`count` things on the ground, turned anyhow, or nearly along or across `heading`."""
    rng, width = world.rng, world.size[0]
    for _ in range(count):
        if len(world.bodies) >= MOST_BODIES:
            return
        thing = some(world, things)
        for _ in range(TRIES):
            disparity = world.spread.draw(rng, high=0.9 * world.spread.near)
            foot = world.spot(disparity, rng.uniform(-0.1 * width, 1.1 * width + disparity))
            turn = rng.uniform(0, 2 * np.pi) if heading is None else heading + rng.normal(0, 0.15) + np.pi / 2 * int(rng.integers(4))
            if thing(world, foot, world.turned(turn)):
                break
