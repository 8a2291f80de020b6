"""Kinds of values that several commands' options take."""

from typing import Any

import click


class FiniteRange(click.FloatRange):
    """Numbers of a range. Neither nan, which click finds in every range, nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not abs(number) < float("inf"):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


POSITIVE = FiniteRange(min=0, min_open=True)
SCALE = FiniteRange(0.05, 4)
