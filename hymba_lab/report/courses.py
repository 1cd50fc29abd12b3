"""The courses of runs that end when they have solved their task, so that means are of all seeds."""

import pandas as pd

from hymba_lab.sweep.export import Export

HELD = "A run that ended when it had solved the task stays where it ended."
CUT = "A row is shown until the first of its runs ended, for it had solved the task."


def course(export: Export, metric: str) -> tuple[pd.DataFrame, str]:
    """Return the lines of one metric, and what a reader must know of runs that ended early.

    A mean over the runs that are left would be one of other seeds at every step. What a run solved
    it goes on solving, so the metric that ended it is held; of others nobody knows the rest.
    """
    own = export.curves[export.curves["metric"] == metric]
    stop = export.sweep.stop
    last = own.groupby(["row", "seed"])["step"].transform("max")
    if stop is None or last.nunique() < 2:
        return own, ""
    if metric == stop.metric:
        return _held(own), HELD
    ends = own.groupby(["row", "seed"])["step"].max().groupby("row").min()
    return own[own["step"] <= own["row"].map(ends)], CUT


def _held(own: pd.DataFrame) -> pd.DataFrame:
    """Every run at every step of its row, its last value behind its end."""
    parts = []
    for _, row in own.groupby("row", sort=False):
        steps = row.drop_duplicates("step").set_index("step")["tokens"].sort_index()
        for _, run in row.groupby("seed", sort=False):
            whole = run.set_index("step").sort_index().reindex(steps.index)
            behind = whole.index > run["step"].max()
            whole = whole[whole["value"].notna() | behind].ffill()
            parts.append(whole.assign(tokens=steps).reset_index())
    held: pd.DataFrame = pd.concat(parts)[list(own.columns)]
    return held.astype({"seed": own["seed"].dtype})
