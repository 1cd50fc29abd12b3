"""How an effect changes with scale: its slope over the logarithm of the size, with an interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from hymba_lab.stats.holm import adjusted


@dataclass(frozen=True)
class Slope:
    """The change of an effect per tenfold size; `freedom` are Satterthwaite's degrees.

    `p` is two-sided against no change, `p_holm` corrected over the rows judged together. All are
    NaN where fewer than two sizes have two seeds or more, or where no spread was seen.
    """

    label: str
    sizes: tuple[float, ...]
    slope: float
    low: float
    high: float
    freedom: float
    p: float
    p_holm: float


def slopes(
    effects: Mapping[str, Mapping[float, Sequence[float]]], *, alpha: float = 0.05
) -> list[Slope]:
    """The slope of every row; `effects` is {row: {size: paired differences by seed}}.

    b = sum_s c_s mean(d_s),  c_s = (x_s - mean x) / sum_s (x_s - mean x) ** 2,  x_s = log10(size);
    var(b) = sum_s c_s ** 2 var(d_s) / n_s,  with Satterthwaite's degrees of freedom.

    Least squares without weights: variances estimated from three seeds are no weights. With two
    sizes this is Welch's t-test. A straight line is assumed, not shown, and seeds of different
    sizes are taken as independent. Intervals are each at 1 - alpha.
    Source: Satterthwaite 1946 (Biometrics Bull. 2:110).
    """
    found = [_slope(label, by_size, alpha) for label, by_size in effects.items()]
    corrected = adjusted([one.p for one in found])
    return [Slope(**{**vars(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


def _slope(label: str, by_size: Mapping[float, Sequence[float]], alpha: float) -> Slope:
    usable = {
        size: np.array([d for d in differences if math.isfinite(d)])
        for size, differences in sorted(by_size.items())
    }
    usable = {size: differences for size, differences in usable.items() if len(differences) > 1}
    sizes, nan = tuple(usable), math.nan
    if len(sizes) < 2:
        return Slope(label, sizes, nan, nan, nan, nan, nan, nan)
    x = np.log10(sizes)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    groups = list(usable.values())
    slope = float(sum(w * d.mean() for w, d in zip(weights, groups, strict=True)))
    parts = np.array([w**2 * d.var(ddof=1) / len(d) for w, d in zip(weights, groups, strict=True)])
    degrees = np.array([len(d) - 1 for d in groups])
    if not parts.sum() > 0:
        return Slope(label, sizes, slope, nan, nan, nan, nan, nan)
    error = math.sqrt(parts.sum())
    freedom = float(parts.sum() ** 2 / (parts**2 / degrees).sum())
    half = float(stdtrit(freedom, 1 - alpha / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(slope) / error))
    return Slope(label, sizes, slope, slope - half, slope + half, freedom, p, nan)
