"""What a table says first where one run of each value tuned its rows, all of them or some."""

from dataclasses import replace

from hymba_lab import tables
from hymba_lab.sweep.export import Export
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.tuned import chosen_by_one_run
from hymba_lab.tables.sentence import kind, listed


def luck_notes(export: Export) -> list[str]:
    """Return what such a table says before all else, but for a control that failed."""
    sweep = export.sweep
    if sweep.tuned_by_one_run:
        return [_of_all(sweep)]
    rows = chosen_by_one_run(export.tuning, sweep)
    return [_of_some(listed(rows), sweep)] if rows else []


def with_caution(table: tables.Table, export: Export) -> tables.Table:
    """Return the table with a caution beside what it decides of such rows."""
    sweep = export.sweep
    if sweep.tuned_by_one_run:
        caution = "One run a value tuned each row: this may be the luck of that."
        return replace(table, caution=caution)
    rows = chosen_by_one_run(export.tuning, sweep)
    lines = table.frame[table.frame["row"].isin(rows)].to_dict("records")
    decided = any(
        kind({str(name): value for name, value in line.items()}) in ("better", "worse")
        for line in lines
    )
    caution = f"One run a value tuned {listed(rows)}: what is said of it may be the luck of that."
    return replace(table, caution=caution) if decided else table


def _of_all(sweep: SweepFile) -> str:
    return (
        f"Each row's {', '.join(sweep.search)} was chosen by one run a value: the luck of that "
        "choice is in no interval, and by simulation tells rows of one architecture apart "
        "in up to a third of such comparisons (docs/how_a_verdict_is_made.md). tuning: race "
        "chooses over the compared seeds."
    )


def _of_some(named: str, sweep: SweepFile) -> str:
    return (
        f"No {', '.join(sweep.search)} solved the first seed in {named}: one run a value chose "
        "there, by how far it had come, and a verdict on it may be the luck of that. A longer "
        "budget would race it."
    )
