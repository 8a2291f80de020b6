"""The one exception for what a user can cause. Commands print it as a single line and exit with 2.

Everything else is our bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LETTERS = 1000  # of a line; what was found can be a whole file


class UserError(ValueError):
    """A line that says where, what was found, what was expected and what to do next.

    It is one line whatever was found: of a long text the middle goes, what a terminal cannot show or would obey is spelt out.
    """

    def __init__(self, line: str) -> None:
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        super().__init__(shown if len(shown) <= MOST_LETTERS else f"{shown[: MOST_LETTERS * 2 // 3]} ... {shown[-MOST_LETTERS // 4 :]}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`"; did you mean 'weight'?"` for the nearest of `known`, or the list of what is known when none is near."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def shorten(items: Iterable[object], most: int = 6) -> str:
    """The first items, comma-separated, and how many more there are."""
    names = [str(item) for item in items]
    return ", ".join(names if len(names) <= most else [*names[: most - 1], f"... and {len(names) - most + 1} more"])
