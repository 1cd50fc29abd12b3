"""The rows of a table against its baseline: effects, intervals and verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hymba_lab.errors import UserError
from hymba_lab.stats.evidence import Evidence, Interval, against, mean_interval
from hymba_lab.stats.holm import Decision
from hymba_lab.stats.looks import Judged, Looks, SeedsOf, judge
from hymba_lab.stats.moderated import Spread
from hymba_lab.stats.pairing import Pairing
from hymba_lab.stats.power import measured, seeds_needed
from hymba_lab.stats.rounding import round_up

Goal = Literal["maximize", "minimize"]
Kind = Literal[
    "baseline", "better", "worse", "equivalent", "undecided", "not_learned", "censored",
    "too_few_seeds",
]  # fmt: skip
NOWHERE = (-math.inf, math.inf)  # the limits of a metric that has none


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline, in the metric's own unit and sign (or a ratio, see `times`).

    `n` seeds of the row were measured, `n_missing` of the table's seeds were not. `mean` with
    `mean_low`, `mean_high` is over all measured seeds of the row. `low` and `high` are the interval
    of `effect`, NaN where there is none. `kind` is the verdict as a word for programs, `verdict`
    the same for readers. `bound` is the largest difference that "no detectable difference" could
    have missed and NaN beside every other verdict; `seeds_needed` what it would take to tell
    (infinite: more than anybody runs). `p_within` belongs to "equivalent within X" (corrected; NaN
    without a margin). `look` is the number of the look that the effect is of, 1 where there is only
    one; `decided` is False where more seeds may help.
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
    kind: Kind
    verdict: str
    bound: float
    seeds_needed: float
    n_missing: int
    look: int
    decided: bool


@dataclass(frozen=True)
class Setting:
    """How a table is judged: `limits` are the least and the largest value that its metric has."""

    goal: Goal
    alpha: float = 0.05
    margin: float | None = None
    looks: Looks | None = None
    limits: tuple[float, float] = NOWHERE
    n_rows: int = 1
    n_seeds: int = 0

    def size(self, look: int) -> int:
        """How many seeds a row should have at a look."""
        return self.looks.sizes[look - 1] if self.looks else self.n_seeds


def compare(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    goal: Goal,
    alpha: float = 0.05,
    margin: float | None = None,
    looks: Looks | None = None,
    limits: tuple[float, float] = NOWHERE,
    others: Sequence[Spread] = (),
) -> list[Comparison]:
    """Effect and verdict of every row but the baseline; `values` is {label: {seed: value}}.

    The effect is the difference of two means, its error from moderated variances (`evidence`),
    which `others`, variances of further rows of the same scale, make steadier. A value that is not
    finite counts as missing, never as a number.

    Verdicts are Holm's (see `holm`): any false "better" or "worse" in the table has probability
    alpha at most. Intervals are simultaneous: all hold together with 1 - alpha, so every bound (the
    larger end: a larger difference is ruled out) does too. "better" and "worse" never stand beside
    an interval that crosses 0; one that ends there tells the sign alone. "no detectable difference"
    never stands beside one that does not hold 0.
    Neither interval nor bound leaves what the `limits` of the metric allow beside any mean that the
    baseline may have, by its own interval.

    With a `margin`, a row whose effect surely lies within -+ margin is "equivalent within" it: two
    one-sided tests (TOST), Holm over the table, at alpha of their own. A difference may be both
    detected and small: "better, by less than" the margin.

    With `looks`, seeds were added to undecided rows (see `looks`); the guarantees hold over all
    looks together. The effect of a row that stopped early is on average too large.

    Below three seeds the verdict is "too few seeds"; also where rows differ and no row shows any
    spread, as long as the exact permutation test cannot tell them apart.

    Raises UserError when the baseline is not among the labels, or the margin is not positive.
    """
    setting = Setting(goal, alpha, margin, looks, limits, len(values) - 1, n_seeds_of(values))
    checked(values, baseline, margin)
    rows = {label: measured(row) for label, row in values.items()}

    def assess(seeds: SeedsOf, share: float) -> dict[str, Evidence]:
        seen = {
            label: {seed: value for seed, value in row.items() if seed in seeds(label)}
            for label, row in rows.items()
        }
        return against(seen, baseline, others=others, share=share)[0]

    labels = [label for label in rows if label != baseline]
    everyone = {seed for row in values.values() for seed in row}
    judged = judge(assess, labels, everyone, alpha=alpha, margin=margin, looks=looks)
    room = _room(mean_interval(rows[baseline].values(), alpha=alpha), limits)
    return [_comparison(label, rows[label], room, one, setting) for label, one in judged.items()]


def _room(base: Interval, limits: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest effect that limits leave, wherever the baseline's mean may be.

    Beside its mean as measured an interval would end too early: it has noise of its own.
    """
    least, most = limits
    return least - _min(_or(base.high, most), most), most - _max(_or(base.low, least), least)


def _or(end: float, limit: float) -> float:
    return limit if math.isnan(end) else end


def pairing_of(values: Mapping[str, Mapping[int, float]], baseline: str) -> Pairing:
    """How `compare` compares these rows: as independent groups, or seed by seed."""
    return against({label: measured(row) for label, row in values.items()}, baseline)[1]


def checked(values: Mapping[str, object], baseline: str, margin: float | None) -> None:
    """Raise UserError where there is no such baseline, or the margin is not positive."""
    if baseline not in values:
        raise UserError(
            f"baseline {baseline!r} is not a row of the table; "
            f"rows: {', '.join(map(repr, values)) or 'none'}. Name one of them."
        )
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"margin {margin:g} must be a positive number in the metric's unit.")


def n_seeds_of(values: Mapping[str, Mapping[int, object]]) -> int:
    """How many seeds the table has."""
    return len({seed for row in values.values() for seed in row})


def _comparison(
    label: str,
    row: Mapping[int, float],
    room: tuple[float, float],
    judged: Judged[Evidence],
    setting: Setting,
) -> Comparison:
    found, decision, p_within, look, decided = judged
    least, most = room
    effect = Interval(found.effect, *decision.interval(found.effect), found.n)
    effect = effect._replace(low=_max(effect.low, least), high=_min(effect.high, most))
    kind, said, bound = verdict(found, decision, effect, setting.goal, _within(p_within, setting))
    needed = math.nan
    if kind == "undecided":
        needed = seeds_that_tell(found, setting)
        said += _told(bound, room, needed, setting)
    own = mean_interval(row.values(), alpha=setting.alpha)
    return Comparison(
        label, found.n, *own[:3], *effect[:3], found.p, decision.p_holm, p_within, kind, said,
        bound, needed, setting.size(look) - found.n, look, decided,
    )  # fmt: skip


def _max(a: float, b: float) -> float:
    return a if math.isnan(a) or math.isnan(b) else max(a, b)


def _min(a: float, b: float) -> float:
    return a if math.isnan(a) or math.isnan(b) else min(a, b)


def _within(p_within: float, setting: Setting) -> float | None:
    return setting.margin if p_within <= setting.alpha else None


def verdict(
    found: Evidence, decision: Decision, effect: Interval, goal: Goal, within: float | None = None
) -> tuple[Kind, str, float]:
    """The verdict, the same in words, and the bound of "no detectable difference", else NaN.

    `within` is the margin inside which the effect was shown to lie, if it was.
    """
    if decision.rejected:
        improved = (found.effect > 0) == (goal == "maximize")
        small = "" if within is None else f", by less than {within:g}"
        kind: Kind = "better" if improved else "worse"
        return kind, kind + small, math.nan
    if within is not None:
        return "equivalent", f"equivalent within {within:g}", math.nan
    if found.spread == "too few" or (found.spread == "unseen" and found.effect != 0):
        return "too_few_seeds", "too few seeds", math.nan
    return "undecided", "no detectable difference", max(abs(effect.low), abs(effect.high))


def seeds_that_tell(found: Evidence, setting: Setting) -> float:
    """Seeds that would show the margin, or without one an effect as large as the one seen."""
    needed = seeds_needed(
        found.error,
        found.n,
        setting.margin or found.effect,
        setting.n_rows,
        alpha=setting.alpha * found.share,
    )
    return max(needed, found.n + 1.0)  # so many did not tell


def _told(bound: float, room: tuple[float, float], needed: float, setting: Setting) -> str:
    if bound == 0:
        return " (equal on every seed)"
    if bound >= max(-room[0], room[1]):
        missed = "any could have been missed"
    else:
        missed = f"up to {round_up(bound)} could have been missed"
    return f" ({missed}; {seeds_words(needed, setting.margin)})"


def seeds_words(needed: float, margin: float | None) -> str:
    """What it would take, in words."""
    what = "the one seen" if margin is None else f"{margin:g}"
    if math.isinf(needed):
        return f"no number of seeds would tell {what}"
    return f"{needed:.0f} seeds would tell {what}"
