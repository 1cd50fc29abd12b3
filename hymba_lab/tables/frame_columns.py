"""The columns of anybody's table of runs, as numbers, labels and seeds; what they cannot be."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hymba_lab.errors import UserError, suggest

PREFIXES = ("", "params.", "metrics.", "tags.", "config.", "summary.", "config/", "summary/")
_STATES = ("status", "State", "state")
_ENDED_WELL = ("finished", "completed", "success", "")
_MOST = 1e100  # squares and sums of squares stay numbers


def finished_runs(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the runs that ended well, where a column says how runs ended, and how many did not."""
    for name in _STATES:
        if name in frame:
            states = frame[name].fillna("").astype(str).str.lower()
            kept = states.isin(_ENDED_WELL)
            return frame[kept], int((~kept).sum())
    return frame, 0


def column(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column by its name, also where an exporter put a prefix before it.

    Raises UserError where there is none.
    """
    for prefix in PREFIXES:
        if prefix + name in frame:
            return list(frame[prefix + name])
    raise UserError(f"the table has no column {name!r}{suggest(name, map(str, frame.columns))}")


def word(value: Any) -> str:
    """Return a label; pandas reads 3 as 3.0 beside an empty field."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def seed_numbers(
    labels: Sequence[str], given: list[Any] | None, row: str, seed: str | None
) -> list[int]:
    """Return a number per run.

    Raises UserError where a (row, seed) is there twice: a run counted twice is no evidence.
    """
    count: dict[str, int] = {}
    numbers: dict[str, int] = {}
    found, seen = [], set[tuple[str, int]]()
    for place, label in enumerate(labels):
        if given is None:
            number = count[label] = count.get(label, -1) + 1
        else:
            number = numbers.setdefault(word(given[place]), len(numbers))
        if (label, number) in seen:
            assert given is not None
            raise UserError(
                f"{row} {label!r} has more than one run with {seed} {given[place]!r}: a run that "
                "is counted twice is no evidence. Remove the copies, or name the column that "
                "tells the runs apart with --seed."
            )
        seen.add((label, number))
        found.append(number)
    return found


def refuse_unequal(name: str, labels: Sequence[str], values: Iterable[Any]) -> None:
    """Raise UserError where the runs do not all have one value of a column."""
    kinds: dict[str, list[str]] = {}
    for label, value in zip(labels, values, strict=True):
        kinds.setdefault(str(value), []).append(label)
    if len(kinds) > 1:
        told = "; ".join(f"{kind}: {', '.join(dict.fromkeys(own))}" for kind, own in kinds.items())
        raise UserError(
            f"runs differ in {name!r} ({told}): a difference between rows could be that of {name}. "
            "Compare runs of one value."
        )


def number_in(name: str, value: Any) -> float:
    """Return a number, NaN for what is missing; raises UserError for anything else."""
    if value is None or value == "" or pd.isna(value):
        return math.nan
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"column {name!r}: {value!r} is not a number; leave the field empty where nothing was "
            "measured."
        ) from None


def truth_in(name: str, value: Any) -> bool:
    """Return whether a field says solved; raises UserError where it says neither."""
    told = str(value).strip().lower()
    if told in ("1", "1.0", "true", "yes"):
        return True
    if told in ("0", "0.0", "false", "no"):
        return False
    raise UserError(f"column {name!r}: {value!r} is neither 1 (solved) nor 0 (ended without).")


def refuse_outside(metric: str, numbers: Sequence[float], limits: tuple[float, float]) -> None:
    """Raise UserError for a value that the metric cannot have."""
    low, high = limits
    for value in numbers:
        huge = abs(value) >= _MOST and not math.isinf(value)
        if not math.isnan(value) and (huge or not low <= value <= high):
            raise UserError(
                f"column {metric!r}: {value:g} lies outside the metric's limits "
                f"{max(low, -_MOST):g} to {min(high, _MOST):g}; mend it, or the limits."
            )
