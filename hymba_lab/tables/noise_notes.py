"""What published noise says of a table that has too few seeds to show its own."""

import math
from collections.abc import Mapping

from hymba_lab.stats import LEAST_SEEDS, detectable_effect, measured
from hymba_lab.tables.numbers import number
from hymba_lab.tables.published import Unit, prior, unit_of


def prior_notes(
    values: Mapping[str, Mapping[int, float]],
    metric: str,
    params: float,
    *,
    alpha: float = 0.05,
    unit: Unit | None = None,
) -> list[str]:
    """Return one note where every row has too few seeds, otherwise none.

    It says what a difference would have to be to be told at the noise of public runs of this size
    [parameters], or that this noise is unknown. It makes no verdict.
    """
    rows = [measured(own) for own in values.values()]
    fewest = min((len(own) for own in rows), default=0)
    unit = unit or unit_of(metric)
    if unit is None or not fewest or max(map(len, rows)) >= LEAST_SEEDS or len(rows) < 2:
        return []
    known = prior(params, unit)
    size = "unknown size" if math.isnan(params) else f"{params / 1e6:.4g}M parameters"
    if known is None:
        return [
            f"How much seeds differ is not measured here and not published at {size}: unknown, so "
            "nothing says how large a difference has to be."
        ]
    least = detectable_effect(known.sd, LEAST_SEEDS, len(rows) - 1, alpha=alpha)
    return [
        f"How much seeds differ is not measured here; {known}. At that noise {LEAST_SEEDS} seeds a "
        f"row would detect {number(least, 4)} with 80 %; a verdict needs seeds of your own."
    ]
