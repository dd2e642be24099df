"""Seconds on the command line: a number that a clock can count to."""

from __future__ import annotations

from typing import Any

import click

from chappe.bounds import FURTHEST


class Seconds(click.ParamType[float]):
    """Takes what is neither negative nor NaN, nor further away than a century."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= FURTHEST:
            self.fail(f"{value!r} is no number of seconds; write one that is not negative, like 30 or 0.5", param, ctx)
        return seconds


SECONDS = Seconds()
