"""Times of which some were not lived to see: Kaplan and Meier's curve, the log-rank test.

A run is a time and whether the event came: tokens until a task was solved, or tokens at which the
run ended without (right-censored; it is known only that the true time is longer).
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, comb, ndtri

EXACT_UP_TO = 20_000  # relabelings of the runs that are counted one by one; 8 against 8 is 12,870


class Run(NamedTuple):
    """The time of the event, or of the end of a run without one."""

    time: float
    solved: bool


class Step(NamedTuple):
    """From `time` on the share of runs that solved is `solved`, in a band from low to high."""

    time: float
    solved: float
    low: float
    high: float
    at_risk: int


class LogRank(NamedTuple):
    """`p` two-sided; `surplus`: events of the first group beyond those expected (> 0: sooner)."""

    p: float
    surplus: float
    exact: bool


def kaplan_meier(runs: Sequence[Run], *, alpha: float = 0.05) -> list[Step]:
    """Return the share solved by time, 1 - S(t), a step per event; its band is pointwise.

    S(t) = prod over events of (1 - d / r), d events among r at risk. The band is Greenwood's on the
    scale log(-log S), so that it stays within 0 and 1; at S = 0 it keeps its lower end of the step
    before. Source: Kaplan and Meier 1958 (JASA 53:457).
    """
    z, alive, greenwood = float(ndtri(1 - alpha / 2)), 1.0, 0.0
    low, steps = 0.0, []
    for time in sorted({run.time for run in runs if run.solved}):
        at_risk = sum(run.time >= time for run in runs)
        events = sum(run.solved and run.time == time for run in runs)
        alive *= 1 - events / at_risk
        high = 1.0
        if at_risk > events:
            greenwood += events / (at_risk * (at_risk - events))
            width = z * math.sqrt(greenwood) / abs(math.log(alive))
            low, high = (1 - alive ** math.exp(sign * width) for sign in (-1, 1))
        steps.append(Step(time, 1 - alive, low, high, at_risk))
    return steps


def log_rank(first: Sequence[Run], second: Sequence[Run]) -> LogRank:
    """Test whether two groups solve at the same times.

    At every event, with r_1 of r runs at risk in the first group and d events: expected d r_1 / r,
    variance d (r_1 / r)(1 - r_1 / r)(r - d)/(r - 1); Z = sum(d_1 - expected) / sqrt(sum variance).
    Two-sided. Of few runs p is exact, over all relabelings of them (|Z| as large or larger), else
    from Z^2 ~ chi^2(1). No event in either: p = NaN. Source: Mantel 1966 (Cancer Chemother. Rep.
    50:163).
    """
    runs, n = [*first, *second], len(first)
    tables = _events(runs)
    if not len(tables.events):
        return LogRank(math.nan, math.nan, False)
    mine = np.zeros((1, len(runs)))
    mine[0, :n] = 1
    surplus, square = _statistic(tables, mine)
    if comb(len(runs), n, exact=True) > EXACT_UP_TO:
        return LogRank(float(chdtrc(1, square[0])), float(surplus[0]), False)
    chosen = np.array(list(combinations(range(len(runs)), n)))
    labels = np.zeros((len(chosen), len(runs)))
    np.put_along_axis(labels, chosen, 1, axis=1)
    squares = _statistic(tables, labels)[1]
    p = float((squares >= square[0] * (1 - 1e-9)).mean())
    return LogRank(p, float(surplus[0]), True)


class _Events(NamedTuple):
    events: NDArray[np.float64]  # (events,) how many at each time
    risk: NDArray[np.float64]  # (runs, events) who is at risk
    happens: NDArray[np.float64]  # (runs, events) whose event it is


def _events(runs: Sequence[Run]) -> _Events:
    time = np.array([run.time for run in runs])
    solved = np.array([run.solved for run in runs])
    times = np.unique(time[solved])
    happens = (time[:, None] == times) & solved[:, None]
    return _Events(
        happens.sum(axis=0).astype(np.float64),
        (time[:, None] >= times).astype(np.float64),
        happens.astype(np.float64),
    )


def _statistic(
    tables: _Events, mine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(labelings, runs) of 0 and 1 -> observed minus expected events, and Z^2, per labeling."""
    d, r = tables.events, tables.risk.sum(axis=0)
    share = (mine @ tables.risk) / r
    surplus = ((mine @ tables.happens) - d * share).sum(axis=1)
    last = np.where(r > 1, (r - d) / np.maximum(r - 1, 1), 0.0)
    variance = (d * share * (1 - share) * last).sum(axis=1)
    return surplus, np.divide(
        surplus**2, variance, out=np.zeros_like(surplus), where=variance > 1e-12
    )


def crossing(times: Sequence[float], values: Sequence[float], at: float) -> Run:
    """Return when a course first passes `at` from below, interpolated; else its end, unsolved.

    A value that is not finite is a measurement that was not made. An empty course ends at 0.
    """
    seen = [(t, v) for t, v in zip(times, values, strict=True) if math.isfinite(v)]
    for place, (time, value) in enumerate(seen):
        if value >= at:
            if place == 0:
                return Run(time, True)
            before, below = seen[place - 1]
            return Run(before + (time - before) * (at - below) / (value - below), True)
    return Run(max(times, default=0.0), False)
