"""Cut-outs: thin and ragged things drawn on a card, RGB with their coverage: fences, nets, twigs, leaves, frames, wires.

Each maker returns uint8 (height, width, 4), RGB and coverage, nothing along the border.
"""

from collections.abc import Callable

import cv2
import numpy as np

from train.datasets.synthetic.materials import MATERIALS, shade

SHIFT = 4  # fixed-point bits of OpenCV's drawing
EDGE = 3  # texels along the border that stay empty


def _cut(rng: np.random.Generator, coverage: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    """A material where `coverage`, uint8 (h, w), is 255."""
    for side in (coverage[:EDGE], coverage[-EDGE:], coverage[:, :EDGE], coverage[:, -EDGE:]):
        side[:] = 0
    picture = MATERIALS[kinds[int(rng.integers(len(kinds)))]](rng, *coverage.shape)
    return cv2.merge([*cv2.split(picture), coverage])


def _strokes(coverage: np.ndarray, lines: np.ndarray, thick: float) -> None:
    """Straight strokes (n, 2, 2) of any thickness, at sub-texel places."""
    for start, end in lines:
        along = end - start
        aside = along[::-1] * (-1, 1) * (thick / 2 / max(float(np.hypot(*along)), 1e-6))
        shape = np.stack([start + aside, end + aside, end - aside, start - aside])
        cv2.fillConvexPoly(coverage, np.rint(shape * 2**SHIFT).astype(np.int32), 255, cv2.LINE_AA, SHIFT)


def fence(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bars between rails: railing, fence, crib, radiator, the back of a chair."""
    coverage = np.zeros((height, width), np.uint8)
    thick = np.exp(rng.uniform(np.log(1.8), np.log(7)))
    period = thick * rng.uniform(2, 7)
    x = np.arange(EDGE + thick, width - EDGE, period)
    _strokes(coverage, np.stack([np.stack([x, 0 * x + 2], -1), np.stack([x, 0 * x + height - 2], -1)], 1), thick)
    rails = rng.uniform(0.05, 0.95, size=int(rng.integers(1, 4))) * height
    _strokes(coverage, np.array([[(2, y), (width - 2, y)] for y in rails]), thick * rng.uniform(0.8, 2))
    return _cut(rng, coverage, ("paint", "wood"))


def net(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Wires that cross, upright or aslant, between posts."""
    coverage = np.zeros((height, width), np.uint8)
    thick, period = rng.uniform(1.4, 2.6), rng.uniform(12, 40)
    slant = rng.choice((0.0, 1.0)) * height
    x = np.arange(-height, width + height, period)
    for lean in (slant, -slant) if slant else (0.0,):
        _strokes(coverage, np.stack([np.stack([x, 0 * x], -1), np.stack([x + lean, 0 * x + height], -1)], 1), thick)
    if not slant:
        y = np.arange(period / 2, height, period)
        _strokes(coverage, np.stack([np.stack([0 * y, y], -1), np.stack([0 * y + width, y], -1)], 1), thick)
    posts = np.array([[(EDGE + 4, 0), (EDGE + 4, height)], [(width - EDGE - 4, 0), (width - EDGE - 4, height)]], float)
    _strokes(coverage, posts, rng.uniform(3, 8))
    return _cut(rng, coverage, ("paint",))


def frame(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A frame, with bars across it or empty: window, easel, ladder, shelf, the wheel of a bicycle."""
    coverage = np.zeros((height, width), np.uint8)
    thick = rng.uniform(3, 14)
    if rng.random() < 0.3:
        middle, radius = np.array([width / 2, height / 2]), min(width, height) / 2 - EDGE - thick
        cv2.circle(coverage, (width // 2, height // 2), int(radius), 255, int(thick), cv2.LINE_AA)
        turns = np.arange(0, 2 * np.pi, 2 * np.pi / int(rng.integers(3, 24))) + rng.uniform(0, 1)
        spokes = middle + radius * np.stack([np.cos(turns), np.sin(turns)], -1)
        _strokes(coverage, np.stack([np.broadcast_to(middle, spokes.shape), spokes], 1), rng.uniform(1.5, 4))
    else:
        inset = EDGE + thick / 2
        a, b, c, d = (inset, inset), (width - inset, inset), (width - inset, height - inset), (inset, height - inset)
        _strokes(coverage, np.array([[a, b], [b, c], [c, d], [d, a]]), thick)
        for _ in range(int(rng.integers(0, 5))):
            if rng.random() < 0.5:
                y = rng.uniform(0, height)
                _strokes(coverage, np.array([[(inset, y), (width - inset, y)]]), thick * rng.uniform(0.4, 1))
            else:
                x = rng.uniform(0, width)
                _strokes(coverage, np.array([[(x, inset), (x, height - inset)]]), thick * rng.uniform(0.4, 1))
    return _cut(rng, coverage, ("paint", "wood"))


def wires(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Cables and ropes that hang between their ends."""
    coverage = np.zeros((height, width), np.uint8)
    x = np.linspace(EDGE, width - EDGE, 24)
    for _ in range(int(rng.integers(1, 6))):
        ends, sag = rng.uniform(0.05, 0.95, size=2) * height, rng.uniform(0, 0.5) * height
        share = (x - x[0]) / (x[-1] - x[0])
        points = np.stack([x, ends[0] + (ends[1] - ends[0]) * share + 4 * sag * share * (1 - share)], -1)
        _strokes(coverage, np.stack([points[:-1], points[1:]], 1), rng.uniform(2.2, 4.5))
    return _cut(rng, coverage, ("paint",))


def twigs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A bare tree or bush: every branch forks."""
    coverage = np.zeros((height, width), np.uint8)
    tips = [(np.array([width / 2, height - EDGE - 1.0]), -np.pi / 2 + rng.normal(0, 0.15), 0.3 * height, rng.uniform(4, 12))]
    for _ in range(5):
        grown = []
        for start, turn, long, thick in tips:
            end = start + long * np.array([np.cos(turn), np.sin(turn)])
            _strokes(coverage, np.array([[start, end]]), max(thick, 1.4))
            for _ in range(int(rng.integers(2, 4))):
                grown.append((end, turn + rng.normal(0, 0.5), long * rng.uniform(0.55, 0.9), thick * rng.uniform(0.5, 0.8)))
        tips = grown[:24]
    return _cut(rng, coverage, ("wood", "plaster"))


def foliage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Leaves with gaps between them, those behind darker: the crown of a tree, a hedge, a pot plant."""
    slim, large = rng.uniform(0.15, 0.6), rng.uniform(0.025, 0.08) * min(height, width)
    count = int(min(0.5 * height * width / (large * large * slim * 2), 200) * rng.uniform(0.6, 1.2))
    hue = float(rng.choice((rng.uniform(0.2, 0.36), rng.uniform(0.2, 0.36), rng.uniform(0, 1))))
    inks = [shade(rng, (hue - 0.03, hue + 0.03), (0.15, 0.65), (0.3, 0.85)) for _ in range(8)]
    canvas = np.zeros((height, width, 4), np.uint8)
    reach = np.array([width, height]) / 2 - EDGE - 1.3 * large
    turns, out = rng.uniform(0, 2 * np.pi, size=count), np.sqrt(rng.random(count))
    middles = np.array([width, height]) / 2 + reach * np.stack([np.cos(turns) * out, np.sin(turns) * out], -1)
    lean = rng.uniform(0, np.pi, size=count)
    sizes = large * rng.uniform(0.5, 1.2, size=count)
    outline = np.array([(1, 0), (0.5, 1), (-0.3, 0.9), (-1, 0), (-0.3, -0.9), (0.5, -1)]) * (1, slim)
    cos, sin = np.cos(lean), np.sin(lean)
    turns = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    shapes = np.rint((middles[:, None] + sizes[:, None, None] * (outline @ turns)) * 2**SHIFT).astype(np.int32)
    for number, light in enumerate(np.linspace(0.35, 1, count)):
        red, green, blue = inks[number % len(inks)] * light
        cv2.fillConvexPoly(canvas, shapes[number], (float(red), float(green), float(blue), 255.0), cv2.LINE_AA, SHIFT)
    # The outlines were drawn over black: that is taken out again.
    full = np.zeros_like(canvas)
    scale = cv2.divide(np.float32(255), np.maximum(cv2.extractChannel(canvas, 3), 60).astype(np.float32))
    full[..., :3] = cv2.multiply(canvas[..., :3], cv2.merge([scale] * 3), dtype=cv2.CV_8U)
    full[..., 3] = canvas[..., 3]
    return full


def blade(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Long leaves or stalks from one foot: aloe, grass, reed, brushes in a glass."""
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(4, 18))):
        foot = np.array([width * rng.uniform(0.4, 0.6), height - EDGE - 1.0])
        tip = np.array([rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.6) * height])
        bend = (foot + tip) / 2 + (foot - tip)[::-1] * (-1, 1) * rng.normal(0, 0.15)
        share = np.linspace(0, 1, 9)[:, None]
        line = (1 - share) ** 2 * foot + 2 * share * (1 - share) * bend + share**2 * tip
        ahead = np.gradient(line, axis=0)
        aside = ahead[:, ::-1] * (-1, 1) / np.hypot(*ahead.T)[:, None] * (rng.uniform(0.008, 0.05) * width * (1 - share**2) + 0.7)
        cv2.fillPoly(
            canvas, [np.rint(np.concatenate([line + aside, (line - aside)[::-1]]) * 2**SHIFT).astype(np.int32)], 255, cv2.LINE_AA, SHIFT
        )
    return _cut(rng, canvas, ("leaves", "leaves", "wood", "paint"))


STENCILS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "fence": fence,
    "net": net,
    "frame": frame,
    "wires": wires,
    "twigs": twigs,
    "foliage": foliage,
    "blade": blade,
}
