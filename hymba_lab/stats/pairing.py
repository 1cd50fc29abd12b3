"""Whether rows are compared seed by seed: only where their seeds go up and down together enough.

A difference of two rows at the same seed has variance 2 sigma^2 (1 - rho), but half the degrees of
freedom. The rule is named before anybody looks at an effect: pair where rho is surely (lower end of
its 95 % interval) above the correlation from which a paired t-interval is the shorter one,

    rho*(n) = 1 - (t(2n - 2) / t(n - 1))^2,   0.58 at 3 seeds, 0.25 at 6, 0.11 at 12.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

from hymba_lab.stats.power import RESOLUTION


class Pairing(NamedTuple):
    """What the rule found: `paired`, the correlation of seeds between rows and its lower end.

    `correlation` is NaN where rows do not share all seeds, or there is nothing to correlate.
    """

    paired: bool
    correlation: float
    low: float
    needed: float
    n: int

    def __str__(self) -> str:
        how = "compared seed by seed" if self.paired else "compared as independent groups"
        if math.isnan(self.correlation):
            why = "their seeds are not the same, too few, or show no noise beside what rows share"
            return f"Rows are {how}: {why}."
        return (
            f"Rows are {how}: seeds correlate {self.correlation:.2f} between rows (surely above "
            f"{self.low:.2f}), and pairing pays above {self.needed:.2f} at {self.n} seeds."
        )


def correlation_needed(n: int) -> float:
    """Return rho*(n), from which pairing n seeds pays; 1 below two seeds."""
    if n < 2:
        return 1.0
    return 1 - float(stdtrit(2 * n - 2, 0.975) / stdtrit(n - 1, 0.975)) ** 2


def choose_pairing(rows: Mapping[str, Mapping[int, float]]) -> Pairing:
    """Apply the rule to a table of finite values.

    Rows that lack a seed are never paired, nor rows whose differences show no spread.

    With the mean squares of seeds and of the residual in the layout of R rows by n seeds,
    F = MS_seed / MS_residual and f = F / F(0.95; n - 1, (R - 1)(n - 1)):
    rho = (F - 1) / (F + R - 1), its lower end (f - 1) / (f + R - 1). Source: Shrout and Fleiss 1979
    (Psychol. Bull. 86:420), case ICC(3, 1).
    """
    seeds = [tuple(row) for row in rows.values()]
    n = len(seeds[0]) if seeds else 0
    needed = correlation_needed(n)
    if len(rows) < 2 or n < 3 or any(own != seeds[0] for own in seeds):
        return Pairing(False, math.nan, math.nan, needed, n)
    y = np.array([list(row.values()) for row in rows.values()])
    of_seeds = y.shape[0] * float(y.mean(axis=0).var(ddof=1))
    residual = float((residuals(y) ** 2).sum()) / ((y.shape[0] - 1) * (n - 1))
    if math.sqrt(residual) <= RESOLUTION * float(np.abs(y).max()):
        return Pairing(False, math.nan, math.nan, needed, n)
    low = of_seeds / residual / float(fdtri(n - 1, (y.shape[0] - 1) * (n - 1), 0.95))
    low = (low - 1) / (low + y.shape[0] - 1)
    correlation = (of_seeds - residual) / (of_seeds + (y.shape[0] - 1) * residual)
    return Pairing(low > needed, correlation, low, needed, n)


def residuals(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (rows, seeds) values without the means of their row and of their seed."""
    centred: NDArray[np.float64] = y - y.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    return centred
