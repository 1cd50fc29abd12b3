"""What differences say by themselves, before any correction: effect, error, p-value, interval."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from hymba_lab.stats.power import RESOLUTION, critical_t


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int


class Evidence(NamedTuple):
    """What n differences say of one effect; `share` is the part of alpha that may be spent on it.

    `p` is two-sided, against an effect of 0. Differences without spread carry no t-test: all zero
    give p = 1; all equal and not zero give the exact sign-flip test's p = 2 ** (1 - n) and the
    standard error that a t-test with this p would have.
    """

    n: int
    effect: float
    error: float  # standard error of the effect
    p: float
    spread: Literal["seen", "unseen", "too few"]
    share: float = 1.0

    @property
    def p_spent(self) -> float:
        """The p-value as if all of alpha were spent on it."""
        return self.p / self.share

    def p_within(self, margin: float) -> float:
        """The p-value of "the effect lies within -+ margin": two one-sided t-tests (TOST).

        The larger of the p-values against effect <= -margin and effect >= margin. Without spread
        it is that of the one-sided sign-flip test, 2 ** -n.
        Source: Schuirmann 1987 (J. Pharmacokinet. Biopharm. 15:657).
        """
        if self.spread == "too few":
            return math.nan
        if self.spread == "unseen":
            return 2.0**-self.n if abs(self.effect) < margin else 1.0
        return float(stdtr(self.n - 1, (abs(self.effect) - margin) / self.error))

    def half_width(self, alpha: float) -> float:
        """Half the interval of the effect at 1 - alpha, of which `share` is spent here."""
        return critical_t(alpha * self.share, self.n) * self.error


def evidence(differences: NDArray[np.float64], largest: float, share: float = 1.0) -> Evidence:
    """The evidence of differences of numbers that are at most `largest` in size."""
    n = len(differences)
    effect = float(differences.mean()) if n else math.nan
    if n < 2:
        return Evidence(n, effect, math.nan, math.nan, "too few", share)
    smallest = RESOLUTION * largest
    if np.abs(differences).max() <= smallest:
        return Evidence(n, 0.0, 0.0, 1.0, "unseen", share)
    sd = float(differences.std(ddof=1))
    if sd <= smallest:
        p = 2.0 ** (1 - n)
        return Evidence(n, effect, abs(effect) / critical_t(p, n), p, "unseen", share)
    error = sd / math.sqrt(n)
    p = 2 * float(stdtr(n - 1, -abs(effect) / error))
    return Evidence(n, effect, error, p, "seen", share)


def paired(row: Mapping[int, float], base: Mapping[int, float], share: float = 1.0) -> Evidence:
    """The evidence of row minus base over the seeds that both have; values are finite."""
    shared = [seed for seed in row if seed in base]
    differences = np.array([row[seed] - base[seed] for seed in shared])
    largest = max((max(abs(row[seed]), abs(base[seed])) for seed in shared), default=0.0)
    return evidence(differences, largest, share)


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
