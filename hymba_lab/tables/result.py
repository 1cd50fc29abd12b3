"""From the tidy frame of evaluation runs to the result table with its verdicts and footnotes.

`runs` has a line per (row, seed) with the columns of `hymba_lab.tables.columns`. Only finished
runs give numbers: what a failed or pruned run reached is no result.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from hymba_lab.stats import (
    Comparison,
    Goal,
    Looks,
    compare,
    compare_times,
    factor_of,
    log_times,
    pairing_of,
)
from hymba_lab.tables.beside import with_paper
from hymba_lab.tables.columns import NEEDED
from hymba_lab.tables.display import Second, Table
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
    equivalence_note,
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


@dataclass(frozen=True)
class Asked:
    """What a table is asked: of which metric, against which row, by which rules."""

    metric: str
    goal: Goal
    baseline: str
    also: Sequence[str] = ()  # further metrics, a column each
    reference: pd.DataFrame | None = None  # the paper's numbers: columns row, value, note
    alpha: float = 0.05
    margin: float | None = None  # what counts as equivalent; none: nothing does
    looks: Looks | None = None
    factorial: Sequence[str] = ()  # axes of which every combination was run
    task: Task | None = None  # one that is learned in a jump: when it was solved is compared
    control: str | None = None  # a row known to solve the task
    choices: Mapping[str, Sequence[float]] = field(default_factory=dict)  # among which was tuned
    floor: Floor | None = None  # what the metric reaches without learning
    cautions: Sequence[str] = ()  # notes that stand first, after a control that failed

    @property
    def others(self) -> tuple[str, ...]:
        """The further metrics, each once."""
        return tuple(name for name in dict.fromkeys(self.also) if name != self.metric)


def result_table(runs: pd.DataFrame, asked: Asked) -> Table:
    """The table of `runs`: a row per cell in the order of first appearance, failed ones included.

    The frame's columns: row, the axes, seeds (measured), mean, mean_low, mean_high, effect,
    effect_low, effect_high, p, p_holm, verdict (see `stats.compare`), params, params_diff_percent
    (to the baseline), params_flagged (beyond 2 %), ssm_to_attention, cache_bytes, flops_per_token,
    tokens_per_second (median), for each of `also` its mean with _low and _high, and metric, scale.
    `reference` puts the paper's number in a column of its own, paper. A `margin` adds margin and
    p_within, `looks` the column look, `factorial` the table of the axes' interactions to `more`.

    With a `task` the verdict is of the time until it was solved: effects are ratios to the
    baseline, and the columns solved (runs that did) and tokens_to_solve (their geometric mean) are
    added. Rows of which neither is beyond the `floor` have "not learned" for a verdict.

    Raises UserError as `guard` does, and for an unknown baseline, metric or reference column.
    """
    guard(runs)
    values = values_by_seed(runs, asked.metric)
    found = _comparisons(values, asked)
    axes = tuple(str(name) for name in runs if _is_axis(runs, str(name)))
    parts = [
        runs.drop_duplicates("row")[["row", *axes]].reset_index(drop=True),
        verdict_columns(asked.metric, values, found, asked.alpha, asked.margin, asked.looks),
        *([] if asked.task is None else [solved_columns(values, asked.task)]),
        cost_columns(runs, asked.baseline),
        *(mean_columns(name, values_by_seed(runs, name)) for name in asked.others),
    ]
    scale = known_value(runs["scale"], "")
    frame = pd.concat(parts, axis=1).assign(metric=asked.metric, scale=scale)
    notes = _notes(runs, values, found, frame, asked)
    if asked.reference is not None:
        frame, paper_notes = with_paper(frame, asked.reference)
        notes += paper_notes
    more = [] if len(asked.factorial) < 2 else _interactions(runs, values, asked)
    if len(asked.factorial) > 1 and not more:
        notes = [*notes, _NO_INTERACTIONS]
    return Table(frame, asked.metric, asked.goal, asked.baseline, axes, asked.others, notes, more)


def _notes(
    runs: pd.DataFrame,
    values: Values,
    found: Sequence[Comparison],
    frame: pd.DataFrame,
    asked: Asked,
) -> list[str]:
    """Whether rows learned, how verdicts were made, and what is missing or not to be read."""
    metric, baseline, alpha, floor = asked.metric, asked.baseline, asked.alpha, asked.floor
    params = cost(runs[runs["row"] == baseline], "params")
    return [
        *([] if asked.task is None else control_note(asked.task, asked.control)),
        *asked.cautions,
        *([] if floor is None else [floor.note(metric, asked.goal, values)]),
        *_method_notes(runs, values, found, asked),
        *edge_notes(runs, asked.choices),
        *look_notes(found, asked.looks, alpha),
        *missing_notes(runs, values, metric, expected_seeds(values, found, asked.looks)),
        *flag_notes(frame),
        *speed_notes(runs),
        *([] if asked.task else prior_notes(values, metric, params, alpha=alpha)),
    ]


def _method_notes(
    runs: pd.DataFrame, values: Values, found: Sequence[Comparison], asked: Asked
) -> list[str]:
    """At which scale, and how verdicts were made."""
    baseline, alpha = asked.baseline, asked.alpha
    n_tests = len(found) if asked.looks else sum(not math.isnan(one.p) for one in found)
    within = asked.margin
    if asked.task is None:
        return [
            scale_note(runs),
            method_note(baseline, n_tests, alpha, pairing_of(values, baseline)),
            *([] if within is None else [equivalence_note(n_tests, alpha, f"{within:g}")]),
        ]
    logs = log_times(asked.task.times)
    pairing = pairing_of(logs, baseline) if baseline in logs and len(logs) > 1 else None
    alike = any(one.kind == "equivalent" for one in found)
    return [
        scale_note(runs),
        times_note(baseline, n_tests, alpha, pairing),
        *([equivalence_note(n_tests, alpha, f"{factor_of(within):g} times")] if alike else []),
        *solving_notes(asked.task, values),
        *stopped_notes(runs, asked.others),
    ]


_NO_INTERACTIONS = (
    "No interactions are given: some row has a run that did not solve the task, and the levels of "
    "runs that were stopped say nothing."
)


def _interactions(runs: pd.DataFrame, values: Values, asked: Asked) -> list[Second]:
    """Of levels; where a task was solved, of the log of the tokens until then, if all runs did."""
    goal, of = asked.goal, ""
    if asked.task is not None:
        times = log_times(asked.task.times)
        if set(times) != set(values):
            return []
        values, goal, of = times, "minimize", " of the log of the tokens until the task was solved"
    return [
        interaction_table(
            runs, values, asked.factorial, asked.baseline, goal=goal, alpha=asked.alpha, of=of
        )
    ]


def _comparisons(values: Values, asked: Asked) -> list[Comparison]:
    """Every row's comparison with the baseline: of levels, or of when a task was solved."""
    baseline, task = asked.baseline, asked.task
    if task is None:
        found = compare(
            values, baseline, goal=asked.goal, margin=asked.margin, limits=limits_of(asked.metric),
            alpha=asked.alpha, looks=asked.looks,
        )  # fmt: skip
        gate = Gate(asked.goal, asked.floor.at if asked.floor else None, None)
        return [gate(one, values, baseline) for one in found]
    timed = compare_times(
        task.times, baseline, margin=factor_of(asked.margin), above=task.above(values),
        alpha=asked.alpha, looks=asked.looks,
    )  # fmt: skip
    return [task.taught(one.comparison, asked.control, baseline) for one in timed]


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
