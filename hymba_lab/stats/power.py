"""What a planned comparison can detect, and how many seeds it would take."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from hymba_lab.errors import UserError

# Metrics are computed in float32: values that differ by less than its resolution do not differ.
RESOLUTION = float(np.finfo(np.float32).eps)
LEAST_SEEDS = 3  # two runs that happen to be alike show no spread worth the name
MOST_SEEDS = 1000  # a plan for more is no plan
_QUANTILES = (np.arange(2000) + 0.5) / 2000


def measured(row: Mapping[int, float]) -> dict[int, float]:
    """The values that were measured: what is not finite counts as missing, never as a number.

    In the order of the seeds: sums, and so the last digit, do not depend on who finished first.
    """
    return {seed: float(row[seed]) for seed in sorted(row) if math.isfinite(row[seed])}


def detectable_effect(
    sd: float, n_seeds: int, n_rows: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true effect that `compare` detects in one given row with probability `power`.

    `sd` is that of single runs, alike in all rows. The d with

        P(|t'| > t(1 - alpha / (2 n_rows), f)) = power,   f = (n_rows + 1)(n_seeds - 1),

    t' being noncentral t with shift d sqrt(n / 2) / sd. `n_rows` counts the rows compared, the
    baseline not among them; Holm's first, strictest step is assumed. Infinite below three
    seeds, which have no verdict.

    Raises UserError where there is nothing to compare or `sd` is negative.
    """
    if n_rows < 1 or not sd >= 0:
        raise UserError(
            f"a comparison needs a row besides the baseline and a spread of at least 0; "
            f"given {n_rows} rows and {sd:g}."
        )
    if n_seeds < LEAST_SEEDS:
        return math.inf
    freedom = (n_rows + 1.0) * (n_seeds - 1)
    critical = -float(stdtrit(freedom, alpha / n_rows / 2))
    return sd * math.sqrt(2 / n_seeds) * _shift_with_power(critical, freedom, power)


def _shift_with_power(critical: float, freedom: float, power: float) -> float:
    """The shift of a noncentral t that leaves -+ critical with probability `power`.

    P = E[Phi(shift - c s) + Phi(-shift - c s)] with s^2 = chi2 / freedom: averaged over the
    quantiles of s, because library routines for noncentral t fail at the large shifts that few
    seeds need.
    """
    thresholds = critical * np.sqrt(chdtri(freedom, _QUANTILES) / freedom)

    def surplus(shift: float) -> float:
        found = ndtr(shift - thresholds) + ndtr(-shift - thresholds)
        return float(found.mean()) - power

    return float(brentq(surplus, 0.0, thresholds.max() + 10.0))


def showable_margin(
    sd: float, n_seeds: int, n_rows: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest margin within which `compare` shows a row without any effect with that `power`.

    The X with P(|effect| + t(1 - alpha / n_rows, f) error < X) = power at a true effect of 0: both
    one-sided tests at Holm's first, strictest step. Infinite below three seeds.
    """
    if n_seeds < LEAST_SEEDS:
        return math.inf
    freedom = (n_rows + 1.0) * (n_seeds - 1)
    critical = -float(stdtrit(freedom, alpha / n_rows))
    widths = critical * np.sqrt(chdtri(freedom, _QUANTILES) / freedom)

    def surplus(x: float) -> float:
        inside = np.clip(2 * ndtr(x - widths) - 1, 0, None)
        return float(inside.mean()) - power

    return sd * math.sqrt(2 / n_seeds) * float(brentq(surplus, 0.0, widths.max() + 10.0))


def seeds_needed(
    error: float, n: int, effect: float, n_rows: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return how many seeds a row would detect `effect`, going by the standard error at n seeds.

    The smallest number n with  sd sqrt(2 / n) (t(1 - alpha / (2 n_rows), f) + t(power, f)) at most
    |effect|, which is `detectable_effect` to a percent or two; infinite above `MOST_SEEDS`.
    """
    sd = error * math.sqrt(n / 2)
    if not (sd > 0 and abs(effect) > 0):
        return math.inf

    def enough(seeds: int) -> bool:
        freedom = (n_rows + 1.0) * (seeds - 1)
        shift = float(stdtrit(freedom, power) - stdtrit(freedom, alpha / n_rows / 2))
        return sd * math.sqrt(2 / seeds) * shift <= abs(effect)

    low, high = LEAST_SEEDS - 1, LEAST_SEEDS
    while not enough(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)


def run_sd(values: Iterable[Mapping[int, float]]) -> float:
    """Standard deviation of a single run, pooled over rows; NaN where no spread was seen."""
    return _pooled_sd([list(measured(row).values()) for row in values])


def _pooled_sd(groups: Iterable[Sequence[float]]) -> float:
    usable = [np.asarray(group) for group in groups if len(group) >= 2]
    if all(np.ptp(group) <= RESOLUTION * np.abs(group).max() for group in usable):
        return math.nan
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in usable)
    return math.sqrt(squares / sum(len(group) - 1 for group in usable))
