"""Bodies, ground, walls and cards in both eyes, against rays cut one by one in float64; what is hidden, against what stands in the way."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from train.datasets import build_dataset
from train.datasets.synthetic.render import EYES, Gloss, Lens, Skin, occlusion, paint
from train.datasets.synthetic.skins import Skins
from train.datasets.synthetic.solid import Lighting, Solid
from train.datasets.synthetic.spread import Spread
from train.datasets.synthetic.things import INDOORS, OUTDOORS, SMALL, STREET
from train.datasets.synthetic.world import World

SIZE = (160, 96)
LENS = Lens(100.0, (50.0, 30.0))
LIGHT = Lighting(np.array([0.0, -1, 0]), 1.0, 0.0)
PLAIN = Skin(np.full((8, 8, 4), 100, np.uint8))


def brute(surface, x, y, eye):
    """float64 (n,): disparity at any places of a view; NaN where the surface is not. Intervals of 1 / disparity along each ray."""
    rays = np.stack([x - surface.lens.centre[0], y - surface.lens.centre[1], np.full(len(x), surface.lens.focal)], -1)
    start = np.array([EYES[eye], 0, 0])
    enter, leave = np.full(len(x), -np.inf), np.full(len(x), np.inf)
    if surface.flat:
        normal = surface.planes[0, :3]
        enter = (surface.planes[0, 3] - normal @ start) / (rays @ normal)
    else:
        for *normal, offset in surface.planes:
            slant, room = rays @ normal, offset - np.array(normal) @ start
            enter = np.where(slant < 0, np.maximum(enter, room / slant), enter)
            leave = np.where(slant > 0, np.minimum(leave, room / slant), leave)
    if surface.quadric is not None:
        form = surface.quadric.form
        s, w = rays @ form.T, form @ (start - surface.quadric.centre)
        a, b, c = (s * s).sum(1), s @ w, w @ w - 1
        root = np.sqrt(np.where(b * b > a * c, b * b - a * c, np.nan))  # NaN where the ray misses
        enter, leave = np.maximum(enter, (-b - root) / a), np.minimum(leave, (-b + root) / a)
    disparity = np.where((enter > 0) & (enter < leave), 1 / enter, np.nan)
    if surface.skin.cutout:
        points = np.concatenate([rays / disparity[:, None] + start, np.ones((len(x), 1))], 1)
        u, v = (points @ line for line in surface.frames[0])
        coverage = surface.skin.texture[..., 3].astype(np.float32)
        shown = cv2.remap(
            coverage, np.nan_to_num(u, nan=-9).astype(np.float32), np.nan_to_num(v, nan=-9).astype(np.float32), cv2.INTER_LINEAR
        )
        disparity = np.where(shown.ravel() > 127.5, disparity, np.nan)
    return disparity


def wall(normal, offset, **changes):
    return Solid(LENS, np.array([[*normal, offset]], float), np.array([[[1.0, 0, 0, 0], [0, 1.0, 0, 0]]]), PLAIN, LIGHT, **changes)


def world(seed, limits=(0.5, 48.0)):
    rng = np.random.default_rng(seed)
    spread = Spread(limits, 4, 36, "log_uniform")
    skins = Skins(rng, None, 0, 0)
    return World(rng, SIZE, spread, skins, skins.material("paint", large=True), focal=1, horizon=0.3, lift_m=1.5, foot=30)


def test_disparity_of_the_ground_and_of_a_wall_by_hand():
    ground = wall((0, -1, 0), -2).look("left", SIZE)  # 2 baselines below the eyes: d = (y - 30) / 2
    assert ground.corner[1] <= 30 and ground.disparity[50 - ground.corner[1], [0, 70]] == pytest.approx([10, 10])
    side = wall((-1, 0, 0), -5)  # 5 to the right of the left eye, 4 of the right one
    left, right = side.look("left", SIZE), side.look("right", SIZE)
    assert left.disparity[3, 100 - left.corner[0]] == pytest.approx(10)  # (100 - 50) / 5
    assert right.disparity[3, 90 - right.corner[0]] == pytest.approx(10)  # the same place: 100 - 10, and (90 - 50) / 4
    assert left.light[3, 9] == pytest.approx(right.light[3, 9]) == 1


def test_texture_lies_on_the_ground_as_it_recedes():
    part = wall((0, -1, 0), -2).look("left", SIZE)
    rows = np.array([50, 70]) - part.corner[1]
    # at d = 10 and 20, 20 pixels right of the middle is 2 and 1 baselines aside: the pattern is half as large where it is twice as far
    assert part.u[rows, 70] == pytest.approx([2, 1], abs=1e-5)


def some_body(at, kind):
    foot, frame = at.spot(at.rng.uniform(4, 25), at.rng.uniform(30, 140)), at.turned(at.rng.uniform(0, 6))
    lean = (frame[0] - 2 * frame[1]) / np.sqrt(5)
    makers = {
        "box": lambda: at.box(foot, frame, (0.6, 0.9, 0.4), PLAIN),
        "prism": lambda: at.prism(foot, frame, (0.5, 0.2), 0.8, 5, PLAIN),
        "cylinder": lambda: at.cylinder(foot, -frame[1], 0.3, 1.0, PLAIN),
        "leaning": lambda: at.cylinder(foot, lean, 0.04, 1.5, PLAIN),
        "ellipsoid": lambda: at.ellipsoid(foot - frame[1] * 0.5 * at.metre, lean, (0.3, 0.4, 0.5), PLAIN),
        "card": lambda: at.card(foot, frame, (0.8, 0.9), at.skins.stencil("fence")),
    }
    return makers[kind]()


@pytest.mark.parametrize("eye", ["left", "right"])
@pytest.mark.parametrize("kind", ["box", "prism", "cylinder", "leaning", "ellipsoid", "card"])
def test_bodies_equal_brute_force(kind, eye):
    y, x = (grid.ravel().astype(np.float64) for grid in np.mgrid[: SIZE[1], : SIZE[0]])
    seen = 0
    for seed in range(4):
        at = world(seed)
        body = some_body(at, kind)
        expected = brute(body, x, y, eye)
        part = body.look(eye, SIZE)
        if part is None:
            assert np.isnan(expected).all()
            continue
        view = paint([body], SIZE, eye)
        doubtful = cv2.dilate(np.isnan(expected).reshape(SIZE[::-1]).astype(np.uint8), np.ones((3, 3)))
        doubtful = (doubtful > 0) & (cv2.dilate((~np.isnan(expected)).reshape(SIZE[::-1]).astype(np.uint8), np.ones((3, 3))) > 0)
        shown = (view.surface == 0).ravel()
        differ = shown == np.isnan(expected)
        assert not (differ & ~doubtful.ravel()).any() and differ.sum() <= (4 if kind == "card" else 1)
        both = shown & ~differ
        assert view.disparity.ravel()[both] == pytest.approx(expected[both], rel=1e-4)
        corners = body.lens.focal / body.corners[:, 2]
        assert corners.min() - 1e-3 <= view.disparity.ravel()[both].min(initial=99) and view.disparity.max() <= corners.max() + 1e-3
        seen += both.sum()
    assert seen > (100 if kind in ("leaning", "card") else 500)


def test_a_side_that_only_one_eye_sees_is_hidden_from_the_other():
    frame = np.eye(3)
    at = world(1)
    at.lens, at.frame, at.metre = LENS, frame, 1.0
    box = at.box(np.array([-1.0, 1, 10]), frame, (1.0, 2.0, 8.0), PLAIN)  # its right side is at x = -0.5, left of both eyes
    backdrop = wall((0, 0, -1), -100)
    views = {eye: paint([backdrop, box], SIZE, eye) for eye in EYES}
    assert not views["left"].turned.any() and not views["right"].turned.any()
    middle = at.box(np.array([0.0, 1, 10]), frame, (1.0, 2.0, 8.0), PLAIN)  # from -0.5 to 0.5: right sees its right side, left does not
    left, right = (paint([backdrop, middle], SIZE, eye) for eye in EYES)
    assert not left.turned.any() and right.turned[30].any()
    shifted = at.box(np.array([1.0, 1, 10]), frame, (1.0, 2.0, 8.0), PLAIN)  # from 0.5 to 1.5: left sees its left side, right does not
    left, right = (paint([backdrop, shifted], SIZE, eye) for eye in EYES)
    side = left.turned[30]
    # the side goes from z = 6 to 14 at x = 0.5: columns 50 + 50 / 14 to 50 + 50 / 6
    assert np.flatnonzero(side).tolist() == list(range(54, 59)) and occlusion(left, right)[30, 54:59].all() and not right.turned.any()


@pytest.mark.parametrize("name", ["room", "street", "garden"])
def test_views_and_occlusion_of_whole_scenes_equal_brute_force(name):
    dataset = build_dataset("synthetic", None, {"size": SIZE, "scenes": {name: 1}, "seed": 5}, "data")
    agreed, agreed_hidden = [], []
    for index in range(3):
        surfaces = dataset.scene(index).surfaces
        left, right = (paint(surfaces, SIZE, eye) for eye in ("left", "right"))
        rows = np.arange(2, SIZE[1], 6)
        y, x = (grid.ravel().astype(np.float64) for grid in np.meshgrid(rows, np.arange(SIZE[0]), indexing="ij"))
        for view, eye in ((left, "left"), (right, "right")):
            expected = np.nanmax([brute(surface, x, y, eye) for surface in surfaces], axis=0)
            agreed.append(np.abs(view.disparity[rows].ravel() - expected) < 1e-3 * expected)
        shown = left.disparity[rows].ravel().astype(np.float64)
        match = x - shown
        nearest = np.nanmax([brute(surface, match, y, "right") for surface in surfaces], axis=0)
        hidden = (nearest > 1.001 * shown) | (match < 0)  # exactly at the match, not at the pixel nearest to it
        agreed_hidden.append(occlusion(left, right)[rows].ravel() == hidden)
    assert np.mean(agreed) > 0.985  # what differs are softened outlines of cut-outs
    assert np.mean(agreed_hidden) > 0.96


@pytest.mark.parametrize("things", [INDOORS, SMALL, STREET, OUTDOORS], ids=["indoors", "small", "street", "outdoors"])
def test_every_thing_stands_on_the_ground_and_within_the_range(things):
    for thing in dict.fromkeys(things):
        added = 0
        for seed in range(12):
            at = world(seed)
            disparity = at.rng.uniform(2, 10)
            added += thing(at, at.spot(disparity, at.rng.uniform(40, 120)), at.turned(at.rng.uniform(0, 6)))
            for body in at.bodies:
                depths = at.lens.focal / body.corners[:, 2]
                assert depths.min() >= 0.5 and depths.max() <= 48
                assert (body.corners @ at.ground[:3] - at.ground[3]).min() > -0.7 * at.metre
        assert added >= 2, thing.__name__


def test_a_thing_too_near_or_too_large_is_not_added():
    at = world(0)
    skin = at.skins.material("paint")
    near = at.spot(47.9, 80)
    assert not at.add(at.box(near, at.frame, (0.5, 0.5, 0.5), skin)) and not at.bodies
    assert not at.add(at.box(at.spot(5, 80), at.frame, (30, 30, 0.1), skin)) and not at.bodies
    assert at.add(at.box(at.spot(5, 80), at.frame, (0.5, 0.5, 0.5), skin)) and len(at.bodies) == 1


def test_reflections_contradict_the_disparity_and_leave_it_alone():
    picture = np.tile(np.linspace(0, 100, 200, dtype=np.float32), (200, 1))
    dull = wall((0, 0, -1), -10)  # disparity 10 everywhere
    glossy = replace(dull, skin=replace(PLAIN, gloss=Gloss(picture)))
    plain, shining = ({eye: paint([body], SIZE, eye) for eye in EYES} for body in (dull, glossy))
    assert (shining["left"].disparity == plain["left"].disparity).all() and (shining["left"].disparity == 10).all()
    assert (plain["left"].image[:, 10:] == plain["right"].image[:, :-10]).all()
    # What is mirrored is far away: it is in the same column of both eyes, and so not where the disparity says.
    assert shining["left"].image == pytest.approx(shining["right"].image, abs=1e-3)
    assert np.abs(shining["left"].image[:, 10:] - shining["right"].image[:, :-10]).mean() > 2


def test_a_coarse_texture_takes_over_with_the_distance():
    fine, coarse = np.full((64, 64, 4), 50, np.uint8), (np.full((16, 16, 4), 150, np.uint8), np.full((4, 4, 4), 250, np.uint8))
    ground = replace(wall((0, -1, 0), -2), skin=Skin(fine, coarse=coarse), fineness=16.0)
    image = paint([ground], SIZE, "left").image
    # level log4(16 / d): 0 from d = 16 on, which is row 62; 1 at d = 4, row 38; 2 at d = 1, row 32
    assert image[[70, 62, 38, 32], 80, 0] == pytest.approx([50, 50, 150, 250], abs=1)
    assert 50 < image[46, 80, 0] < 150
