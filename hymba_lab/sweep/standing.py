"""Why two rows may not be compared as they stand: what tuning knows of them.

Runs are the same runs in every table that holds them, so one table's race may show that a row of
another one stands at a value that lost. And what was tuned for one metric says nothing of another:
rows of different values differ in it by the values, too.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from hymba_lab.sweep.export import Export
from hymba_lab.sweep.question.designs import shown
from hymba_lab.sweep.tuned import chosen_by_one_run

Lost = Mapping[str, str]


def lost_values(exports: Iterable[Export]) -> dict[str, str]:
    """{identity of a run: which value lost to which, and where}, from every race.

    Rows of which no value solved the first seed were not raced: one run of each value chose.
    """
    lost, won = dict[str, str](), set[str]()
    for export in exports:
        if export.tuning is None or export.sweep.tuned_by_one_run:
            continue
        paths = list(export.sweep.search)
        unraced = chosen_by_one_run(export.tuning, export.sweep)
        for _, runs in export.tuning[~export.tuning["row"].isin(unraced)].groupby("row"):
            chosen = runs["chosen"] == 1
            if not chosen.any():  # still racing
                continue
            won |= set(runs["identity"][chosen])
            winner = _values(runs[chosen], paths)
            for values, own in runs[~chosen].groupby(paths):
                said = f"{_told(paths, values)} lost to {winner} in {export.name}"
                lost = dict.fromkeys(own["identity"], said) | lost
    return {identity: said for identity, said in lost.items() if identity not in won}


def standing(export: Export, lost: Lost) -> str:
    """Say which of an export's rows stand at a value that lost, and where; "" where none does."""
    runs = export.runs
    rows = dict.fromkeys(runs["row"][runs["identity"].isin(list(lost))])
    said = (f"“{row}” stands where {_of(runs[runs['row'] == row], lost)}" for row in rows)
    return "".join(f" {one}." for one in said).strip()


def unfair(
    runs: pd.DataFrame, rows: tuple[str, str], lost: Lost, *, search: Sequence[str], tuned_for: str
) -> str:
    """Say why these two rows of `runs` may not be compared; "" where they may.

    `tuned_for` is what the searched values were chosen by where it is not what is compared, else
    "".
    """
    own = [runs[runs["row"] == row] for row in rows]
    for row, of_row in zip(rows, own, strict=True):
        if said := _of(of_row, lost):
            return f"{row} stands where {said}"
    first, second = (_values(of_row, search) for of_row in own)
    if tuned_for and first != second:
        return f"tuned for {tuned_for}, and at different values: {first} and {second}"
    return ""


def _of(runs: pd.DataFrame, lost: Lost) -> str:
    """What the first of these runs that lost lost to."""
    return next((lost[identity] for identity in runs["identity"] if identity in lost), "")


def _values(runs: pd.DataFrame, paths: Sequence[str]) -> str:
    """The searched values of a row, as words; those that are no column of `runs` were not tuned."""
    there = [path for path in paths if path in runs]
    values = runs[there].drop_duplicates().itertuples(index=False, name=None)
    return " or ".join(_told(there, one) for one in values)


def _told(paths: Sequence[str], values: Sequence[object]) -> str:
    return ", ".join(f"{path} {shown(value)}" for path, value in zip(paths, values, strict=True))
