"""Rounding that keeps a bound a bound."""

import math
from decimal import ROUND_CEILING, Decimal


def round_up(value: float) -> str:
    """`value` with two significant digits, never smaller than it is: 0.01234 -> "0.013"."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    exact = Decimal(str(float(value)))
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - 1)), ROUND_CEILING)
    return f"{rounded:f}" if 1e-4 < rounded < 1e6 else f"{rounded:.1e}"
