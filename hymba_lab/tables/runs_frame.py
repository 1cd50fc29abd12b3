"""The tidy frame of runs that a table is made of: refused, or read by row and seed."""

import math

import pandas as pd

from hymba_lab.errors import UserError
from hymba_lab.tables.columns import NEEDED, SHARED, STATUSES

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
