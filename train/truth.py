"""Whether what is trained on has ground truth. A data set without one valid pixel, by a wrong scale as an example, has a loss of 0."""

import logging
from collections.abc import Iterable, Mapping

from utils.errors import UserError, shorten

log = logging.getLogger("stereofoundry")

ENOUGH = 32  # samples without a valid pixel are no chance; a crop of sparse ground truth can be empty
MEND = "look at it with scripts/inspect_data.py; its params, such as a scale, or data.max_disparity may leave none"


class Truth:
    """datasets: those whose samples are trained on disparity, in the order of the configuration."""

    def __init__(self, datasets: Iterable[str]) -> None:
        self._empty = dict.fromkeys(datasets, 0)  # -> samples so far, for as long as no valid pixel was in one and nothing was said
        self._names = list(self._empty)
        self._seen = False
        self._in_row = 0

    def look(self, counts: Mapping[str, tuple[int, int]], last: bool = False) -> None:
        """Name, once, a data set that had no valid pixel so far; UserError where none has had one for long, or in the whole run.

        counts: data set -> (samples, valid pixels) since the last call, over all processes, which decide alike; last: the run ends here.
        """
        found = {name: counts[name] for name in self._names}
        there = any(pixels for _, pixels in found.values())
        self._seen |= there
        self._in_row = 0 if there else self._in_row + sum(samples for samples, _ in found.values())
        if self._in_row >= ENOUGH or (last and self._in_row and not self._seen):
            raise UserError(
                f"data.datasets: no valid pixel of ground truth in {self._in_row} samples of {shorten(self._names)}, so nothing is "
                f"trained; {MEND}"
            )
        for name, (samples, pixels) in found.items():
            if name not in self._empty:
                continue
            self._empty[name] += samples
            if pixels:
                del self._empty[name]
            elif self._empty[name] >= ENOUGH or (last and self._empty[name]):
                log.warning("data set '%s': no valid pixel of ground truth in %d samples; %s", name, self._empty.pop(name), MEND)
