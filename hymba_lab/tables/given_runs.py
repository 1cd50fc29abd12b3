"""Anybody's table of runs, read for a verdict: values by row and seed, and what was left out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hymba_lab.errors import UserError
from hymba_lab.stats import RESOLUTION, Run, measured
from hymba_lab.tables.frame_cells import is_missing, key, number_in, truth_in, word
from hymba_lab.tables.frame_columns import column, numbers_of, truths_of, where
from hymba_lab.tables.frame_runs import refuse_unequal, seed_numbers, some, states_of, the_row
from hymba_lab.tables.numbers import limits_of


@dataclass(frozen=True)
class Given:
    """`values` are {row: {seed: value}}, of every row that the table names, NaN where missing.

    `ended` says of runs whether they solved their task, None where the metric is no time. `limits`
    are those given, or those that the metric's name has.
    """

    values: Mapping[str, Mapping[int, float]]
    ended: Mapping[tuple[str, int], bool] | None
    baseline: str
    limits: tuple[float, float]
    notes: Sequence[str]

    def times(self) -> dict[str, dict[int, Run]]:
        """The times of runs that have one; only where they are times."""
        assert self.ended is not None
        ended = self.ended
        return {
            label: {seed: Run(time, ended[label, seed]) for seed, time in measured(own).items()}
            for label, own in self.values.items()
        }


def given_runs(
    frame: pd.DataFrame,
    *,
    row: str,
    metric: str,
    baseline: str,
    seed: str | None,
    solved: str | None,
    censored: str | None,
    same: Sequence[str],
    limits: tuple[float, float] | None,
) -> Given:
    """Read the runs that ended well; a row of which none did is a row without runs.

    Raises UserError for absent columns or rows, a run given twice, and unequal runs.
    """
    if frame.empty:
        raise UserError(f"{where(frame)}the table has no runs; give a line per run.")
    named = [not is_missing(value) for value in column(frame, row)]
    runs = frame[named]
    labels = [word(value) for value in column(runs, row)]
    baseline = the_row(frame, row, baseline, labels)
    states = states_of(runs)
    late = _cut_short(runs, metric, labels, states, seed, solved, censored)
    notes = [*_unnamed(named, row), *_counted(states, late)]
    states = ["" if one else state for state, one in zip(states, late, strict=True)]
    notes += _unfinished(labels, states)
    notes += _copied(runs) if seed is None else []
    runs = runs[[not state for state in states]]
    own = [label for label, state in zip(labels, states, strict=True) if not state]
    seeds = seed_numbers(runs, own, row, seed)
    for name in same:
        refuse_unequal(runs, name, own)
    numbers = numbers_of(runs, metric, limits or (-math.inf, math.inf))
    values: dict[str, dict[int, float]] = {label: {} for label in labels}
    for label, number, value in zip(own, seeds, numbers, strict=True):
        values[label][number] = value
    ended = None
    if solved or censored:
        yes = _solved(runs, metric, numbers, solved, censored)
        ended = dict(zip(zip(own, seeds, strict=True), yes, strict=True))
    notes += _missing(values, metric)
    given = Given(values, ended, baseline, limits or _limits(metric, numbers), notes)
    return replace(given, notes=[*notes, *_alike(given, metric)])


def _limits(metric: str, numbers: Sequence[float]) -> tuple[float, float]:
    """Those that the metric's name has, where no value is outside of them, as percents are."""
    low, high = limits_of(metric)
    inside = all(low <= number <= high for number in numbers if math.isfinite(number))
    return (low, high) if inside else (-math.inf, math.inf)


def _solved(
    frame: pd.DataFrame,
    metric: str,
    times: Sequence[float],
    solved: str | None,
    censored: str | None,
) -> list[bool]:
    """Whether runs solved; each that did not has the time at which it ended."""
    name = solved or censored or ""
    if solved and "censor" in solved.lower() and "uncensor" not in solved.lower():
        raise UserError(
            f"{where(frame)}column {solved!r} says by its name which runs ended without; name it "
            "with --censored."
        )
    yes = truths_of(frame, name, [math.isfinite(time) for time in times])
    told = column(frame, name)
    for at, (time, field, said) in enumerate(zip(times, told, yes, strict=True)):
        if math.isfinite(time) and not time > 0:
            raise UserError(
                f"{where(frame, at)}column {metric!r}: a time until a task is solved is above 0, "
                f"the table holds {time:g}."
            )
        if not math.isfinite(time) and not is_missing(field) and said == bool(censored):
            raise UserError(
                f"{where(frame, at)}column {metric!r}: a run that ended without solving has no "
                "time; give the one at which it ended, else only runs that solved would count."
            )
    return [one != bool(censored) for one in yes]


def _unnamed(named: Sequence[bool], row: str) -> list[str]:
    n = len(named) - sum(named)
    return [f"{n} lines name no {row} and are left out."] if n else []


def _unfinished(labels: Sequence[str], states: Sequence[str]) -> list[str]:
    left = Counter(pair for pair in zip(labels, states, strict=True) if pair[1])
    if not left:
        return []
    told = some(f"{label}: {n} {state}" for (label, state), n in left.items())
    return [f"{left.total()} runs that did not finish are left out ({told})."]


def _cut_short(
    runs: pd.DataFrame,
    metric: str,
    labels: Sequence[str],
    states: Sequence[str],
    seed: str | None,
    solved: str | None,
    censored: str | None,
) -> list[bool]:
    """Which runs ended in another way, unsolved at a time that they name, and count all the same.

    To leave out those that took too long would leave the row's best ones. An attempt that was made
    again does not count: of a row and seed the run that ended well does, else the longest.
    """
    if not (solved or censored):
        return [False] * len(states)
    said = [truth_in(value) for value in column(runs, solved or censored or "")]
    times = [number_in(value) or math.nan for value in column(runs, metric)]
    seeds = range(len(states)) if seed is None else map(key, column(runs, seed))
    places = list(zip(labels, seeds, strict=True))
    taken = {place for place, state in zip(places, states, strict=True) if not state}
    late = [
        at
        for at, time in enumerate(times)
        if states[at] and said[at] is (solved is None) and math.isfinite(time)
    ]
    counted = [False] * len(states)
    for at in sorted(late, key=lambda at: -times[at]):
        counted[at] = places[at] not in taken
        taken.add(places[at])
    return counted


def _counted(states: Sequence[str], late: Sequence[bool]) -> list[str]:
    found = Counter(state for state, one in zip(states, late, strict=True) if one)
    told = some(f"{n} {state}" for state, n in found.items())
    note = f"{found.total()} runs that ended otherwise count as unsolved until then ({told})."
    return [note] if found else []


def _copied(runs: pd.DataFrame) -> list[str]:
    n = int(runs.astype(str).duplicated().sum())
    told = "lines are letter for letter as others; copies of one run are no evidence."
    return [f"{n} {told}"] if n else []


def _missing(values: Mapping[str, Mapping[int, float]], metric: str) -> list[str]:
    notes = []
    for label, own in values.items():
        if n := sum(math.isnan(value) for value in own.values()):
            notes.append(f"{label}: {n} runs have no {metric}.")
        if n := sum(math.isinf(value) for value in own.values()):
            notes.append(
                f"{label}: {n} runs have a {metric} that is infinite. They count as missing, so "
                "the row is judged by those that did not diverge."
            )
    return notes


def _alike(given: Given, metric: str) -> list[str]:
    """What is to be known where values do not differ, or by too little to count.

    At a limit of the metric, or at the end of runs that did not solve, they have a reason to agree.
    """
    rows = {label: np.array(list(measured(own).values())) for label, own in given.values.items()}
    if given.ended is not None:
        times = given.times()
        rows = {label: own for label, own in rows.items() if all(_solves(times[label]))}
    rows = {label: own for label, own in rows.items() if len(own) > 1}
    notes = []
    equal = [label for label, own in rows.items() if not np.ptp(own)]
    if equal := [label for label in equal if rows[label][0] not in given.limits]:
        notes.append(
            f"Every run has the same {metric} in {some(equal)}; copies of one run are no evidence."
        )
    if any(0 < np.ptp(own) <= RESOLUTION * np.abs(own).max() for own in rows.values()):
        notes.append(
            f"Values of {metric} that agree in seven digits count as equal; if what follows them "
            "matters, subtract a constant first."
        )
    return notes


def _solves(times: Mapping[int, Run]) -> list[bool]:
    return [run.solved for run in times.values()]
