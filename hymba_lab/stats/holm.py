"""Holm's procedure: many effects judged together, every false claim with probability alpha at most.

With m tests, the k-th smallest p-value (k = 0, 1, ...) is held against alpha / (m - k), and the
first failure ends it. Source: Holm 1979 (Scand. J. Statist. 6:65).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Effect(Protocol):
    """What is judged: an effect with a p-value (NaN: no test) and an interval for every alpha."""

    @property
    def effect(self) -> float:
        """The estimate."""

    @property
    def p_spent(self) -> float:
        """The p-value as if all of alpha were spent on it."""

    def half_width(self, alpha: float) -> float:
        """Half the interval at 1 - alpha; below |effect| just where p_spent < alpha."""


class Decision(NamedTuple):
    """What Holm's procedure says of one effect, and half of its Bonferroni interval."""

    p_holm: float
    half_width: float
    rejected: bool

    def interval(self, effect: float) -> tuple[float, float]:
        """The interval, ended at 0 on the near side where Holm alone tells the sign."""
        low, high = effect - self.half_width, effect + self.half_width
        if self.rejected and effect > 0:
            return max(low, 0.0), high
        return low, min(high, 0.0) if self.rejected else high


def holm_p(p_values: Sequence[float], n_tests: int | None = None) -> list[float]:
    """The p-values times what is left to test; reject where <= alpha. NaN is no test.

    `n_tests` counts the tests of the family where more were planned than have a p-value.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    left, largest, found = n_tests or len(order), 0.0, [math.nan] * len(p_values)
    for step, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (left - step) * p))
        found[i] = largest
    return found


def step_down(
    found: Sequence[Effect],
    alpha: float,
    n_tests: int | None = None,
    n_intervals: int | None = None,
) -> list[Decision]:
    """Holm over the effects, with intervals; one without a test is not of the family.

    There are two guarantees, each with 1 - alpha: no verdict of the table is false, and all
    intervals hold, each being Bonferroni's at 1 - alpha / m. Holm detects more than Bonferroni:
    such an interval goes to 0 and no further, since the sign is told and not how far from 0. That
    closed end keeps both guarantees; an open one, or Holm's own narrower interval, would spend
    alpha twice where most effects are real. Source: Guilbaud 2008 (Biom. J. 50:678), who has no
    closer end for it either. `n_intervals` counts intervals where some belong to no test.
    """
    decisions = [Decision(math.nan, math.nan, False)] * len(found)
    tested = [i for i, one in enumerate(found) if not math.isnan(one.p_spent)]
    total = n_tests or len(tested)
    p_holm = holm_p([one.p_spent for one in found], total)
    rejecting = True
    for step, i in enumerate(sorted(tested, key=lambda i: found[i].p_spent)):
        size = abs(found[i].effect)
        half_width = found[i].half_width(alpha / max(total, n_intervals or 0))
        rejecting = rejecting and size > found[i].half_width(alpha / (total - step))
        if not rejecting:
            half_width = max(half_width, size)  # larger already, but for the last bit
        decisions[i] = Decision(p_holm[i], half_width, rejecting)
    return decisions
