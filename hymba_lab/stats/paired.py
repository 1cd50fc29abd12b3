"""Differences that belong together, seed by seed: one sample, one t-test."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from hymba_lab.stats.evidence import Evidence, without_spread
from hymba_lab.stats.power import LEAST_SEEDS, RESOLUTION


def paired(differences: NDArray[np.float64], largest: float, share: float = 1.0) -> Evidence:
    """Return the evidence of differences of numbers that are at most `largest` in size.

    Differences without spread carry no t-test: all zero give p = 1, all equal and not zero the
    exact sign-flip test's p = 2 ** (1 - n).
    """
    n = len(differences)
    effect = float(differences.mean()) if n else math.nan
    if n < LEAST_SEEDS:
        return Evidence(n, effect, math.nan, math.nan, math.nan, "too few", share)
    sd = float(differences.std(ddof=1))
    if sd <= RESOLUTION * largest:
        return without_spread(n, n - 1.0, effect, largest, share, 2.0 ** (1 - n))
    error = sd / math.sqrt(n)
    p = 2 * float(stdtr(n - 1, -abs(effect) / error))
    return Evidence(n, effect, error, n - 1.0, p, "seen", share)
