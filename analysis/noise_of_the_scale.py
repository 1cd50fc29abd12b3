"""`python analysis/noise_of_the_scale.py > docs/noise_of_the_scale.md`.

Every raced table's verdicts with the noise of its own rows, as it stands, and with that of all
other solved rows of the same scale beside it. Nothing is trained.
"""

import statistics
from collections.abc import Iterator, Sequence
from math import inf, log, sqrt
from pathlib import Path

from hymba_lab.stats import Comparison, Spread, compare_times
from hymba_lab.stats.times import factor_of, log_spreads
from hymba_lab.sweep.documents import task_of_export
from hymba_lab.sweep.export import Export, read_export
from hymba_lab.tables.solving import Task

HEAD = """# Whose noise

A table's variances are steadied by each other ([how](how_a_verdict_is_made.md)), so that a table
stands by itself: no other sweep, run later, changes it. The solved rows of all other tables of the
scale say more of the noise. Here are all comparisons of the tables in `results/` that a race tuned,
as they stand, and again with the variances of those rows (`others` of `compare_times`; rows of the
same runs count once, none that the table has itself). Tables that compare seeds in pairs take none:
their noise is that of differences. Width is that of the 95 % intervals with those rows over that
without, in logs, its median over the rows of which all solved; sd is that of the log of the tokens
until solved, the root mean square over a table's rows of which all solved.
Written by `python analysis/noise_of_the_scale.py`; nothing was trained for it.

| table | comparisons | sd | further rows | their sd | width | verdicts that differ |
|---|---:|---:|---:|---:|---:|---|"""


def raced() -> Iterator[tuple[Export, Task]]:
    """Yield the committed tables at nano scale that a race tuned, each with its task."""
    for folder in sorted(Path("results").glob("*-nano")):
        export = read_export(folder)
        task = task_of_export(export)
        if task is not None and export.sweep.trials_per_cell > 1 and export.sweep.tuning == "race":
            yield export, task


def further(own: Export, tables: Sequence[tuple[Export, Task]]) -> list[Spread]:
    """Return the variances of the solved rows of the other tables, of the same runs once."""
    known = {frozenset(row) for _, row in own.runs.groupby("row")["identity"]}
    rows = {}
    for export, task in tables:
        for label, row in export.runs.groupby("row")["identity"]:
            if frozenset(row) not in known:
                known.add(frozenset(row))
                rows[f"{export.name} {label}"] = task.times[str(label)]
    return log_spreads(rows)


def comparisons(export: Export, task: Task, others: Sequence[Spread]) -> list[Comparison]:
    """Return a table's comparisons with the noise of `others` beside its own."""
    sweep, baseline = export.sweep, export.facts.baseline
    margin = factor_of(sweep.margin)
    found = compare_times(task.times, baseline, alpha=sweep.alpha, margin=margin, others=others)
    return [task.taught(one.comparison, sweep.control, baseline) for one in found]


def line(export: Export, task: Task, tables: Sequence[tuple[Export, Task]]) -> str:
    """Return one table's line."""
    others = further(export, tables)
    alone, beside = comparisons(export, task, ()), comparisons(export, task, others)
    widths = [_width(b) / _width(a) for a, b in zip(alone, beside, strict=True) if a.high < inf]
    differ = [
        f"{a.label}: {a.kind}, then {b.kind}"
        for a, b in zip(alone, beside, strict=True)
        if a.kind != b.kind
    ]
    cells = [
        f"`{export.name}`", str(len(alone)), _sd(log_spreads(task.times)), str(len(others)),
        _sd(others), f"{statistics.median(widths):.2f}", "; ".join(differ) or "none",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _width(one: Comparison) -> float:
    return log(one.high) - log(one.low)


def _sd(spreads: Sequence[Spread]) -> str:
    return f"{sqrt(statistics.fmean(one.variance for one in spreads)):.2f}"


def main() -> None:
    """Print the page."""
    tables = list(raced())
    print("\n".join([HEAD, *(line(export, task, tables) for export, task in tables)]))


if __name__ == "__main__":
    main()
