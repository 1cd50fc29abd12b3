"""What a lab with one run per row would have said: how often the wrong row wins by luck."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hymba_lab.stats.power import measured
from hymba_lab.stats.verdicts import Goal

Values = NDArray[np.float64]


def wrong_winner(values: Mapping[str, Mapping[int, float]], goal: Goal) -> float:
    """Return the probability that one run per row, drawn at random, crowns another row than all do.

    All do: the row with the best mean. Exact, over every combination of the rows' runs; rows that
    tie share the crown equally. NaN with fewer than two rows that were measured.
    """
    sign = 1.0 if goal == "maximize" else -1.0
    rows = [sign * np.array(list(own.values())) for own in map(measured, values.values()) if own]
    if len(rows) < 2:
        return math.nan
    best = int(np.argmax([row.mean() for row in rows]))
    rest = rows[:best] + rows[best + 1 :]
    return 1 - float(_wins(rows[best], rest).mean())


def _wins(values: Values, others: list[Values]) -> Values:
    """P(a value is above one draw of each of the others), ties split among those that tie."""
    ties = np.zeros((len(values), len(others) + 1))  # [:, k]: P(no draw is above, k are equal)
    ties[:, 0] = 1
    for other in map(np.sort, others):
        first, last = (np.searchsorted(other, values, side) for side in ("left", "right"))
        below, equal = first[:, None] / len(other), (last - first)[:, None] / len(other)
        ties[:, 1:] = ties[:, 1:] * below + ties[:, :-1] * equal
        ties[:, 0] *= below[:, 0]
    won: Values = (ties / np.arange(1, len(others) + 2)).sum(axis=1)
    return won
