"""Every run that chose a row's values, as `tuning.csv` beside an export: the choice, to be checked.

A line is a run: `row`, `seed`, the values it tried, `chosen` (1: these values stand in the table),
how it ended, the metric at its end, and, where a task is solved, when that was. Of a race the
compared runs are lines, too, since they chose; otherwise tuning has runs of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hymba_lab.sweep.question.file import Stop, SweepFile
from hymba_lab.sweep.question.level import task_of_sweep
from hymba_lab.tables.columns import SOLVING

NAME = "tuning.csv"
Line = Mapping[str, Any]


def chosen_by(file: SweepFile, base: Mapping[str, Any]) -> Stop | None:
    """Return the task by which values were chosen; None where the metric chose. `base`: resolved"""
    return task_of_sweep(file, base) if file.tuning == "race" else file.stop


def tuning_csv(
    file: SweepFile, task: Stop | None, lines: Iterable[Line], runs: pd.DataFrame
) -> str:
    """Return `tuning.csv`: rows in the order of the table, values ascending, then seeds.

    `runs` is the frame of the compared runs: the values that stand there are the chosen ones.
    """
    tuned = ["row", *file.search]
    won = set(runs.reindex(columns=tuned).itertuples(index=False, name=None))
    place = {row: number for number, row in enumerate(dict.fromkeys(runs["row"]))}
    found = [{**line, "chosen": int(tuple(map(line.get, tuned)) in won)} for line in lines]
    found.sort(
        key=lambda line: (
            place.get(line["row"], len(place)),
            order(line[path] for path in file.search),
            line["seed"],
            line["identity"],
        )
    )
    frame = pd.DataFrame(found, columns=tuning_columns(file, task))
    return str(frame.to_csv(index=False, lineterminator="\n"))


def tuning_columns(file: SweepFile, task: Stop | None) -> list[str]:
    """Return the columns of `tuning.csv`."""
    ended = [file.metric.name, *(SOLVING if task else ()), "seconds"]
    return ["row", "seed", *file.search, "chosen", "status", *ended, "identity", "commit"]


def chosen_by_one_run(tuning: pd.DataFrame | None, file: SweepFile) -> list[str]:
    """Return the rows of a race whose values one run of each chose: none solved the first seed.

    The first is the one that the race began with, which need not be the smallest.
    """
    if tuning is None or "solved" not in tuning:
        return []
    return [
        str(row)
        for row, runs in tuning.groupby("row", sort=False)
        if not runs["solved"][runs["seed"] == file.seeds[0]].any()
        and _once(runs[runs["chosen"] != 1], list(file.search))
    ]


def _once(losers: pd.DataFrame, search: list[str]) -> bool:
    """Whether there are values that were not chosen, and each had one run."""
    return not losers.empty and not losers.duplicated(search).any()


def order(values: Iterable[Any]) -> tuple[tuple[bool, Any], ...]:
    """Return the key that sorts tried values: ascending, numbers before words."""
    return tuple((isinstance(value, str), value) for value in values)
