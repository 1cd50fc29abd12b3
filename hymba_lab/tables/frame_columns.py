"""The columns of anybody's table of runs: found by name, and read as numbers, or as yes and no."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from hymba_lab.errors import UserError, suggest
from hymba_lab.tables.frame_cells import (
    is_endless,
    is_missing,
    number_advice,
    number_in,
    truth_in,
)

LINE, FILE = "line", "file"  # the name of the index, and of the attribute, of a frame from a file
PREFIXES = ("params.", "metrics.", "tags.", "config.", "summary.", "config/", "summary/")
MOST = 1e100  # squares and sums of squares stay numbers


def where(frame: pd.DataFrame, *at: int) -> str:
    """Return the place that a message begins with: file and lines, as far as they are known."""
    parts = [str(frame.attrs[FILE])] if FILE in frame.attrs else []
    if at and frame.index.name == LINE:
        lines = " and ".join(str(frame.index[one]) for one in at)
        parts.append(f"line{'s' if len(at) > 1 else ''} {lines}")
    return "".join(f"{part}: " for part in parts)


def column(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column by its name, also where an exporter put a prefix before it.

    Raises UserError where there is none, or more than one.
    """
    found = [full for full in (prefix + name for prefix in PREFIXES) if full in frame]
    found = [name] if name in frame else found
    if len(found) > 1:
        raise UserError(
            f"{where(frame)}{name!r} may be {' or '.join(map(repr, found))}; name one of them "
            "whole."
        )
    if not found:
        names = [str(own) for own in frame.columns if own != ""]
        raise UserError(
            f"{where(frame)}the table has no column {name!r}{suggest(name, names)}{_chart(names)}"
        )
    if list(frame.columns).count(found[0]) > 1:
        raise UserError(f"{where(frame)}the header names {found[0]!r} twice; rename one.")
    return list(frame[found[0]])


def _chart(names: Sequence[str]) -> str:
    if not any(name.endswith("__MIN") for name in names):
        return ""
    return (
        " It looks like a chart of W&B, a column per run: export the table of runs, which has a "
        "line per run."
    )


def numbers_of(frame: pd.DataFrame, name: str, limits: tuple[float, float]) -> list[float]:
    """Return a column of numbers, NaN for what is missing, infinite where a run diverged.

    Raises UserError for anything else, and for what the metric cannot be.
    """
    return [_number(frame, at, name, value, limits) for at, value in enumerate(column(frame, name))]


def _number(
    frame: pd.DataFrame, at: int, name: str, value: Any, limits: tuple[float, float]
) -> float:
    number = number_in(value)
    if number is None:
        raise UserError(
            f"{where(frame, at)}column {name!r}: {value!r} is not a number; {number_advice(value)}."
        )
    low, high = limits
    if math.isnan(number) or is_endless(value):
        return number
    if abs(number) >= MOST or not low <= number <= high:
        shown = value if isinstance(value, str) else f"{number:g}"
        raise UserError(
            f"{where(frame, at)}column {name!r}: {shown} lies outside the metric's limits "
            f"{max(low, -MOST):g} to {min(high, MOST):g}; mend it, or the limits."
        )
    return number


def truths_of(frame: pd.DataFrame, name: str, needed: Sequence[bool]) -> list[bool]:
    """Return whether fields say yes; False where it is not needed, for nothing was measured.

    Raises UserError where a field says neither yes nor no.
    """
    found = []
    for at, (value, asked) in enumerate(zip(column(frame, name), needed, strict=True)):
        told = truth_in(value)
        if asked and told is None:
            given = "an empty field" if is_missing(value) else repr(value)
            raise UserError(
                f"{where(frame, at)}column {name!r}: {given} is neither 1 (yes) nor 0 (no)."
            )
        found.append(bool(told))
    return found
