"""What values say of one effect by themselves, before any correction: error, p-value, interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import comb, stdtr, stdtrit

from hymba_lab.stats.moderated import Spread, moderate, seen, spread_of, wild
from hymba_lab.stats.pairing import Pairing, choose_pairing, residuals
from hymba_lab.stats.power import LEAST_SEEDS, RESOLUTION

LEAST_ROWS = 4  # fewer cannot show whether this table is as noisy as the others of its scale


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int


class Evidence(NamedTuple):
    """What the runs say of one effect; `share` is the part of alpha that may be spent on it.

    `p` is two-sided, against an effect of 0. Where no row of the table shows a spread there is no
    t-test: all equal give p = 1, otherwise the exact permutation test's p, and the standard error
    that a t-test with this p would have.
    """

    n: int
    effect: float
    error: float  # standard error of the effect
    freedom: float
    p: float
    spread: Literal["seen", "unseen", "too few"]
    share: float = 1.0
    least_p: float = math.nan  # without spread: the smallest p that the exact test can give

    @property
    def p_spent(self) -> float:
        """The p-value as if all of alpha were spent on it."""
        return self.p / self.share

    def p_within(self, margin: float) -> float:
        """The p-value of "the effect lies within -+ margin", as if all of alpha were spent on it.

        Two one-sided t-tests (TOST): the larger of the p-values against effect <= -margin and
        effect >= margin; without spread half the exact test's.
        Source: Schuirmann 1987 (J. Pharmacokinet. Biopharm. 15:657).
        """
        if self.spread == "too few":
            return math.nan
        if self.spread == "unseen":
            p = self.least_p / 2 if abs(self.effect) < margin else 1.0
        else:
            p = float(stdtr(self.freedom, (abs(self.effect) - margin) / self.error))
        return p / self.share

    def half_width(self, alpha: float) -> float:
        """Half the interval of the effect at 1 - alpha, of which `share` is spent here."""
        return -float(stdtrit(self.freedom, alpha * self.share / 2)) * self.error


def against(
    rows: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    others: Sequence[Spread] = (),
    share: float = 1.0,
) -> tuple[dict[str, Evidence], Pairing]:
    """Return every row's evidence against the baseline, and how rows were compared.

    effect_r = mean(row r) - mean(baseline),  error_r^2 = v_r / n_r + v_0 / n_0,

    with the moderated variances v (`moderated`) and Satterthwaite's degrees of freedom. `rows`
    holds finite values, none for a row without runs; `others` are variances of further rows of the
    same scale, used where the table has four rows itself. Paired (`pairing`), the variances are
    those of the residuals of the layout rows by seeds, with (n - 1)(R - 1)/R degrees of freedom a
    row: of two rows this is the paired t-test.
    """
    ran = {label: row for label, row in rows.items() if row}
    pairing = choose_pairing(ran)
    spreads = _residual_spreads(ran) if pairing.paired else _spreads(ran)
    pooled = [
        0.0 if far or not one.variance else one.freedom
        for one, far in zip(spreads, wild(spreads), strict=True)
    ]
    n_noisy = sum(freedom > 0 for freedom in pooled)
    further = others if n_noisy >= LEAST_ROWS and not pairing.paired else ()
    table = {
        label: Row(list(row.values()), own, steady, freedom)
        for (label, row), own, steady, freedom in zip(
            ran.items(), spreads, moderate(spreads, further), pooled, strict=True
        )
    }
    none = Row([], Spread(0.0, 0.0), Spread(0.0, 0.0), 0.0)
    total = sum(pooled) + sum(one.freedom for one in further if one.variance > 0)
    return {
        label: _evidence(table.get(label, none), table.get(baseline, none), total, share)
        for label in rows
        if label != baseline
    }, pairing


class Row(NamedTuple):
    """One row's values, their variance, their moderated variance, and the freedom it gives all."""

    values: Sequence[float]
    own: Spread
    steady: Spread
    pooled: float


def _evidence(row: Row, base: Row, total: float, share: float) -> Evidence:
    n, n_base = len(row.values), len(base.values)
    if not n or not n_base:
        return Evidence(n, math.nan, math.nan, math.nan, math.nan, "too few", share)
    effect = math.fsum(row.values) / n - math.fsum(base.values) / n_base
    if min(n, n_base) < LEAST_SEEDS:
        return Evidence(n, effect, math.nan, math.nan, math.nan, "too few", share)
    largest = max(map(abs, (*row.values, *base.values)))
    error = math.sqrt(row.steady.variance / n + base.steady.variance / n_base)
    if error <= RESOLUTION * largest:
        least_p = min(1.0, 2 / float(comb(n + n_base, n)))  # groups that do not overlap
        return without_spread(n, n + n_base - 2.0, effect, largest, share, least_p)
    freedom = min(
        _satterthwaite((row.steady, n), (base.steady, n_base)),
        # The two rows' own freedom (Welch's) and that of all others: no prior knows more.
        _satterthwaite((row.own, n), (base.own, n_base)) + total - row.pooled - base.pooled,
    )
    p = 2 * float(stdtr(freedom, -abs(effect) / error))
    return Evidence(n, effect, error, freedom, p, "seen", share)


def _satterthwaite(*sides: tuple[Spread, int]) -> float:
    """The degrees of freedom of v_1 / n_1 + v_2 / n_2; 0 where both are 0."""
    parts = [(one.variance / n, one.freedom) for one, n in sides if one.variance > 0]
    largest = max((part for part, _ in parts), default=1.0)  # squares of tiny ones underflow
    shares = [(part / largest, freedom) for part, freedom in parts]
    below = sum(share**2 / freedom for share, freedom in shares)
    return sum(share for share, _ in shares) ** 2 / below if below else 0.0


def without_spread(
    n: int, freedom: float, effect: float, largest: float, share: float, least_p: float
) -> Evidence:
    """The evidence of values among which no spread was seen, at most `largest` in size."""
    if abs(effect) <= RESOLUTION * largest:
        return Evidence(n, 0.0, 0.0, freedom, 1.0, "unseen", share, least_p)
    error = -abs(effect) / float(stdtrit(freedom, least_p / 2))
    return Evidence(n, effect, error, freedom, least_p, "unseen", share, least_p)


def _spreads(rows: Mapping[str, Mapping[int, float]]) -> list[Spread]:
    return [seen(spread_of(list(row.values())), row.values()) for row in rows.values()]


def _residual_spreads(rows: Mapping[str, Mapping[int, float]]) -> list[Spread]:
    y = np.array([list(row.values()) for row in rows.values()])
    freedom = (y.shape[1] - 1) * (1 - 1 / y.shape[0])
    squares = (residuals(y) ** 2).sum(axis=1)
    return [
        seen(Spread(float(square) / freedom, freedom), row)
        for square, row in zip(squares, y, strict=True)
    ]


def mean_interval(values: Iterable[float], *, alpha: float = 0.05) -> Interval:
    """mean -+ t(1 - alpha/2, n - 1) sd / sqrt(n) over the finite values, on its own (uncorrected).

    Equal values give a width of 0: their spread was not seen, which is not to say there is none.
    The ends of a fraction may leave 0..1, where a table cuts them.
    """
    found = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    margin = -float(stdtrit(n - 1, alpha / 2)) * float(found.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - margin, mean + margin, n)
