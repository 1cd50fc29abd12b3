"""Where an effect lies: surely inside a region of values, surely outside, or neither."""

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr

from hymba_lab.stats.evidence import Evidence

Place = Literal["inside", "open", "outside"]


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

    `p` is two-sided against the region's nearest end.
    """

    n: int
    effect: float
    low: float
    high: float
    p: float
    place: Place


def place(found: Evidence, region: Region, *, alpha: float = 0.05) -> Placed:
    """Place an effect against a region by its interval at 1 - alpha.

    Inside or outside is what the interval shows; each is wrong with probability alpha / 2 at most.
    """
    if found.spread != "seen":
        return Placed(found.n, found.effect, math.nan, math.nan, math.nan, "open")
    half = found.half_width(alpha)
    low, high = found.effect - half, found.effect + half
    end = min((region.low, region.high), key=lambda end: abs(found.effect - end))
    p = min(1.0, 2 * float(stdtr(found.freedom, -abs(found.effect - end) / found.error)))
    where: Place = "open"
    if region.low < low and high < region.high:
        where = "inside"
    elif high <= region.low or low >= region.high:
        where = "outside"
    return Placed(found.n, found.effect, low, high, p, where)
