"""The rows of a table against its baseline: effects, intervals and verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hymba_lab.errors import UserError
from hymba_lab.stats.holm import Decision
from hymba_lab.stats.looks import Judged, Looks, judge
from hymba_lab.stats.paired import Evidence, Interval, mean_interval
from hymba_lab.stats.power import measured
from hymba_lab.stats.rounding import round_up

Goal = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline; every field is in the metric's own unit and sign.

    `n` seeds were measured for both, `n_missing` of the table's seeds were not. `mean` with
    `mean_low`, `mean_high` is over all measured seeds of the row. `effect` is row minus baseline
    over the shared seeds, `low` and `high` its interval. `bound` is the X of "no detectable
    difference (smaller than X)" and NaN beside every other verdict. `p_within` belongs to
    "equivalent within X" (corrected; NaN without a margin). `look` is the number of the look that
    the effect is of, 1 where there is only one; `decided` is False where more seeds may help.
    """

    label: str
    n: int
    mean: float
    mean_low: float
    mean_high: float
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    p_within: float
    verdict: str
    bound: float
    n_missing: int
    look: int
    decided: bool


def compare(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    goal: Goal,
    alpha: float = 0.05,
    margin: float | None = None,
    looks: Looks | None = None,
) -> list[Comparison]:
    """Effect and verdict of every row but the baseline; `values` is {label: {seed: value}}.

    d_s = x_s(row) - x_s(baseline) over the seeds both have;  t = mean(d) / (sd(d) / sqrt(n)).
    A value that is not finite counts as missing, never as a number.

    Verdicts are Holm's (see `holm`): any false "better" or "worse" in the table has probability
    alpha at most. Intervals are simultaneous: all hold together with 1 - alpha, so every X (the
    larger end: a larger difference is ruled out) does too. "better" and "worse" never stand beside
    an interval that holds 0, and "no detectable difference" never beside one that does not.

    With a `margin`, a row whose effect surely lies within -+ margin is "equivalent within" it: two
    one-sided tests (TOST), Holm over the table, at alpha of their own. A difference may be both
    detected and small: "better, by less than" the margin.

    With `looks`, seeds were added to undecided rows (see `looks`); the guarantees hold over all
    looks together. The effect of a row that stopped early is on average too large.

    Differences without spread carry no t-test. All zero: no detectable difference (p = 1).
    All equal and not zero: the exact sign-flip test, p = 2 ** (1 - n), and the interval of the
    standard error that would give this p; below its detection the verdict is "too few seeds".

    Raises UserError when the baseline is not among the labels, or the margin is not positive.
    """
    if baseline not in values:
        raise UserError(
            f"baseline {baseline!r} is not a row of the table; "
            f"rows: {', '.join(map(repr, values)) or 'none'}. Name one of them."
        )
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"margin {margin:g} must be a positive number in the metric's unit.")
    base = measured(values[baseline])
    rows = {label: measured(row) for label, row in values.items() if label != baseline}
    judged = judge(rows, base, alpha=alpha, margin=margin, looks=looks)
    everyone = len({seed for row in values.values() for seed in row})
    return [
        _comparison(label, row, one, goal, alpha, margin, looks.sizes if looks else (everyone,))
        for (label, row), one in zip(rows.items(), judged, strict=True)
    ]


def _comparison(
    label: str,
    row: Mapping[int, float],
    judged: Judged,
    goal: Goal,
    alpha: float,
    margin: float | None,
    sizes: Sequence[int],
) -> Comparison:
    found, decision, p_within, look, decided = judged
    effect = Interval(
        found.effect,
        found.effect - decision.half_width,
        found.effect + decision.half_width,
        found.n,
    )
    within = margin if p_within <= alpha else None
    said, bound = verdict(found, decision, effect, goal, within)
    own = mean_interval(row.values(), alpha=alpha)
    return Comparison(
        label, found.n, *own[:3], *effect[:3], found.p, decision.p_holm, p_within, said, bound,
        sizes[look - 1] - found.n, look, decided,
    )  # fmt: skip


def verdict(
    found: Evidence, decision: Decision, effect: Interval, goal: Goal, within: float | None = None
) -> tuple[str, float]:
    """The verdict in words and the X of "no detectable difference (smaller than X)", else NaN.

    `within` is the margin inside which the effect was shown to lie, if it was.
    """
    if decision.rejected:
        improved = (found.effect > 0) == (goal == "maximize")
        small = "" if within is None else f", by less than {within:g}"
        return ("better" if improved else "worse") + small, math.nan
    if within is not None:
        return f"equivalent within {within:g}", math.nan
    if found.spread == "too few" or (found.spread == "unseen" and found.effect != 0):
        return "too few seeds", math.nan
    if found.spread == "unseen":
        return "no detectable difference (equal on every seed)", 0.0
    bound = max(abs(effect.low), abs(effect.high))
    return f"no detectable difference (smaller than {round_up(bound)})", bound
