"""A slow second way to the verdicts' numbers: quadrature, root finding, scipy's distributions."""

import math

import numpy as np
from scipy import stats
from scipy.optimize import brentq

GRID = np.linspace(-200, 200, 40_001)  # of log F; the trapezoid rule converges exponentially


def log_f_moments(freedom: float, prior: float) -> tuple[float, float]:
    """Mean and variance of log F(freedom, prior), by integrating its density."""
    half, other = freedom / 2, prior / 2
    log_density = half * (GRID + math.log(freedom / prior)) - (half + other) * np.logaddexp(
        0, GRID + math.log(freedom / prior)
    )
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = float((weight * GRID).sum())
    return mean, float((weight * (GRID - mean) ** 2).sum())


def prior(variances: np.ndarray, freedom: float) -> tuple[float, float]:
    """Smyth's s_0^2 and d_0 for rows of equal freedom: match mean and variance of log F."""
    logs = np.log(variances)
    wanted = logs.var(ddof=1)
    if wanted <= log_f_moments(freedom, 1e7)[1]:  # the least that chance alone gives
        return float(variances.mean()), math.inf
    d_0 = brentq(lambda d: log_f_moments(freedom, d)[1] - wanted, 0.05, 1e7, xtol=1e-10)
    return math.exp(logs.mean() - log_f_moments(freedom, d_0)[0]), d_0


def t_tests(rows: np.ndarray, others: np.ndarray | None = None) -> list[tuple[float, float, float]]:
    """(error, freedom, p) of every row of (rows, seeds) against the first, independent groups."""
    n = rows.shape[1]
    own = rows.var(axis=1, ddof=1)
    everyone = own if others is None else np.concatenate([own, others.var(axis=1, ddof=1)])
    s_0, d_0 = prior(everyone, n - 1)
    steady, freedom = [], []
    for variance in own:
        trust = 1.0 if math.isinf(d_0) else d_0 / (d_0 + n - 1)
        moderated = trust * s_0 + (1 - trust) * variance
        if variance > moderated:
            moderated = max(moderated, (moderated + variance) / 2)
        steady.append(max(moderated, own.mean()))
        freedom.append(min(d_0 + n - 1, (n - 1) * len(everyone)))
    found = []
    for i in range(1, len(rows)):
        a, b = steady[i] / n, steady[0] / n
        error = math.sqrt(a + b)
        satterthwaite = (a + b) ** 2 / (a**2 / freedom[i] + b**2 / freedom[0])
        welch = stats.ttest_ind(rows[i], rows[0], equal_var=False).df
        satterthwaite = min(satterthwaite, welch + (n - 1) * (len(everyone) - 2))
        t = (rows[i].mean() - rows[0].mean()) / error
        found.append((error, satterthwaite, 2 * stats.t.sf(abs(t), satterthwaite)))
    return found
