"""From the tidy frame of evaluation runs to the result table with its verdicts and footnotes.

`runs` has a line per (row, seed) with the columns of `hymba_lab.tables.columns`. Only finished
runs give numbers: what a failed or pruned run reached is no result.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from hymba_lab.errors import UserError
from hymba_lab.stats import (
    Comparison,
    Goal,
    Looks,
    compare,
    compare_times,
    factor_of,
    mean_interval,
    pairing_of,
)
from hymba_lab.tables.columns import NEEDED, SHARED, STATUSES
from hymba_lab.tables.display import Table
from hymba_lab.tables.interactions import interaction_table
from hymba_lab.tables.noise_notes import prior_notes
from hymba_lab.tables.notes import (
    PARAMS_TOLERANCE,
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
from hymba_lab.tables.solving import Task, control_note, edge_notes, solving_notes

_AFTER_PARAMS = ("ssm_to_attention", "cache_bytes", "flops_per_token")  # as in the paper's tables
_EFFECT = ["effect", "low", "high", "p", "p_holm"]
Values = dict[str, dict[int, float]]


def guard(runs: pd.DataFrame) -> None:
    """Refuse runs that do not belong in one table; says which rows differ and how.

    Raises UserError for missing columns, no runs, a (row, seed) given twice, an unknown status,
    and for runs of different data, token budget, code version or scale. Nothing known (NaN or
    empty, as for a run that never started) differs from nothing.
    """
    absent = [name for name in NEEDED if name not in runs]
    if absent:
        raise UserError(f"the frame of runs has no column {', '.join(absent)}.")
    if runs.empty:
        raise UserError("no runs to make a table of; run the sweep first.")
    unknown = sorted(set(runs["status"]) - set(STATUSES))
    if unknown:
        raise UserError(f"run status {unknown[0]!r} is not one of {', '.join(STATUSES)}.")
    twice = runs[runs.duplicated(["row", "seed"])]
    if not twice.empty:
        which = ", ".join(f"{run.row!r} seed {run.seed}" for run in twice.itertuples())
        raise UserError(f"more than one run for {which}; a table takes one run per row and seed.")
    for column in SHARED:
        _refuse_mixture(runs, column)


def _refuse_mixture(runs: pd.DataFrame, column: str) -> None:
    known = runs[runs[column].notna() & (runs[column].astype(str) != "")]
    if known[column].nunique() < 2:
        return
    groups = known.groupby(column, sort=False)["row"].unique()
    kinds = "; ".join(f"{value}: {', '.join(map(str, rows))}" for value, rows in groups.items())
    raise UserError(
        f"runs of different {column} do not belong in one table ({kinds}). "
        "Run all rows anew, or make one table for each."
    )


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
    values among which every row's best was sought.

    Raises UserError as `guard` does, and for an unknown baseline, metric or reference column.
    """
    guard(runs)
    values = values_by_seed(runs, metric)
    found = _comparisons(
        values, baseline, task, metric=metric, goal=goal, alpha=alpha, margin=margin, looks=looks
    )
    axes = tuple(str(name) for name in runs if _is_axis(runs, str(name)))
    others = tuple(name for name in dict.fromkeys(also) if name != metric)
    parts = [
        runs.drop_duplicates("row")[["row", *axes]].reset_index(drop=True),
        _verdict_columns(metric, values, found, alpha, margin, looks),
        *([] if task is None else [_solved_columns(values, task)]),
        _cost_columns(runs, baseline),
        *(_mean_columns(name, values_by_seed(runs, name)) for name in others),
    ]
    frame = pd.concat(parts, axis=1).assign(metric=metric, scale=known_value(runs["scale"], ""))
    n_tests = len(found) if looks else sum(not math.isnan(one.p) for one in found)
    notes = [
        *([] if task is None else control_note(task, control)),
        scale_note(runs),
        *(
            [method_note(baseline, n_tests, alpha, pairing_of(values, baseline))]
            if task is None
            else [times_note(baseline, n_tests, alpha), *solving_notes(task, values)]
        ),
        *equivalence_notes(n_tests, alpha, margin if task is None else None),
        *([] if task is None else stopped_notes(runs, others)),
        *edge_notes(runs, choices or {}),
        *look_notes(found, looks, alpha),
        *missing_notes(runs, values, metric, expected_seeds(values, found, looks)),
        *flag_notes(frame),
        *speed_notes(runs),
        *([] if task else prior_notes(values, metric, _params(runs, baseline), alpha=alpha)),
    ]
    more = []
    if len(factorial) > 1:
        more = [interaction_table(runs, values, factorial, baseline, goal=goal, alpha=alpha)]
    if reference is not None:
        frame, paper_notes = _with_paper(frame, reference)
        notes += paper_notes
    return Table(frame, metric, goal, baseline, axes, others, notes, more)


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
) -> list[Comparison]:
    """Every row's comparison with the baseline: of levels, or of when a task was solved."""
    if task is None:
        return compare(
            values, baseline, goal=goal, alpha=alpha, margin=margin, looks=looks,
            limits=limits_of(metric),
        )  # fmt: skip
    timed = compare_times(
        task.times, baseline, alpha=alpha, margin=factor_of(margin), looks=looks,
        above=task.above(values),
    )  # fmt: skip
    return [one.comparison for one in timed]


def _params(runs: pd.DataFrame, baseline: str) -> float:
    return _cost(runs[runs["row"] == baseline], "params")


def _is_axis(runs: pd.DataFrame, name: str) -> bool:
    known = name in NEEDED
    return not known and all(isinstance(value, str) for value in runs[name])


def values_by_seed(runs: pd.DataFrame, metric: str) -> Values:
    """{row: {seed: value}}; NaN where the run did not finish or its metric is not a number."""
    finished = runs["status"] == "finished"
    if metric not in runs and finished.any():
        metrics = ", ".join(sorted(name for name in map(str, runs) if "/" in name)) or "none"
        raise UserError(f"no run has the metric {metric!r}; metrics of these runs: {metrics}.")
    column = runs[metric] if metric in runs else pd.Series(math.nan, index=runs.index)
    numbers = pd.to_numeric(column).astype("float64").where(finished)
    values: Values = {}
    for row, seed, value in zip(runs["row"], runs["seed"], numbers, strict=True):
        values.setdefault(str(row), {})[int(seed)] = float(value)
    return {row: dict(sorted(seeds.items())) for row, seeds in values.items()}


def _within(metric: str, interval: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return (mean, low, high) with no end outside of the metric's range."""
    (mean, low, high), (least, largest) = interval, limits_of(metric)
    return mean, max(low, least), min(high, largest)


def _verdict_columns(
    metric: str,
    values: Values,
    comparisons: Sequence[Comparison],
    alpha: float,
    margin: float | None,
    looks: Looks | None,
) -> pd.DataFrame:
    found = [mean_interval(seeds.values(), alpha=alpha) for seeds in values.values()]
    own = [(*_within(metric, (mean, low, high)), n) for mean, low, high, n in found]
    means = pd.DataFrame(own, columns=["mean", "mean_low", "mean_high", "seeds"])
    shown = [*_EFFECT, *(["p_within"] if margin else []), *(["look"] if looks else [])]
    judged = pd.DataFrame(map(vars, comparisons), columns=["label", *shown, "verdict"])
    effects = judged.set_index("label").reindex(list(values)).reset_index(drop=True)
    numbers = effects[shown].astype(
        {name: "Int64" if name == "look" else "float64" for name in shown}
    )
    numbers = numbers.rename(columns={"low": "effect_low", "high": "effect_high"})
    means.insert(0, "seeds", means.pop("seeds"))
    return pd.concat([means, numbers, effects["verdict"].fillna("baseline")], axis=1)


def _solved_columns(values: Values, task: Task) -> pd.DataFrame:
    """How many runs solved, and the geometric mean of their times [tokens]."""
    times = [[run.time for run in task.times.get(row, {}).values() if run.solved] for row in values]
    means = [
        math.exp(math.fsum(map(math.log, own)) / len(own)) if own else math.nan for own in times
    ]
    return pd.DataFrame({"solved": [len(own) for own in times], "tokens_to_solve": means})


def _mean_columns(name: str, values: Values) -> pd.DataFrame:
    means = [_within(name, mean_interval(seeds.values())[:3]) for seeds in values.values()]
    return pd.DataFrame(means, columns=[name, f"{name}_low", f"{name}_high"])


def _cost_columns(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    groups = {str(row): group for row, group in runs.groupby("row", sort=False)}
    params = {row: _cost(group, "params") for row, group in groups.items()}
    differences = [100 * (n / params[baseline] - 1) for n in params.values()]
    speeds = [
        pd.to_numeric(group.loc[group["status"] == "finished", "tokens_per_second"])
        for group in groups.values()
    ]
    columns = {
        "params": list(params.values()),
        "params_diff_percent": differences,
        "params_flagged": [abs(difference) > PARAMS_TOLERANCE for difference in differences],
        **{name: [_cost(group, name) for group in groups.values()] for name in _AFTER_PARAMS},
        "tokens_per_second": [float(speed.astype("float64").median()) for speed in speeds],
    }
    return pd.DataFrame(columns).astype(dict.fromkeys(("params", "cache_bytes"), "Int64"))


def _cost(group: pd.DataFrame, column: str) -> float:
    """A fact of the cell, the same for all its seeds, failed ones included."""
    known = pd.to_numeric(group[column]).dropna().unique()
    if len(known) > 1:
        raise UserError(
            f"the seeds of row {group['row'].iloc[0]!r} differ in {column} "
            f"({', '.join(f'{value:,}' for value in known)}): they are not runs of one model."
        )
    return float(known[0]) if len(known) else math.nan


def _with_paper(frame: pd.DataFrame, reference: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    absent = {"row", "value", "note"} - set(reference.columns)
    if absent or reference["row"].duplicated().any():
        raise UserError("the reference needs the columns row, value, note, and each row once.")
    paper = reference.assign(row=reference["row"].astype(str)).set_index("row")
    values = pd.to_numeric(paper["value"]).astype("float64")
    remarks = {str(row): str(note) for row, note in paper["note"].dropna().items() if note}
    shown = frame.assign(
        paper=frame["row"].map(values).astype("float64"),
        paper_note=frame["row"].map(lambda row: remarks.get(row, "")),
    )
    notes = [
        "Column paper: its own models, data and scale; compare the order of rows, not values.",
        *_remark_notes([(row, remarks[row]) for row in frame["row"] if row in remarks]),
    ]
    unmatched = [str(row) for row in paper.index if row not in set(frame["row"])]
    if unmatched:
        notes.append(f"Rows of the paper without runs here: {', '.join(unmatched)}.")
    return shown, notes


def _remark_notes(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """One note per remark: of all rows that have one, or of the rows it names."""
    rows: dict[str, list[str]] = {}
    for row, remark in remarks:
        rows.setdefault(remark, []).append(row)
    if len(rows) == 1 < len(remarks):
        return [f"Paper: {remarks[0][1]}"]
    return [f"Paper, {', '.join(own)}: {remark}" for remark, own in rows.items()]


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
