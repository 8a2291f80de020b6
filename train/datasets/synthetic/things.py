"""What stands about: furniture, vessels, plants, vehicles, posts and fences, each of a few bodies. Places put them where they belong.

A thing is made by `(world, foot, frame)`: the point of the ground, or of the table, that it stands on, and an upright frame of its own,
and adds itself to the world, or does not where it would come too near.
"""

from collections.abc import Callable

import numpy as np

from train.datasets.synthetic.solid import Solid
from train.datasets.synthetic.world import World

ANYTHING = ("paint", "wood", "cloth", "print", "plaster", "masonry")
Thing = Callable[[World, np.ndarray, np.ndarray], bool]


def at(world: World, foot: np.ndarray, frame: np.ndarray, right: float, up: float, ahead: float) -> np.ndarray:
    """A point beside `foot`, in metres along the frame."""
    return foot + (right * frame[0] - up * frame[1] + ahead * frame[2]) * world.metre


def _legs(world: World, foot: np.ndarray, frame: np.ndarray, sides: tuple[float, float], tall: float, thick: float) -> list[Solid]:
    skin, round_ = world.skins.material("paint", "wood"), world.rng.random() < 0.4
    x, z = sides[0] / 2 - thick, sides[1] / 2 - thick
    feet = [at(world, foot, frame, a * x, 0, b * z) for a in (-1, 1) for b in (-1, 1)]
    if round_:
        return [world.cylinder(place, -frame[1], thick / 2, tall, skin) for place in feet]
    return [world.box(place, frame, (thick, tall, thick), skin) for place in feet]


# Furniture


def table(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    sides, tall = rng.uniform(0.5, 1.6, size=2), rng.uniform(0.4, 0.9)
    top = world.box(
        at(world, foot, frame, 0, tall, 0),
        frame,
        (sides[0], rng.uniform(0.02, 0.06), sides[1]),
        world.skins.material("wood", "paint", "cloth"),
    )
    if not world.add(*_legs(world, foot, frame, sides, tall, rng.uniform(0.03, 0.09)), top):
        return False
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.uniform(-0.4, 0.4, size=2) * sides
        some(world, SMALL)(world, at(world, foot, frame, x, tall + 0.06, z), world.turned(rng.uniform(0, 6.3)))
    return True


def chair(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    wide, deep, seat, back = rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.5), rng.uniform(0.3, 0.6)
    parts = _legs(world, foot, frame, (wide, deep), seat, rng.uniform(0.025, 0.06))
    parts.append(
        world.box(
            at(world, foot, frame, 0, seat, 0), frame, (wide, rng.uniform(0.03, 0.1), deep), world.skins.material("wood", "paint", "cloth")
        )
    )
    behind = at(world, foot, frame, 0, seat, deep / 2)
    if rng.random() < 0.5:
        parts.append(world.card(behind, frame, (wide, back), world.skins.stencil("fence")))
    else:
        parts.append(world.box(behind, frame, (wide, back, 0.04), world.skins.material("wood", "cloth")))
    return world.add(*parts)


def shelf(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    wide, deep, floors, high = rng.uniform(0.6, 1.4), rng.uniform(0.25, 0.45), int(rng.integers(2, 5)), rng.uniform(0.28, 0.45)
    wood, thick = world.skins.material("wood", "paint"), rng.uniform(0.02, 0.04)
    parts = [world.box(at(world, foot, frame, 0, 0, deep / 2), frame, (wide, floors * high, 0.01), wood)]
    parts += [
        world.box(at(world, foot, frame, side * wide / 2, 0, 0), frame, (thick, floors * high + thick, deep), wood) for side in (-1, 1)
    ]
    for floor in range(floors + 1):
        parts.append(world.box(at(world, foot, frame, 0, floor * high, 0), frame, (wide, thick, deep), wood))
        if floor < floors and rng.random() < 0.8:
            share = rng.uniform(0.3, 0.95)
            row = (share * wide, rng.uniform(0.5, 0.9) * high, rng.uniform(0.4, 0.8) * deep)
            side = rng.choice((-1, 1)) * (1 - share) * wide / 2.1
            parts.append(
                world.box(
                    at(world, foot, frame, side, floor * high + thick, 0),
                    frame,
                    row,
                    world.skins.material("books", "books", "paint", "print"),
                )
            )
    return world.add(*parts)


def cupboard(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    sides = world.rng.uniform((0.4, 0.5, 0.3), (1.6, 2.0, 0.7))
    return world.add(world.box(foot, frame, tuple(sides), world.skins.material("wood", "paint", "books")))


def lamp(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng, skin = world.rng, world.skins.material("paint")
    tall, wide = rng.uniform(0.8, 1.7), rng.uniform(0.12, 0.3)
    pole = world.cylinder(foot, -frame[1], rng.uniform(0.01, 0.02), tall, skin)
    base = world.prism(foot, frame, (wide, 0.5 * wide), 0.04, 8, skin)
    hood = world.prism(
        at(world, foot, frame, 0, tall - 0.1, 0),
        frame,
        (wide, wide * rng.uniform(0.3, 0.9)),
        wide * 1.3,
        8,
        world.skins.material("paint", "cloth"),
    )
    return world.add(base, pole, hood)


# Small things, as on a table


def block(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    sides = np.exp(world.rng.uniform(np.log(0.04), np.log(0.35), size=3))
    return world.add(world.box(foot, frame, tuple(sides), world.skins.material(*ANYTHING)))


def pile(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """Books or boxes on each other."""
    parts, up = [], 0.0
    for _ in range(int(world.rng.integers(2, 6))):
        sides = world.rng.uniform((0.12, 0.015, 0.1), (0.3, 0.09, 0.25))
        place, own = at(world, foot, frame, *world.rng.normal(0, 0.01, size=2), 0), world.turned(world.rng.uniform(-0.4, 0.4))
        parts.append(world.box(at(world, place, frame, 0, up, 0), own, tuple(sides), world.skins.material("print", "paint", "cloth")))
        up += float(sides[1])
    return world.add(*parts)


def can(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    radius, tall = np.exp(world.rng.uniform(np.log((0.02, 0.05)), np.log((0.12, 0.35))))
    return world.add(world.cylinder(foot, -frame[1], radius, tall, world.skins.material("paint", "print", "print", "cloth")))


def bottle(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng, skin = world.rng, world.skins.material("paint", "print")
    radius, tall = rng.uniform(0.03, 0.08), rng.uniform(0.1, 0.25)
    neck, slope = rng.uniform(0.2, 0.5) * radius, rng.uniform(0.03, 0.08)
    return world.add(
        world.cylinder(foot, -frame[1], radius, tall, skin),
        world.prism(at(world, foot, frame, 0, tall, 0), frame, (radius, neck), slope, 8, skin),
        world.cylinder(at(world, foot, frame, 0, tall + slope, 0), -frame[1], neck, rng.uniform(0.02, 0.08), skin),
    )


def ball(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    radius = np.exp(world.rng.uniform(np.log(0.03), np.log(0.2)))
    flat = world.rng.uniform(0.5, 1) if world.rng.random() < 0.5 else 1.0
    middle = at(world, foot, frame, 0, radius * flat, 0)
    return world.add(world.ellipsoid(middle, -frame[1], (radius, radius, radius * flat), world.skins.material(*ANYTHING)))


def figure(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """A doll, a bust: a head on a body."""
    rng, size = world.rng, np.exp(world.rng.uniform(np.log(0.1), np.log(0.4)))
    body, head = world.skins.material("cloth", "paint", "plaster"), world.skins.material("paint", "plaster")
    tilt = -frame[1] + rng.normal(0, 0.15) * frame[0]
    tilt /= np.linalg.norm(tilt)
    parts = [
        world.ellipsoid(at(world, foot, frame, 0, 0.5 * size, 0), tilt, (0.25 * size, 0.3 * size, 0.5 * size), body),
        world.ellipsoid(at(world, foot, frame, 0, 1.15 * size, 0), tilt, (0.2 * size, 0.2 * size, 0.25 * size), head),
    ]
    for side in (-1, 1):
        arm = -0.4 * frame[1] + side * frame[0] * rng.uniform(0.3, 1) + frame[2] * rng.normal(0, 0.4)
        arm /= np.linalg.norm(arm)
        parts.append(world.cylinder(at(world, foot, frame, side * 0.2 * size, 0.75 * size, 0), arm, 0.07 * size, 0.5 * size, body))
    return world.add(*parts)


def stick(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """Brushes, pens, bars that lean."""
    rng, parts = world.rng, []
    for _ in range(int(rng.integers(1, 6))):
        axis = -frame[1] + rng.normal(0, 0.5, size=2) @ frame[[0, 2]]
        axis /= np.linalg.norm(axis)
        parts.append(world.cylinder(foot, axis, rng.uniform(0.003, 0.015), rng.uniform(0.15, 0.5), world.skins.material("paint", "wood")))
    return world.add(*parts)


def board(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """A picture, a screen, a book that stands and leans back."""
    rng = world.rng
    wide, tall, lean = rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.6), rng.uniform(0, 0.5)
    cos, sin = np.cos(lean), np.sin(lean)
    own = np.array([frame[0], cos * frame[1] - sin * frame[2], sin * frame[1] + cos * frame[2]])
    return world.add(
        world.box(foot, own, (wide, tall, rng.uniform(0.005, 0.04)), world.skins.material("print", "print", "paint", "wood", "cloth"))
    )


def cone(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    low, sides = rng.uniform(0.04, 0.2), int(rng.choice((3, 4, 5, 9)))
    return world.add(
        world.prism(foot, frame, (low, low * rng.uniform(0, 1.3)), rng.uniform(0.08, 0.4), sides, world.skins.material(*ANYTHING))
    )


def pot_plant(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    wide, tall = rng.uniform(0.06, 0.16), rng.uniform(0.08, 0.25)
    pot = world.prism(foot, frame, (0.75 * wide, wide), tall, 8, world.skins.material("plaster", "paint"))
    return world.add(
        pot, *_crown(world, at(world, foot, frame, 0, 0.9 * tall, 0), rng.uniform(0.2, 0.6), str(rng.choice(("blade", "foliage"))))
    )


# Thin and ragged things


def _crown(world: World, foot: np.ndarray, size: float, kind: str) -> list[Solid]:
    """Cards of leaves through and behind each other."""
    skin, cards = world.skins.stencil(kind), []
    for _ in range(int(world.rng.integers(2, 5))):
        frame = world.turned(world.rng.uniform(-1.2, 1.2))
        place = at(world, foot, frame, *(world.rng.normal(0, 0.12, size=3) * size * (1, 0, 1)))
        cards.append(world.card(place, frame, tuple(size * world.rng.uniform(0.7, 1.2, size=2)), skin))
    return cards


def screen(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """A fence, a net, a frame that stands."""
    skin = world.skins.stencil(str(world.rng.choice(("fence", "net", "frame"))))
    return world.add(world.card(foot, frame, tuple(world.rng.uniform((0.5, 0.5), (3, 1.6))), skin))


def wires(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """Overhead, or across the view."""
    place = at(world, foot, frame, 0, world.rng.uniform(0.5, 3.5), 0)
    return world.add(world.card(place, frame, (world.rng.uniform(2, 8), world.rng.uniform(0.3, 1.5)), world.skins.stencil("wires")))


def bush(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    return world.add(*_crown(world, foot, world.rng.uniform(0.5, 1.8), str(world.rng.choice(("foliage", "foliage", "blade", "twigs")))))


def hedge(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """Leaves in a row, before and behind each other."""
    tall, step, skin = world.rng.uniform(0.5, 2), world.rng.uniform(0.4, 1.2), world.skins.stencil("foliage")
    own = world.turned(world.rng.uniform(-1.4, 1.4))
    cards = []
    for number in range(int(world.rng.integers(3, 7))):
        place = at(world, foot, own, number * step, 0, world.rng.normal(0, 0.2))
        cards.append(world.card(place, world.turned(world.rng.uniform(-0.8, 0.8)), tuple(tall * world.rng.uniform(0.9, 1.3, size=2)), skin))
    return world.add(*cards)


def tree(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng = world.rng
    tall, thick = rng.uniform(2, 6), rng.uniform(0.05, 0.3)
    if rng.random() < 0.3:
        return world.add(*_crown(world, foot, tall, "twigs")[:3])
    trunk = world.cylinder(foot, -frame[1], thick, 0.6 * tall, world.skins.material("wood", "plaster"))
    size = rng.uniform(0.5, 0.9) * tall
    crowns = [
        _crown(world, at(world, foot, frame, side * 0.3 * size, rng.uniform(0.3, 0.5) * tall, 0), size, "foliage")
        for side in rng.uniform(-1, 1, size=2)
    ]
    return world.add(trunk, *crowns[0], *crowns[1])


def post(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    """A pole; often with a sign or an arm."""
    rng, skin = world.rng, world.skins.material("paint", "wood", "plaster")
    tall, thick = rng.uniform(0.8, 5), np.exp(rng.uniform(np.log(0.02), np.log(0.12)))
    parts = [world.cylinder(foot, -frame[1], thick, tall, skin)]
    if rng.random() < 0.4:
        sides = (*rng.uniform(0.3, 0.9, size=2), 0.03)
        parts.append(world.box(at(world, foot, frame, 0, tall - sides[1], -thick), frame, sides, world.skins.material("print")))
    elif rng.random() < 0.5:
        arm = rng.choice((-1, 1)) * frame[0] - 0.1 * frame[1]
        parts.append(
            world.cylinder(at(world, foot, frame, 0, 0.98 * tall, 0), arm / np.linalg.norm(arm), 0.7 * thick, rng.uniform(0.4, 1.5), skin)
        )
    return world.add(*parts)


# Large things out of doors


def car(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng, skin, glass = world.rng, world.skins.material("paint"), world.skins.material("paint")
    wide, long, low, high = rng.uniform(1.6, 1.9), rng.uniform(3.4, 4.8), rng.uniform(0.55, 0.75), rng.uniform(0.5, 0.75)
    parts = [world.box(at(world, foot, frame, 0, 0.25, 0), frame, (wide, low, long), skin)]
    parts.append(world.box(at(world, foot, frame, 0, 0.25 + low, 0.05 * long), frame, (0.88 * wide, high, 0.5 * long), glass))
    parts.append(world.box(at(world, foot, frame, 0, 0.25 + low + high, 0.05 * long), frame, (0.9 * wide, 0.05, 0.52 * long), skin))
    black = world.skins.material("asphalt")
    for side in (-1, 1):
        for end in (-0.3, 0.3):
            parts.append(
                world.cylinder(at(world, foot, frame, side * (wide / 2 - 0.1), 0.32, end * long), side * frame[0], 0.32, 0.12, black)
            )
    return world.add(*parts)


def person(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng, legs, coat, face = world.rng, *(world.skins.material(kind) for kind in ("cloth", "cloth", "paint"))
    tall = rng.uniform(1.5, 1.9)
    parts = [world.ellipsoid(at(world, foot, frame, 0, 0.93 * tall, 0), -frame[1], (0.1, 0.09, 0.13), face)]
    parts.append(world.ellipsoid(at(world, foot, frame, 0, 0.66 * tall, 0), -frame[1], (0.13, 0.19, 0.2 * tall), coat))
    for side in (-1, 1):
        step = -frame[1] + rng.normal(0, 0.15) * frame[2] - 0.06 * side * frame[0]
        step /= np.linalg.norm(step)
        parts.append(world.cylinder(at(world, foot, frame, side * 0.13, 0, 0), step, 0.08, 0.5 * tall, legs))
        parts.append(world.cylinder(at(world, foot, frame, side * 0.24, 0.45 * tall, 0), -frame[1], 0.05, 0.36 * tall, coat))
    return world.add(*parts)


def house(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    sides = world.rng.uniform((4, 3, 4), (14, 12, 12))
    return world.add(world.box(foot, frame, tuple(sides), world.skins.material("facade", "facade", "masonry", "plaster")))


def rock(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    rng, size = world.rng, np.exp(world.rng.uniform(np.log(0.15), np.log(0.9)))
    return world.add(
        world.prism(
            foot,
            world.turned(rng.uniform(0, 6.3)),
            (size, size * rng.uniform(0.3, 0.8)),
            size * rng.uniform(0.5, 1.2),
            int(rng.integers(4, 8)),
            world.skins.material("plaster", "masonry"),
        )
    )


def kerb(world: World, foot: np.ndarray, frame: np.ndarray) -> bool:
    sides = world.rng.uniform((0.2, 0.08, 3), (0.6, 0.5, 12))
    return world.add(world.box(foot, frame, tuple(sides), world.skins.material("plaster", "masonry")))


def some(world: World, things: tuple[Thing, ...]) -> Thing:
    return things[int(world.rng.integers(len(things)))]


SMALL: tuple[Thing, ...] = (block, block, pile, can, bottle, ball, figure, stick, board, cone, pot_plant)
INDOORS: tuple[Thing, ...] = (table, table, chair, chair, shelf, cupboard, lamp, block, ball, pot_plant, bush, screen, pile, person)
STREET: tuple[Thing, ...] = (car, car, car, person, post, post, post, tree, tree, bush, hedge, house, screen, wires, kerb)
OUTDOORS: tuple[Thing, ...] = (tree, tree, tree, bush, bush, hedge, hedge, rock, rock, screen, post, wires, person, house)
