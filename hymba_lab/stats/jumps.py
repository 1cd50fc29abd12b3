"""Metrics that are learned in a jump: a run has solved the task or sits at chance."""

from collections.abc import Mapping

import numpy as np

from hymba_lab.stats.power import measured


def two_levels(values: Mapping[str, Mapping[int, float]]) -> tuple[float, float] | None:
    """The two levels between which seeds of one row jump, or None where nothing jumps.

    All values together fall into two clusters, the gap more than four times the wider cluster's
    range, and some row has seeds in both. Fewer than six values show nothing.
    """
    rows = [list(measured(row).values()) for row in values.values()]
    pooled = np.sort(np.array([value for row in rows for value in row]))
    if len(pooled) < 6:
        return None
    gaps = np.diff(pooled)
    cut = int(gaps.argmax()) + 1
    low, high = pooled[:cut], pooled[cut:]
    tight = gaps[cut - 1] > 4 * max(np.ptp(low), np.ptp(high))
    mixed = any(min(row) <= low[-1] and max(row) >= high[0] for row in rows if row)
    return (float(low.mean()), float(high.mean())) if tight and mixed else None


def all_alike_by_luck(n_seeds: int, n_rows: int) -> float:
    """Bound on P(luck puts all seeds of some row on one level, all the baseline's on another).

    2 n_rows / 4 ** n_seeds: a jump is a coin of unknown bias q, and (q (1 - q)) ** n <= 4 ** -n,
    in two directions. The t-test calls such a pair different, having seen no spread: with 3 seeds
    and 5 rows the bound is 0.16, with 5 seeds 0.01. It is a warning, not a correction.
    """
    return min(1.0, 2.0 * n_rows / 4.0**n_seeds)
