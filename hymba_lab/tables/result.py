"""From the tidy frame of evaluation runs to the result table with its verdicts and footnotes.

`runs` has a line per (row, seed) with the columns of `hymba_lab.tables.columns`. Only finished
runs give numbers: what a failed or pruned run reached is no result.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from hymba_lab.stats import (
    Comparison,
    Goal,
    Looks,
    compare,
    compare_times,
    factor_of,
    pairing_of,
)
from hymba_lab.tables.beside import with_paper
from hymba_lab.tables.columns import NEEDED
from hymba_lab.tables.display import Table
from hymba_lab.tables.gates import Floor, Gate
from hymba_lab.tables.interactions import interaction_table
from hymba_lab.tables.measured import (
    cost,
    cost_columns,
    mean_columns,
    solved_columns,
    verdict_columns,
)
from hymba_lab.tables.noise_notes import prior_notes
from hymba_lab.tables.notes import (
    equivalence_notes,
    expected_seeds,
    flag_notes,
    known_value,
    look_notes,
    method_note,
    missing_notes,
    scale_note,
    speed_notes,
    stopped_notes,
    times_note,
)
from hymba_lab.tables.numbers import limits_of
from hymba_lab.tables.runs_frame import Values, guard, values_by_seed
from hymba_lab.tables.solving import Task, control_note, edge_notes, solving_notes


def result_table(
    runs: pd.DataFrame,
    *,
    metric: str,
    goal: Goal,
    baseline: str,
    also: Sequence[str] = (),
    reference: pd.DataFrame | None = None,
    alpha: float = 0.05,
    margin: float | None = None,
    looks: Looks | None = None,
    factorial: Sequence[str] = (),
    task: Task | None = None,
    control: str | None = None,
    choices: Mapping[str, Sequence[float]] | None = None,
    floor: Floor | None = None,
) -> Table:
    """The table of `runs`: a row per cell in the order of first appearance, failed ones included.

    The frame's columns: row, the axes, seeds (measured), mean, mean_low, mean_high, effect,
    effect_low, effect_high, p, p_holm, verdict (see `stats.compare`), params, params_diff_percent
    (to the baseline), params_flagged (beyond 2 %), ssm_to_attention, cache_bytes, flops_per_token,
    tokens_per_second (median), for each of `also` its mean with _low and _high, and metric, scale.
    `reference` (columns row, value, note) puts the paper's number in a column of its own, paper.
    A `margin` adds margin and p_within, `looks` the column look; `factorial` names axes of which
    every combination was run, and adds the table of their interactions to `more`.

    With a `task`, one that is learned in a jump, the verdict is of the time until it was solved:
    effects are ratios to the baseline, and the columns solved (runs that did) and tokens_to_solve
    (their geometric mean) are added. `control` names a row known to solve it, `choices` the tuned
    values among which every row's best was sought. Rows of which neither is beyond the `floor` have
    "not learned" for a verdict.

    Raises UserError as `guard` does, and for an unknown baseline, metric or reference column.
    """
    guard(runs)
    values = values_by_seed(runs, metric)
    found = _comparisons(
        values, baseline, task, metric=metric, goal=goal, alpha=alpha, margin=margin, looks=looks,
        floor=floor,
    )  # fmt: skip
    axes = tuple(str(name) for name in runs if _is_axis(runs, str(name)))
    others = tuple(name for name in dict.fromkeys(also) if name != metric)
    parts = [
        runs.drop_duplicates("row")[["row", *axes]].reset_index(drop=True),
        verdict_columns(metric, values, found, alpha, margin, looks),
        *([] if task is None else [solved_columns(values, task)]),
        cost_columns(runs, baseline),
        *(mean_columns(name, values_by_seed(runs, name)) for name in others),
    ]
    frame = pd.concat(parts, axis=1).assign(metric=metric, scale=known_value(runs["scale"], ""))
    notes = _notes(
        runs, values, found, frame, baseline, others, metric=metric, alpha=alpha, margin=margin,
        looks=looks, task=task, control=control, choices=choices or {},
    )  # fmt: skip
    if floor is not None:
        notes = [floor.note(metric, goal, values), *notes]
    more = []
    if len(factorial) > 1:
        more = [interaction_table(runs, values, factorial, baseline, goal=goal, alpha=alpha)]
    if reference is not None:
        frame, paper_notes = with_paper(frame, reference)
        notes += paper_notes
    return Table(frame, metric, goal, baseline, axes, others, notes, more)


def _notes(
    runs: pd.DataFrame,
    values: Values,
    found: Sequence[Comparison],
    frame: pd.DataFrame,
    baseline: str,
    others: Sequence[str],
    *,
    metric: str,
    alpha: float,
    margin: float | None,
    looks: Looks | None,
    task: Task | None,
    control: str | None,
    choices: Mapping[str, Sequence[float]],
) -> list[str]:
    """Whether the control solved, how verdicts were made, and what is missing or not to be read."""
    n_tests = len(found) if looks else sum(not math.isnan(one.p) for one in found)
    if task is None:
        how = [
            scale_note(runs),
            method_note(baseline, n_tests, alpha, pairing_of(values, baseline)),
            *equivalence_notes(n_tests, alpha, margin),
        ]
        last = prior_notes(
            values, metric, cost(runs[runs["row"] == baseline], "params"), alpha=alpha
        )
    else:
        how = [
            *control_note(task, control),
            scale_note(runs),
            times_note(baseline, n_tests, alpha),
            *solving_notes(task, values),
            *stopped_notes(runs, others),
        ]
        last = []
    return [
        *how,
        *edge_notes(runs, choices),
        *look_notes(found, looks, alpha),
        *missing_notes(runs, values, metric, expected_seeds(values, found, looks)),
        *flag_notes(frame),
        *speed_notes(runs),
        *last,
    ]


def _comparisons(
    values: Values,
    baseline: str,
    task: Task | None,
    *,
    metric: str,
    goal: Goal,
    alpha: float,
    margin: float | None,
    looks: Looks | None,
    floor: Floor | None,
) -> list[Comparison]:
    """Every row's comparison with the baseline: of levels, or of when a task was solved."""
    if task is None:
        found = compare(
            values, baseline, goal=goal, alpha=alpha, margin=margin, looks=looks,
            limits=limits_of(metric),
        )  # fmt: skip
        gate = Gate(goal, floor.at if floor else None, None)
        return [gate(one, values, baseline) for one in found]
    timed = compare_times(
        task.times, baseline, alpha=alpha, margin=factor_of(margin), looks=looks,
        above=task.above(values),
    )  # fmt: skip
    return [one.comparison for one in timed]


def _is_axis(runs: pd.DataFrame, name: str) -> bool:
    known = name in NEEDED
    return not known and all(isinstance(value, str) for value in runs[name])


def provenance(runs: pd.DataFrame, command: str, hardware: str) -> list[str]:
    """Where a table comes from: command, commits, runs, data and hardware, a line each."""
    dirty = runs["dirty"].eq(True).any()
    commits = ", ".join(sorted({str(commit)[:10] for commit in runs["commit"].dropna() if commit}))
    prints = ", ".join(sorted({str(f)[:12] for f in runs["data_fingerprint"].dropna() if f}))
    identities = runs.loc[runs["identity"].notna() & (runs["identity"] != ""), "identity"].nunique()
    finished = int((runs["status"] == "finished").sum())
    return [
        f"Command: {command}",
        f"Commit: {commits or 'unknown'}{' with uncommitted changes' if dirty else ''}",
        f"Runs: {finished} of {len(runs)} finished, {identities} identities",
        f"Data: {prints or 'unknown'}",
        f"Hardware: {hardware}",
    ]
