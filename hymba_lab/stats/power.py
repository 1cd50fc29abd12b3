"""What a planned comparison can detect, before anything is trained."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtrit

from hymba_lab.errors import UserError

# Metrics are computed in float32: values that differ by less than its resolution do not differ.
RESOLUTION = float(np.finfo(np.float32).eps)


def critical_t(alpha: float, n: int) -> float:
    """The |t| that n values exceed with probability alpha when there is no effect."""
    return float(-stdtrit(n - 1, alpha / 2))


def measured(row: Mapping[int, float]) -> dict[int, float]:
    """The values that were measured: what is not finite counts as missing, never as a number.

    In the order of the seeds: sums, and so the last digit, do not depend on who finished first.
    """
    return {seed: float(row[seed]) for seed in sorted(row) if math.isfinite(row[seed])}


def detectable_effect(
    sd_of_differences: float,
    n_seeds: int,
    n_rows: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Smallest true effect that `compare` detects in one given row with probability `power`.

    The d with P(|t'| > t(1 - alpha / (2 n_rows), n - 1)) = power, t' being noncentral t with n - 1
    degrees of freedom and shift d sqrt(n) / sd. `n_rows` counts the rows compared, the baseline not
    among them; Holm's first, strictest step is assumed. Infinite below 2 seeds.
    At the default power, an effect twice as large is found at least 95 % of the time.
    """
    if n_rows < 1 or sd_of_differences < 0 or not 0 < alpha < power < 1:
        raise UserError(
            f"detectable effect with {n_rows} rows, sd {sd_of_differences}, alpha {alpha}, power "
            f"{power}: needs a row besides the baseline, sd >= 0 and 0 < alpha < power < 1."
        )
    if n_seeds < 2:
        return math.inf
    shift = _detected_shift(n_seeds - 1, critical_t(alpha / n_rows, n_seeds), power)
    return sd_of_differences * shift / math.sqrt(n_seeds)


def _detected_shift(freedom: int, critical: float, power: float) -> float:
    """The shift at which |noncentral t| exceeds `critical` with probability `power`.

    By definition t' = (Z + shift) / s with s**2 = chi2 / freedom: averaged over the quantiles of s,
    because library routines for noncentral t fail at the large shifts that three seeds need.
    """
    quantiles = (np.arange(4000) + 0.5) / 4000
    thresholds = critical * np.sqrt(chdtri(freedom, quantiles) / freedom)

    def surplus(shift: float) -> float:
        found = ndtr(shift - thresholds) + ndtr(-shift - thresholds)
        return float(found.mean()) - power

    return float(brentq(surplus, 0.0, thresholds.max() + 10.0))


def detectable_in_sd(
    n_seeds: int, n_rows: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """`detectable_effect` in units of the paired difference's standard deviation."""
    return detectable_effect(1.0, n_seeds, n_rows, alpha=alpha, power=power)


def showable_margin(
    sd_of_differences: float,
    n_seeds: int,
    n_rows: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Smallest margin within which `compare` shows a row without any effect with that `power`.

    The X with P(|mean| + t(1 - alpha / n_rows, n - 1) sd / sqrt(n) < X) = power at a true effect
    of 0: both one-sided tests at Holm's first, strictest step. Infinite below 2 seeds.
    """
    if n_seeds < 2:
        return math.inf
    critical = critical_t(2 * alpha / n_rows, n_seeds)
    quantiles = (np.arange(4000) + 0.5) / 4000
    widths = critical * np.sqrt(chdtri(n_seeds - 1, quantiles) / (n_seeds - 1))

    def surplus(x: float) -> float:
        inside = np.clip(2 * ndtr(x - widths) - 1, 0, None)
        return float(inside.mean()) - power

    return sd_of_differences * float(brentq(surplus, 0.0, widths.max() + 10.0)) / math.sqrt(n_seeds)


def paired_sd(values: Mapping[str, Mapping[int, float]], baseline: str | None = None) -> float:
    """Standard deviation of a paired difference, as far as finished runs tell; NaN if they do not.

    With a baseline and rows that share two or more seeds: pooled over those rows' differences.
    Otherwise sqrt(2) times the pooled spread of the single rows, as if pairing gained nothing.
    A spread of 0 is one that was not seen: NaN.
    """
    rows = {label: measured(row) for label, row in values.items()}
    base = rows.get(baseline, {}) if baseline is not None else {}
    differences = [
        [row[seed] - base[seed] for seed in row if seed in base]
        for label, row in rows.items()
        if label != baseline
    ]
    spread = _pooled_sd(differences)
    if math.isnan(spread):
        spread = math.sqrt(2) * _pooled_sd([list(row.values()) for row in rows.values()])
    return spread


def _pooled_sd(groups: Iterable[Sequence[float]]) -> float:
    usable = [np.asarray(group) for group in groups if len(group) >= 2]
    if all(np.ptp(group) <= RESOLUTION * np.abs(group).max() for group in usable):
        return math.nan
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in usable)
    return math.sqrt(squares / sum(len(group) - 1 for group in usable))
