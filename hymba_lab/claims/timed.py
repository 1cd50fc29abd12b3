"""Claims about recall that is learned in a jump: judged by when it was solved.

Its level at the end says when a run was stopped; so "recalls more" is taken as "solved it sooner",
and only where every run of both rows did. The effect is the ratio of training tokens until then,
row over against: below 1 is sooner.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from hymba_lab.claims.schema import ReproducedIf
from hymba_lab.stats import (
    MARGIN,
    Goal,
    Placed,
    Region,
    Run,
    against,
    disagree,
    log_spreads,
    log_times,
    place,
)
from hymba_lab.stats.evidence import Evidence
from hymba_lab.stats.ranks import ranks

Rows = Mapping[str, Mapping[int, Run]]


class Timed(NamedTuple):
    """The effect as a ratio of times, and whether every run of both rows solved."""

    found: Placed
    solved: bool


def by_time(
    rows: Rows,
    row: str,
    other: str,
    condition: ReproducedIf,
    alpha: float,
    share: float,
    goal: Goal = "maximize",
) -> Timed:
    """Place the ratio of times against what counts as reproduced.

    Every row of the table of which all runs solved says how noisy these two are. Where a run of
    either did not solve, the log-rank test says from six seeds which was sooner.
    """
    region = region_of_times(condition, goal)
    logs = log_times(rows)
    if row in logs and other in logs:
        found = place(against(logs, other, share=share)[0][row], region, alpha=alpha)
        return Timed(_ratios(found, share), True)
    evidence = ranks(rows.get(row, {}), rows.get(other, {}), log_spreads(rows), share)
    if isinstance(evidence, Evidence):  # too few runs
        nan = math.nan
        return Timed(Placed(evidence.n, nan, nan, nan, nan, "open"), False)
    low, high = evidence.interval(alpha)
    if evidence.p_spent <= alpha and not disagree(evidence.effect, low, high):
        sooner = evidence.effect > 0
        low, high = (low, min(high, 0.0)) if sooner else (max(low, 0.0), high)
    unseen = evidence.row_censored and evidence.base_censored
    estimate = math.nan if unseen else evidence.estimate
    placed = Placed(evidence.n, estimate, low, high, evidence.p, "open")
    return Timed(_ratios(placed, share), False)


def region_of_times(condition: ReproducedIf, goal: Goal = "maximize") -> Region:
    """What counts as reproduced, as the log ratio of times: more recall is sooner.

    Of a metric to be minimized less of it is sooner. A margin of the level becomes the factor
    within which two times are called equivalent.
    """

    def bound(level: float) -> float:
        return -math.copysign(math.log(MARGIN), level) if level else 0.0

    if condition.within is not None:
        return Region(-math.log(MARGIN), math.log(MARGIN))
    above, below = condition.above, condition.below
    if goal == "minimize":
        above, below = (None if one is None else -one for one in (below, above))
    if above is not None:
        return Region(high=bound(above))
    assert below is not None
    return Region(low=bound(below))


def words_of_times(condition: ReproducedIf, goal: Goal = "maximize") -> str:
    """The same for readers."""
    region = region_of_times(condition, goal)
    low, high = (math.exp(end) for end in (region.low, region.high))
    if low == 0:
        return f"< {high:.3g} times the tokens"
    if math.isinf(high):
        return f"> {low:.3g} times the tokens"
    return f"{low:.2f} to {high:.3g} times the tokens"


def first_runs(rows: Rows, seeds: Collection[int]) -> dict[str, dict[int, Run]]:
    """The runs of these seeds."""
    return {
        label: {seed: run for seed, run in own.items() if seed in seeds}
        for label, own in rows.items()
    }


def _ratios(found: Placed, share: float) -> Placed:
    effect, low, high = (_exp(value) for value in (found.effect, found.low, found.high))
    return replace(found, effect=effect, low=low, high=high, p=min(found.p / share, 1.0))


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)  # NaN stays
