"""Variances from few seeds, each steadied by all the others (Smyth 2004).

The variance s_r^2 of row r has d_r = n_r - 1 degrees of freedom. Over the rows the true variances
are taken as drawn from one distribution, sigma_r^2 ~ s_0^2 d_0 / chi^2(d_0), so that

    s_r^2 ~ s_0^2 F(d_r, d_0),   moderated s_r^2 = (d_0 s_0^2 + d_r s_r^2) / (d_0 + d_r),

with d_0 + d_r degrees of freedom. d_0 and s_0^2 are fitted to the mean and the variance of log s^2
over the rows. Source: Smyth 2004 (Stat. Appl. Genet. Mol. Biol. 3:3), equations 3 to 6.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, fdtrc, polygamma

from hymba_lab.stats.power import RESOLUTION

WILD = 1e-4  # of a table's rows, how often chance may set one apart that is like the others
TIMES = 10.0  # the spread of the others, below which a row is noisy, not wild


class Spread(NamedTuple):
    """A variance and its degrees of freedom."""

    variance: float
    freedom: float


def fit_prior(spreads: Sequence[Spread]) -> Spread:
    """Return s_0^2 and d_0: what all rows together say of the variance of one more.

    With e = log s^2 - psi(d / 2) + log(d / 2):  trigamma(d_0 / 2) = var(e) - mean trigamma(d / 2),
    log s_0^2 = mean(e) + psi(d_0 / 2) - log(d_0 / 2). Where the rows differ by no more than chance
    d_0 is infinite and s_0^2 the pooled variance; of a single row d_0 is 0. Variances are positive.
    """
    variance = np.array([one.variance for one in spreads])
    half = np.array([one.freedom for one in spreads]) / 2
    pooled = float((variance * half).sum() / half.sum())
    if len(spreads) < 2:
        return Spread(pooled, 0.0)
    e = np.log(variance) - digamma(half) + np.log(half)
    surplus = float(e.var(ddof=1) - polygamma(1, half).mean())
    if surplus <= 0:
        return Spread(pooled, math.inf)
    half_0 = trigamma_inverse(surplus)
    log_variance = float(e.mean() + digamma(half_0) - math.log(half_0))
    return Spread(math.exp(log_variance), 2 * half_0)


def trigamma_inverse(y: float) -> float:
    """Return x > 0 with trigamma(x) = y > 0, by Newton's method on 1 / trigamma.

    1 / trigamma is convex and nearly linear, so the iteration from 1/2 + 1/y only rises.
    """
    x = 0.5 + 1 / y
    for _ in range(60):
        value = float(polygamma(1, x))
        step = value * (1 - value / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-12 * x:
            break
    return x


def moderate(rows: Sequence[Spread], others: Sequence[Spread] = ()) -> list[Spread]:
    """Return the variances of a table's rows, steadied by each other and by `others` of the scale.

    Smyth's estimate, made safer for rows that are not alike in three ways (plain, it calls one
    table of null rows in ten different where spreads differ; see the tests):

    - never below the table's pooled variance, so that no row is decided by a luckily small one;
    - a row noisier than the others is drawn at most half-way towards them (d_0 counts as d_r);
    - never more degrees of freedom than all spreads together have.

    A variance of 0 is one that was not seen: it says nothing of the others and is drawn to them.
    All zero: all stay zero. A `wild` row keeps its own, and says nothing of the others.
    """
    apart = wild(rows)
    own = [one for one, far in zip(rows, apart, strict=True) if not far and _known(one)]
    seen = [*own, *filter(_known, others)]
    if not seen:
        return [Spread(0.0, one.freedom) for one in rows]
    prior = fit_prior(seen)
    most = sum(one.freedom for one in seen)
    least = 0.0
    if own:
        least = sum(one.variance * one.freedom for one in own) / sum(one.freedom for one in own)
    return [
        one if far else _steadied(one, prior, least, most)
        for one, far in zip(rows, apart, strict=True)
    ]


def wild(rows: Sequence[Spread]) -> list[bool]:
    """Which rows are so much noisier than all others that these are not judged by their noise.

    One that diverged is, whose values lie orders of magnitude apart: its spread is at least `TIMES`
    that of the calmer rows together, and an F test at `WILD` over the table's rows says that this
    is no chance. Of two rows none is.
    """
    known = sorted((n for n, one in enumerate(rows) if _known(one)), key=lambda n: rows[n].variance)
    found = [False] * len(rows)
    for place in range(len(known) - 1, 1, -1):
        calmer = [rows[n] for n in known[:place]]
        freedom = sum(one.freedom for one in calmer)
        pooled = sum(one.variance * one.freedom for one in calmer) / freedom
        loudest = rows[known[place]]
        ratio = loudest.variance / pooled
        p = float(fdtrc(loudest.freedom, freedom, ratio))
        if ratio < TIMES**2 or p * len(known) > WILD:
            break
        found[known[place]] = True
    return found


def _known(one: Spread) -> bool:
    return one.variance > 0 and one.freedom > 0


def _steadied(own: Spread, prior: Spread, least: float, most: float) -> Spread:
    freedom = min(prior.freedom + own.freedom, most)
    if not freedom:
        return Spread(max(own.variance, prior.variance, least), most)
    weight = 1.0 if math.isinf(prior.freedom) else prior.freedom / (prior.freedom + own.freedom)
    variance = weight * prior.variance + (1 - weight) * own.variance
    if own.variance > variance:
        variance = max(variance, (variance + own.variance) / 2)
    return Spread(max(variance, least), freedom)


def typical(spreads: Sequence[Spread]) -> Spread:
    """Return the variance of one more row, of which nothing was seen, by those of others.

    Never below their pooled one, as of a row that was seen; as many degrees of freedom as rows that
    differ in noise tell of one more: the prior's, and at most all of theirs. 0 where none is seen.
    """
    seen_ones = [one for one in spreads if _known(one)]
    if not seen_ones:
        return Spread(0.0, 0.0)
    prior = fit_prior(seen_ones)
    most = sum(one.freedom for one in seen_ones)
    pooled = sum(one.variance * one.freedom for one in seen_ones) / most
    return Spread(max(prior.variance, pooled), min(prior.freedom, most) or most)


def seen(spread: Spread, values: Iterable[float]) -> Spread:
    """A spread below the resolution of float32 is none."""
    largest = max(map(abs, values), default=0.0)
    return spread if math.sqrt(spread.variance) > RESOLUTION * largest else Spread(0.0, spread[1])


def spread_of(values: Sequence[float]) -> Spread:
    """Return the variance of a row's values; 0 with no degrees of freedom below two of them."""
    n = len(values)
    return Spread(float(np.var(values, ddof=1)), n - 1.0) if n > 1 else Spread(0.0, 0.0)
