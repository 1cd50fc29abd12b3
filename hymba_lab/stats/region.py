"""Where an effect lies: surely inside a region of values, surely outside, or neither."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hymba_lab.stats.paired import evidence

Place = Literal["inside", "leaning", "open", "outside"]


@dataclass(frozen=True)
class Region:
    """The open interval from low to high; one end may be infinite."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high


@dataclass(frozen=True)
class Placed:
    """One effect against a region: its interval at 1 - alpha (NaN without spread), its place.

    `p` is two-sided against the region's nearest end. `leaning`: not decided, but the difference of
    every seed is inside, which n seeds do by luck with probability 2 ** -n where a step up is as
    likely as a step down.
    """

    n: int
    effect: float
    low: float
    high: float
    p: float
    place: Place


def place(
    row: Sequence[float], base: Sequence[float], region: Region, *, alpha: float = 0.05
) -> Placed:
    """Place row minus base, given in pairs of finite numbers, against a region.

    Inside or outside is what the t-interval of the mean difference (or, without spread, the
    sign-flip test against the nearest end) shows; each is wrong with probability alpha / 2 at most.
    """
    differences = np.asarray(row, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return Placed(0, math.nan, math.nan, math.nan, math.nan, "open")
    effect = float(differences.mean())
    end = min((region.low, region.high), key=lambda end: abs(effect - end))
    largest = max(*map(abs, row), *map(abs, base), 1e-300)
    found = evidence(differences - end, largest)
    inside = all(difference in region for difference in differences)
    if found.spread == "too few":
        return Placed(n, effect, math.nan, math.nan, math.nan, "leaning" if inside else "open")
    half = found.half_width(alpha)
    shown = half if found.spread == "seen" else math.nan
    where: Place = "leaning" if inside else "open"
    if abs(found.effect) > half:
        where = "inside" if effect in region else "outside"
    return Placed(n, effect, effect - shown, effect + shown, found.p, where)
