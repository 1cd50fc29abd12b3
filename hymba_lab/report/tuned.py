"""How every row of a page was tuned: what each value came to, and which of them stands above."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from hymba_lab.report.tables_html import table_html
from hymba_lab.sweep.export import Export
from hymba_lab.sweep.question.designs import shown
from hymba_lab.sweep.tuned import chosen_by, order
from hymba_lab.tables.display import Column, metric_heading
from hymba_lab.tables.numbers import MISSING, number

MOST = 12  # columns; a sampler that draws gives every row values of its own


def tuning_table(export: Export) -> str:
    """Return rows against the values they tried, or "" where no table shows them."""
    runs, paths = export.tuning, list(export.sweep.search)
    if runs is None or runs.empty:
        return ""
    tried = sorted(set(runs[paths].itertuples(index=False, name=None)), key=order)
    if len(tried) > MOST:
        return ""
    rows = list(dict.fromkeys(runs["row"]))
    columns = [Column("row", rows, False)]
    for values in tried:
        cells = [_cell(export, _of(runs, {"row": row, **_named(paths, values)})) for row in rows]
        columns.append(Column(", ".join(map(shown, values)), cells, True))
    return table_html(columns, f"{', '.join(paths)}: {_caption(export)}")


def _caption(export: Export) -> str:
    what = f"{metric_heading(export.sweep.metric.name)} at the end, mean"
    if _by_task(export):
        what = (
            "thousand tokens until solved, geometric mean; "
            ">: a run ended unsolved, counted at its end"
        )
    return f"{what}; in brackets the runs; ✓ stands in the table above"


def _named(paths: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(paths, values, strict=True))


def _of(runs: pd.DataFrame, wanted: dict[str, Any]) -> pd.DataFrame:
    return runs[(runs[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def _cell(export: Export, own: pd.DataFrame) -> str:
    """`✓ 790 (6)`; `> 1,310 (1)` where a run ended before it had solved the task."""
    if own.empty:
        return MISSING
    value = _solved_at(own) if _by_task(export) else _level(export, own)
    return f"{'✓ ' if own['chosen'].any() else ''}{value} ({len(own)})"


def _by_task(export: Export) -> bool:
    return chosen_by(export.sweep, export.base) is not None


def _solved_at(own: pd.DataFrame) -> str:
    times = own["tokens_to_solve"].fillna(own["tokens_trained"])
    if times.isna().any():
        return "failed"
    mean = math.exp(times.map(math.log).mean())
    unsolved = own["tokens_to_solve"].isna().any()
    return f"{'> ' if unsolved else ''}{number(mean / 1000, 0)}"


def _level(export: Export, own: pd.DataFrame) -> str:
    mean = float(own[export.sweep.metric.name].mean())
    return "failed" if math.isnan(mean) else number(mean, 4)
