"""Verdicts of anybody's table: a line per run, columns that say which row, which seed, which value.

    verdict(frame, row="arch", seed="seed", metric="val_loss", goal="minimize", baseline="base")

The frame may come from a CSV file (`given_csv`), `mlflow.search_runs()` or a W&B export: a column
is also found under their prefixes (`params.arch`, `metrics.val_loss`), and only runs that finished
count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hymba_lab.stats import (
    MARGIN,
    Comparison,
    Goal,
    Kind,
    compare,
    compare_times,
    measured,
    pairing_of,
    wrong_winner,
)
from hymba_lab.tables.asked import check, check_levels, check_times
from hymba_lab.tables.gates import Gate
from hymba_lab.tables.given_runs import Given, given_runs
from hymba_lab.tables.goals import goal_notes
from hymba_lab.tables.noise_notes import prior_notes
from hymba_lab.tables.published import Unit

_UNNAMED = "Rows are compared as independent groups: no column of seeds is named."


@dataclass(frozen=True)
class RowVerdict:
    """One row: `effect` with its interval is a difference, or a ratio of times.

    NaN is what is not known, an infinite end is an open one; of a ratio with an open end (0, or
    infinite) only the other end is known. `p` is corrected over the table.
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

    `wrong_winner`: how often one run per row, drawn at random, crowns another row than all runs do;
    NaN where some run did not solve, for who wins is not known then. `timed`: effects are ratios.
    """

    rows: Sequence[RowVerdict]
    notes: Sequence[str]
    wrong_winner: float
    timed: bool


def verdict(
    frame: pd.DataFrame,
    *,
    row: str,
    metric: str,
    goal: Goal,
    baseline: str,
    seed: str | None = None,
    solved: str | None = None,
    censored: str | None = None,
    floor: float | None = None,
    solved_at: float | None = None,
    same: Sequence[str] = (),
    alpha: float = 0.05,
    margin: float | None = None,
    limits: tuple[float, float] | None = None,
    params: float = math.nan,
    unit: Unit | None = None,
) -> Verdicts:
    """Judge every row of a frame against the baseline, as the lab's own tables do.

    `solved` names a column of 1 and 0, or `censored` one of 0 and 1: the metric is then the time
    until a task was solved, or until a run ended without (right-censored), and effects are ratios.
    Otherwise the metric is a level, with a `Gate` of `floor` and `solved_at`. `same` are columns of
    which all runs must have one value. Without `seed` no two runs have a seed in common. `limits`
    are the least and the largest value of the metric (default: by its name). Where no row has seeds
    enough to show its noise, a note says what public runs of models of `params` parameters show in
    this `unit` (by default by the metric's name), or that it is unknown.

    Raises UserError for absent columns or rows, a run given twice, and unequal runs.
    """
    timed = bool(solved or censored)
    check(alpha, margin, limits, params)
    if timed:
        check_times(goal, margin, solved, censored, (floor, solved_at, limits))
    else:
        check_levels(goal, floor, solved_at, limits)
    given = given_runs(
        frame, row=row, metric=metric, baseline=baseline, seed=seed, solved=solved,
        censored=censored, same=same, limits=limits,
    )  # fmt: skip
    values, baseline, notes = given.values, given.baseline, [*goal_notes(metric, goal)]
    if timed:
        found = _of_times(given, alpha, margin)
    else:
        found = compare(
            values, baseline, goal=goal, alpha=alpha, margin=margin, limits=given.limits
        )
        gate = Gate(goal, floor, solved_at)
        found = [gate(one, values, baseline) for one in found]
        how = _UNNAMED if seed is None else str(pairing_of(values, baseline))
        notes += [how] if found else []
        notes += prior_notes(values, metric, params, alpha=alpha, unit=unit)
    notes += given.notes if found else ["There is no row to hold against it.", *given.notes]
    missing = {label: len(own) - len(measured(own)) for label, own in values.items()}
    rows = [_baseline(baseline, values, missing), *(_row(one, missing, timed) for one in found)]
    return Verdicts(rows, notes, _wrong_winner(given, goal), timed)


def _of_times(given: Given, alpha: float, margin: float | None) -> list[Comparison]:
    factor = MARGIN if margin is None else margin
    found = compare_times(given.times(), given.baseline, alpha=alpha, margin=factor)
    return [one.comparison for one in found]


def _wrong_winner(given: Given, goal: Goal) -> float:
    times = given.times() if given.ended is not None else {}
    if any(not run.solved for own in times.values() for run in own.values()):
        return math.nan
    return wrong_winner(given.values, goal)


def _baseline(
    label: str, values: Mapping[str, Mapping[int, float]], missing: Mapping[str, int]
) -> RowVerdict:
    nan, n = math.nan, len(measured(values[label]))
    return RowVerdict(label, n, nan, nan, nan, nan, "baseline", "baseline", missing[label])


def _row(one: Comparison, missing: Mapping[str, int], timed: bool) -> RowVerdict:
    open_end = timed and (one.low == 0 or math.isinf(one.high))
    return RowVerdict(
        one.label, one.n, math.nan if open_end else one.effect, one.low, one.high, one.p_holm,
        one.kind, one.verdict, missing[one.label],
    )  # fmt: skip
