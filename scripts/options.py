"""What the options of several commands have in common: kinds of values, and that none is ignored in silence."""

from collections.abc import Container
from typing import Any

import click
from click.core import ParameterSource

from utils.errors import UserError

NETWORKS_OWN = ("iterations", "cascades", "hierarchical", "tile", "tile_overlap", "precision", "compiled", "overrides")
CALIBRATIONS_OWN = ("calibration_size", "baseline_unit", "cameras", "rectify", "no_rectify", "max_depth")


class FiniteRange(click.FloatRange):
    """Numbers of a range. Neither nan, which click finds in every range, nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not abs(number) < float("inf"):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


POSITIVE = FiniteRange(min=0, min_open=True)
SCALE = FiniteRange(0.05, 4)


def refuse_idle(names: Container[str], why: str, value: str = "") -> None:
    """UserError for the first option of the running command that was given although it does nothing `why`, as in "with sgbm".

    names: of the command's parameters; those that it lacks are passed over. value: the part of the option's value that is meant.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            option = "/".join([*parameter.opts, *parameter.secondary_opts])
            raise UserError(f"{option}{value and ' '}{value}: does nothing {why}; leave it out")
