"""A grid of plots in one picture file, drawn without a display. What is drawn is the caller's business."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def plots(path: Path, count: int, *, columns: int | None = None, strip: int = 0, from_zero: bool = True) -> Iterator[list[Any]]:
    """`count` axes in rows of `columns` (all in one row when not given), drawn in the block, stored as a picture after it.

    from_zero: vertical axes begin at 0. strip: so many rows as wide as the picture below them, each one more axes, for pictures.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = columns or count
    rows = -(-count // columns)
    figure = pyplot.figure(figsize=(4 * columns + (count == 1), 3.5 * rows + 2.6 * strip), constrained_layout=True)
    grid = figure.add_gridspec(rows + strip, columns, height_ratios=[3.5] * rows + [2.6] * strip)
    axes = [figure.add_subplot(grid[index // columns, index % columns]) for index in range(count)]
    yield axes + [figure.add_subplot(grid[rows + row, :]) for row in range(strip)]
    for axis in axes:
        if from_zero:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
