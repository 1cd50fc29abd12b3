"""Verdicts of anybody's table: a line per run, columns that say which row, which seed, which value.

    verdict(frame, row="arch", seed="seed", metric="val_loss", goal="minimize", baseline="base")

The frame may come from a CSV file, `mlflow.search_runs()` or a W&B export: a column is also found
under their prefixes (`params.arch`, `metrics.val_loss`), and only runs that finished count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from hymba_lab.errors import UserError, suggest
from hymba_lab.stats import (
    MARGIN,
    NOWHERE,
    Comparison,
    Goal,
    Kind,
    Run,
    compare,
    compare_times,
    measured,
    pairing_of,
    wrong_winner,
)
from hymba_lab.tables.frame_columns import (
    column,
    finished_runs,
    number_in,
    refuse_outside,
    refuse_unequal,
    seed_numbers,
    truth_in,
    word,
)
from hymba_lab.tables.noise_notes import prior_notes
from hymba_lab.tables.published import Unit


@dataclass(frozen=True)
class RowVerdict:
    """One row: `effect` with its interval is a difference, or a ratio of times.

    NaN is what is not known, an infinite end is an open one. `p` is corrected over the table.
    `says` is the verdict for readers, `n_missing` counts runs of the row without a value.
    """

    row: str
    n: int
    effect: float
    low: float
    high: float
    p: float
    verdict: Kind
    says: str
    n_missing: int


@dataclass(frozen=True)
class Verdicts:
    """All rows, the baseline first, what must be known beside them, and the one-run counterfactual.

    `wrong_winner`: how often one run per row, drawn at random, crowns another row than all runs do.
    """

    rows: Sequence[RowVerdict]
    notes: Sequence[str]
    wrong_winner: float


def verdict(
    frame: pd.DataFrame,
    *,
    row: str,
    metric: str,
    goal: Goal,
    baseline: str,
    seed: str | None = None,
    solved: str | None = None,
    floor: float | None = None,
    solved_at: float | None = None,
    same: Sequence[str] = (),
    alpha: float = 0.05,
    margin: float | None = None,
    limits: tuple[float, float] = NOWHERE,
    params: float = math.nan,
    unit: Unit | None = None,
) -> Verdicts:
    """Judge every row of a frame against the baseline, as the lab's own tables do.

    `solved` names a column of 0 and 1: the metric is then the time until a task was solved, or
    until a run ended without (right-censored), and effects are ratios. Otherwise the metric is a
    level: with `floor`, what a guess reaches, rows that are not above it on either side are "not
    learned"; with `solved_at`, a row that reaches it against one that does not is "censored": the
    level says when a run was stopped. `same` are columns of which all runs must have one value.
    Without `seed` the runs of a row are numbered. Where no row has seeds enough to show its noise,
    a note says what public runs of models of `params` parameters show in this `unit` (by default
    by the metric's name), or that it is unknown.

    Raises UserError for absent columns or rows, a run given twice, and unequal runs.
    """
    _check(alpha, margin, limits, params)
    runs, n_failed = finished_runs(frame)
    labels = [word(value) for value in column(runs, row)]
    seeds = seed_numbers(labels, None if seed is None else column(runs, seed), row, seed)
    for name in same:
        refuse_unequal(name, labels, column(runs, name))
    numbers = [number_in(metric, value) for value in column(runs, metric)]
    refuse_outside(metric, numbers, limits)
    values: dict[str, dict[int, float]] = {label: {} for label in labels}
    for label, number, value in zip(labels, seeds, numbers, strict=True):
        values[label][number] = value
    if baseline not in values:
        raise UserError(f"no row {baseline!r} in column {row!r}{suggest(baseline, values)}")
    notes = [f"{n_failed} runs that did not finish are left out."] if n_failed else []
    if solved is not None:
        ended = [truth_in(solved, value) for value in column(runs, solved)]
        found = _of_times(values, labels, seeds, ended, baseline, alpha, margin)
    else:
        found = compare(values, baseline, goal=goal, alpha=alpha, margin=margin, limits=limits)
        found = [_gated(one, values, baseline, goal, floor, solved_at) for one in found]
        notes.append(str(pairing_of(values, baseline)))
        notes += prior_notes(values, metric, params, alpha=alpha, unit=unit)
    missing = {label: len(own) - len(measured(own)) for label, own in values.items()}
    notes += [f"{label}: {n} runs have no {metric}." for label, n in missing.items() if n]
    rows = [_baseline(baseline, values, missing), *(_row(one, missing) for one in found)]
    return Verdicts(rows, notes, wrong_winner(values, goal))


def _check(alpha: float, margin: float | None, limits: tuple[float, float], params: float) -> None:
    wrong = {
        f"alpha = {alpha:g}: give a chance between 0 and 1": not 0 < alpha < 1,
        f"margin = {margin}: give a number above 0": margin is not None and not margin > 0,
        f"limits = {limits[0]:g} {limits[1]:g}: give the least value first": limits[0] >= limits[1],
        f"params = {params:g}: give a count of parameters, such as 124e6": params < 1,
    }
    if said := [message for message, is_wrong in wrong.items() if is_wrong]:
        raise UserError("; ".join(said) + ".")


def _of_times(
    values: Mapping[str, Mapping[int, float]],
    labels: Sequence[str],
    seeds: Sequence[int],
    solved: Sequence[bool],
    baseline: str,
    alpha: float,
    margin: float | None,
) -> list[Comparison]:
    ended = dict(zip(zip(labels, seeds, strict=True), solved, strict=True))
    runs = {
        label: {seed: Run(time, ended[label, seed]) for seed, time in measured(own).items()}
        for label, own in values.items()
    }
    low = [run.time for own in runs.values() for run in own.values() if not run.time > 0]
    if low:
        raise UserError(f"a time until a task is solved is above 0; the table holds {low[0]:g}.")
    factor = MARGIN if margin is None else margin
    found = compare_times(runs, baseline, alpha=alpha, margin=factor)
    return [one.comparison for one in found]


def _gated(
    one: Comparison,
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    goal: Goal,
    floor: float | None,
    solved_at: float | None,
) -> Comparison:
    """No verdict on a level that nobody learned, or that only says when a run was stopped."""
    if one.kind == "too_few_seeds":
        return one
    sign = 1.0 if goal == "maximize" else -1.0
    sides = [
        [sign * value for value in measured(values[label]).values()]
        for label in (one.label, baseline)
    ]
    if floor is not None and all(_mean(side) <= sign * floor for side in sides):
        return replace(one, kind="not_learned", verdict="not learned by either", bound=math.nan)
    if solved_at is not None:
        done = [min(side) >= sign * solved_at for side in sides]
        if done[0] != done[1] or not (done[0] or done[1]):
            said = "censored: not solved at the end of its runs"
            return replace(one, kind="censored", verdict=said, bound=math.nan)
    return one


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _baseline(
    label: str, values: Mapping[str, Mapping[int, float]], missing: Mapping[str, int]
) -> RowVerdict:
    nan, n = math.nan, len(measured(values[label]))
    return RowVerdict(label, n, nan, nan, nan, nan, "baseline", "baseline", missing[label])


def _row(one: Comparison, missing: Mapping[str, int]) -> RowVerdict:
    return RowVerdict(
        one.label, one.n, one.effect, one.low, one.high, one.p_holm, one.kind, one.verdict,
        missing[one.label],
    )  # fmt: skip
