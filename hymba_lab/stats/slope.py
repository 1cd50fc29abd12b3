"""How an effect changes with scale: its slope over the logarithm of the size, with an interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from hymba_lab.stats.holm import step_down
from hymba_lab.stats.power import RESOLUTION


@dataclass(frozen=True)
class Slope:
    """The change of an effect per tenfold size; `freedom` are Satterthwaite's degrees.

    `p` is two-sided against no change, `p_holm` and `detected` are Holm's over the rows judged
    together, `low` and `high` the simultaneous interval. Numbers are NaN where fewer than two sizes
    have two seeds or more; all but the slope also where no spread was seen.
    """

    label: str
    sizes: tuple[float, ...]
    slope: float
    low: float
    high: float
    freedom: float
    p: float
    p_holm: float
    detected: bool


def slopes(
    effects: Mapping[str, Mapping[float, Sequence[float]]], *, alpha: float = 0.05
) -> list[Slope]:
    """The slope of every row; `effects` is {row: {size: paired differences by seed}}.

    b = sum_s c_s mean(d_s),  c_s = (x_s - mean x) / sum_s (x_s - mean x) ** 2,  x_s = log10(size);
    var(b) = sum_s c_s ** 2 var(d_s) / n_s,  with Satterthwaite's degrees of freedom.

    Least squares without weights: variances estimated from three seeds are no weights. With two
    sizes this is Welch's t-test. A straight line is assumed, not shown, and seeds of different
    sizes are taken as independent. Source: Satterthwaite 1946 (Biometrics Bull. 2:110).
    """
    fits = [_fit(by_size) for by_size in effects.values()]
    decisions = step_down(fits, alpha)
    return [
        Slope(
            label, fit.sizes, fit.effect, *decision.interval(fit.effect), fit.freedom,
            fit.p_spent, decision.p_holm, decision.rejected,
        )
        for label, fit, decision in zip(effects, fits, decisions, strict=True)
    ]  # fmt: skip


class _Fit(NamedTuple):
    """A slope (`effect`) before any correction."""

    sizes: tuple[float, ...]
    effect: float
    error: float
    freedom: float
    p_spent: float

    def half_width(self, alpha: float) -> float:
        return float(stdtrit(self.freedom, 1 - alpha / 2)) * self.error


def _fit(by_size: Mapping[float, Sequence[float]]) -> _Fit:
    groups = {
        size: np.array([d for d in differences if math.isfinite(d)])
        for size, differences in sorted(by_size.items())
    }
    groups = {size: differences for size, differences in groups.items() if len(differences) > 1}
    sizes, seen = tuple(groups), list(groups.values())
    if len(sizes) < 2:
        return _Fit(sizes, math.nan, math.nan, math.nan, math.nan)
    x = np.log10(sizes)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slope = float(sum(w * d.mean() for w, d in zip(weights, seen, strict=True)))
    parts = np.array([w**2 * d.var(ddof=1) / len(d) for w, d in zip(weights, seen, strict=True)])
    largest = max(float(np.abs(d).max()) for d in seen)
    if math.sqrt(parts.sum()) <= RESOLUTION * largest * float(np.abs(weights).max()):
        return _Fit(sizes, slope, math.nan, math.nan, math.nan)
    error = math.sqrt(parts.sum())
    degrees = np.array([len(d) - 1 for d in seen])
    freedom = float(parts.sum() ** 2 / (parts**2 / degrees).sum())
    return _Fit(sizes, slope, error, freedom, 2 * float(stdtr(freedom, -abs(slope) / error)))
