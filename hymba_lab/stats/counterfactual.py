"""What a lab with one run per row would have said: how often the wrong row wins by luck."""

import math
from collections.abc import Mapping

import numpy as np

from hymba_lab.stats.power import measured
from hymba_lab.stats.verdicts import Goal


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
    return 1 - float(np.mean([_wins(float(value), rest) for value in rows[best]]))


def _wins(value: float, others: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    """P(value is above one draw of each of the others), ties split among those that tie."""
    ties = np.ones(1)  # ties[k]: P(no draw is above, k draws are equal)
    for other in others:
        below, equal = float((other < value).mean()), float((other == value).mean())
        ties = np.convolve(ties, [below, equal])
    return float((ties / np.arange(1, len(ties) + 1)).sum())
