"""From metric values per seed to verdicts that can be trusted; knows no files, frames or models.

The primary test is the paired t-test: seeds share data order and initialization draws, so their
differences carry less noise than the rows do, and it is the only common test that can decide
anything with three seeds (a sign-flip test needs six before its p-value can pass 0.05).
Its price is the assumption that differences are roughly bell-shaped. Small recall tasks break it:
a run has solved the task or sits at chance. See `two_levels` and `all_alike_by_luck`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtr

from hymba_lab.errors import UserError
from hymba_lab.power import (
    RESOLUTION,
    critical_t,
    detectable_effect,
    detectable_in_sd,
    measured,
    paired_sd,
)

__all__ = [
    "Comparison",
    "Goal",
    "Interval",
    "all_alike_by_luck",
    "compare",
    "detectable_effect",
    "detectable_in_sd",
    "mean_interval",
    "paired_sd",
    "pareto_front",
    "round_up",
    "two_levels",
]

Goal = Literal["maximize", "minimize"]


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline; every field is in the metric's own unit and sign.

    `n` seeds were measured for both, `n_missing` of the table's seeds were not. `mean` with
    `mean_low`, `mean_high` is over all measured seeds of the row. `effect` is row minus baseline
    over the shared seeds, `low` and `high` its interval. `bound` is the X of "no detectable
    difference (smaller than X)" and NaN beside every other verdict.
    """

    label: str
    n: int
    mean: float
    mean_low: float
    mean_high: float
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str
    bound: float
    n_missing: int


class _Evidence(NamedTuple):
    """What the paired differences of one row say before any correction."""

    n: int
    effect: float
    error: float  # standard error of the effect
    p: float
    spread: Literal["seen", "unseen", "too few"]


class _Decision(NamedTuple):
    """What Holm's procedure says of one row; the interval is effect -+ margin."""

    p_holm: float
    margin: float
    rejected: bool


def compare(
    values: Mapping[str, Mapping[int, float]], baseline: str, *, goal: Goal, alpha: float = 0.05
) -> list[Comparison]:
    """Effect and verdict of every row but the baseline; `values` is {label: {seed: value}}.

    d_s = x_s(row) - x_s(baseline) over the seeds both have;  t = mean(d) / (sd(d) / sqrt(n)).
    A value that is not finite counts as missing, never as a number.

    Verdicts are Holm's: with m rows tested, the k-th smallest p-value (k = 0, 1, ...) is held
    against alpha / (m - k), and the first failure ends it: any false "better" or "worse" in the
    table has probability alpha at most. Intervals are Bonferroni's, at 1 - alpha / m: all hold
    together with 1 - alpha, so every X (the larger end: a larger difference is ruled out) does too.
    Only where Holm detects what Bonferroni would not is the interval that of Holm's step,
    1 - alpha / (m - k). So "better" and "worse" never stand beside an interval that holds 0, and
    "no detectable difference" never beside one that does not.

    Differences without spread carry no t-test. All zero: no detectable difference (p = 1).
    All equal and not zero: the exact sign-flip test, p = 2 ** (1 - n), and the interval of the
    standard error that would give this p; below its detection the verdict is "too few seeds".

    Raises UserError when the baseline is not among the labels.
    Source: Holm 1979 (Scand. J. Statist. 6:65); on such intervals Guilbaud 2008 (Biom. J. 50:678).
    """
    if baseline not in values:
        raise UserError(
            f"baseline {baseline!r} is not a row of the table; "
            f"rows: {', '.join(map(repr, values)) or 'none'}. Name one of them."
        )
    seeds = {seed for row in values.values() for seed in row}
    base = measured(values[baseline])
    rows = {label: measured(row) for label, row in values.items() if label != baseline}
    evidence = [_evidence(row, base) for row in rows.values()]
    decisions = _holm(evidence, alpha)
    return [
        _comparison(label, rows[label], len(seeds), found, decision, goal, alpha)
        for label, found, decision in zip(rows, evidence, decisions, strict=True)
    ]


def _comparison(
    label: str,
    row: Mapping[int, float],
    n_seeds: int,
    found: _Evidence,
    decision: _Decision,
    goal: Goal,
    alpha: float,
) -> Comparison:
    own = mean_interval(row.values(), alpha=alpha)
    low, high = found.effect - decision.margin, found.effect + decision.margin
    verdict, bound = _verdict(found, decision, max(abs(low), abs(high)), goal)
    effect = (found.effect, low, high, found.p, decision.p_holm)
    return Comparison(label, found.n, *own[:3], *effect, verdict, bound, n_seeds - found.n)


def _verdict(
    found: _Evidence, decision: _Decision, largest: float, goal: Goal
) -> tuple[str, float]:
    if decision.rejected:
        improved = (found.effect > 0) == (goal == "maximize")
        return ("better" if improved else "worse"), math.nan
    if found.spread == "too few" or (found.spread == "unseen" and found.effect != 0):
        return "too few seeds", math.nan
    if found.spread == "unseen":
        return "no detectable difference (equal on every seed)", 0.0
    return f"no detectable difference (smaller than {round_up(largest)})", largest


def _evidence(row: Mapping[int, float], base: Mapping[int, float]) -> _Evidence:
    shared = [seed for seed in row if seed in base]
    n = len(shared)
    differences = np.array([row[seed] - base[seed] for seed in shared])
    effect = float(differences.mean()) if n else math.nan
    if n < 2:
        return _Evidence(n, effect, math.nan, math.nan, "too few")
    smallest = RESOLUTION * max(max(abs(row[seed]), abs(base[seed])) for seed in shared)
    if np.abs(differences).max() <= smallest:
        return _Evidence(n, 0.0, 0.0, 1.0, "unseen")
    sd = float(differences.std(ddof=1))
    if sd <= smallest:
        p = 2.0 ** (1 - n)
        return _Evidence(n, effect, abs(effect) / critical_t(p, n), p, "unseen")
    error = sd / math.sqrt(n)
    p = 2 * float(stdtr(n - 1, -abs(effect) / error))
    return _Evidence(n, effect, error, p, "seen")


def _holm(evidence: Sequence[_Evidence], alpha: float) -> list[_Decision]:
    """Step down through the p-values; rows without a test are not part of the family.

    Rejection is decided as |effect| > margin, the very numbers of the interval, so that rounding
    cannot set verdict and interval at odds.
    """
    decisions = [_Decision(math.nan, math.nan, False)] * len(evidence)
    tested = [i for i, found in enumerate(evidence) if found.spread != "too few"]
    rejecting, p_holm = True, 0.0
    for step, i in enumerate(sorted(tested, key=lambda i: evidence[i].p)):
        n, effect, error, p, _ = evidence[i]
        left = len(tested) - step
        p_holm = max(p_holm, min(1.0, left * p))
        margin_of_step = critical_t(alpha / left, n) * error
        margin = critical_t(alpha / len(tested), n) * error
        rejecting = rejecting and abs(effect) > margin_of_step
        if rejecting and abs(effect) <= margin:
            margin = margin_of_step
        if not rejecting:
            margin = max(margin, abs(effect))  # larger already, but for the last bit
        decisions[i] = _Decision(p_holm, margin, rejecting)
    return decisions


def mean_interval(values: Iterable[float], *, alpha: float = 0.05) -> Interval:
    """mean -+ t(1 - alpha/2, n - 1) sd / sqrt(n) over the finite values, on its own (uncorrected).

    Equal values give a width of 0: their spread was not seen, which is not to say there is none.
    The ends of a fraction may leave 0..1; that is what few seeds look like.
    """
    found = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    margin = critical_t(alpha, n) * float(found.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - margin, mean + margin, n)


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


def round_up(value: float) -> str:
    """`value` with two significant digits, never smaller than it is: 0.01234 -> "0.013"."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    exact = Decimal(str(float(value)))
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), ROUND_CEILING)
    return f"{rounded:f}" if 1e-4 < rounded < 1e6 else f"{rounded:.1e}"


def pareto_front(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[bool]:
    """For every point, whether no other is as good in all goals and better in one.

    Equal points stand or fall together. A point with a NaN is not on the front and pushes none off.
    """
    if any(len(point) != len(goals) for point in points):
        raise UserError(f"every point needs {len(goals)} coordinates, one per goal {list(goals)}.")
    signs = np.array([1.0 if goal == "maximize" else -1.0 for goal in goals])
    scores = np.asarray(points, dtype=np.float64).reshape(len(points), len(goals)) * signs
    known = ~np.isnan(scores).any(axis=1)
    # A comparison with NaN is False, so unknown points dominate nothing.
    dominated = [
        bool(((scores >= score).all(axis=1) & (scores > score).any(axis=1)).any())
        for score in scores
    ]
    return [bool(k) and not d for k, d in zip(known, dominated, strict=True)]
