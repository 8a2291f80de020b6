"""Which disparities a scene uses, and how often."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MODES: dict[str, Callable[[float, float, float], float]] = {
    "log_uniform": lambda share, low, high: low * (high / low) ** share,  # as many between 1 and 2 as between 50 and 100
    "uniform": lambda share, low, high: low + (high - low) * share,
    "near": lambda share, low, high: low + (high - low) * share**0.5,  # the denser the larger
}


def draw(rng: np.random.Generator, low: float, high: float, mode: str) -> float:
    return float(MODES[mode](rng.random(), low, high))


@dataclass(frozen=True)
class Spread:
    """limits: of every disparity of every scene. far, near: of what this scene shows, before and behind which little lies."""

    limits: tuple[float, float]
    far: float
    near: float
    mode: str

    def draw(self, rng: np.random.Generator, low: float | None = None, high: float | None = None) -> float:
        """The disparity of one thing, between `far` and `near` unless said otherwise."""
        return draw(rng, self.far if low is None else low, self.near if high is None else high, self.mode)


def draw_spread(rng: np.random.Generator, limits: tuple[float, float], mode: str) -> Spread:
    """What one scene uses of the range."""
    lowest, highest = limits
    near = draw(rng, min(max(1.5 * lowest, highest / 4), highest), highest, mode)
    return Spread(limits, draw(rng, max(lowest, near / 30), max(lowest, near / 2.5), "log_uniform"), near, mode)
