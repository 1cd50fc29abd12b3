"""Numbers as readers see them: with the digits that their interval supports.

What was not measured is an em dash, never 0.
"""

import math

from hymba_lab.stats.times import rounded_down

MISSING = "—"
SHARES = ("acc", "acc_norm", "exact_match", "contains")
"""The harness's metrics that are a share of right answers, as the last part of a name."""
GUESS = "guess"
"""The share of them that needs no reading, `eval/<task>/guess`."""
_MOST_DECIMALS = 6
_NO_DIGITS = 1e15  # from here on a number is written with its power of ten


def ratio_estimate(value: float, low: float, high: float) -> str:
    """`1.32 [1.10, 1.58]`; an open end is told as a bound: "> 1.24", and NaN as an em dash."""
    if math.isinf(high) and low > 0:
        return f"> {rounded_down(low)}"
    if low == 0 and not math.isinf(high) and not math.isnan(high):
        return f"< {math.ceil(high * 100) / 100:.2f}"
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return number(value, 2)
    return estimate(value, low, high)


def limits_of(metric: str) -> tuple[float, float]:
    """The least and the largest value of a metric: an accuracy and its area are fractions.

    So are the harness's shares of right answers, `eval/<task>/acc` and its like.
    """
    last = metric.rpartition("/")[2]
    return (0.0, 1.0) if "accurac" in metric or last in (*SHARES, GUESS) else (-math.inf, math.inf)


def estimate(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """`value [low, high]` to two digits of the half-width: "0.512 [0.497, 0.527]".

    Signed ends keep digits until none of them is rounded to 0: the reader sees which side of 0
    an interval is on, as the verdict says.
    """
    if math.isnan(low) or math.isnan(high):
        return number(value, 3, signed=signed)
    decimals = decimals_of(low, high)
    while signed and decimals < _MOST_DECIMALS and _hides_sign(low, high, decimals):
        decimals += 1
    if signed and _hides_sign(low, high, decimals):
        return f"{value:+.1e} [{low:+.1e}, {high:+.1e}]"
    ends = (number(end, decimals, signed=signed) for end in (low, high))
    return f"{number(value, decimals, signed=signed)} [{', '.join(ends)}]"


def _hides_sign(low: float, high: float, decimals: int) -> bool:
    return any(end != 0 and round(end, decimals) == 0 for end in (low, high))


def decimals_of(low: float, high: float) -> int:
    """Return the decimals that show two digits of an interval's half-width."""
    half_width = (high - low) / 2
    if not 0 < half_width < math.inf:
        return 3
    return min(max(1 - math.floor(math.log10(half_width)), 0), _MOST_DECIMALS)


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """`value` with thousands separators; an em dash for NaN; no negative zero."""
    if math.isnan(value):
        return MISSING
    rounded = round(value, decimals) + 0.0
    if abs(rounded) >= _NO_DIGITS:
        return f"{value:{'+' if signed else ''}.3g}"
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def significant(value: float) -> str:
    """`value` to three significant digits."""
    if math.isnan(value) or value == 0:
        return number(value, 0)
    return number(value, min(max(2 - math.floor(math.log10(abs(value))), 0), _MOST_DECIMALS))


def as_given(value: float) -> str:
    """`value` with the digits that it was given with."""
    return MISSING if math.isnan(value) else f"{value:,.10g}"
