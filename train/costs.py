"""What a run spends beside its steps proper: averages, metrics, log lines, checkpoints, pictures. Seconds of the host, by name."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("ema", "metrics", "log", "save", "previews")


class Costs:
    """Seconds spent since they were last taken, and in all.

    On a GPU work is queued and not waited for: this is what holds the host up.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._total, self._calls = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._seconds[name] += seconds
        self._total[name] += seconds
        self._calls[name] += 1

    def total(self, name: str) -> tuple[float, int]:
        """(seconds, times) of the whole run, whatever was taken."""
        return self._total[name], self._calls[name]

    def take(self, steps_s: float) -> dict[str, float]:
        """`{"share/<name>": of the seconds that the steps took, "share/all": their sum}`, and a new start."""
        found = {f"share/{name}": seconds / max(steps_s, 1e-9) for name, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(NAMES, 0.0)
        return found | {"share/all": sum(found.values())}
