"""What stands under a table of how its rows were tuned: alike, on what, and who won."""

import math
from collections.abc import Collection, Mapping, Sequence

from hymba_lab.sweep.jobs import Job, Outcomes
from hymba_lab.sweep.question.designs import shown
from hymba_lab.sweep.question.file import Sweep, SweepFile
from hymba_lab.sweep.race import FEWER, Race, race_of
from hymba_lab.sweep.widening import at_edge, never_widened

Rows = Mapping[str, Sequence[Job]]


def tuning_notes(sweep: Sweep, jobs: Sequence[Job], outcomes: Outcomes) -> list[str]:
    """Say how every row was tuned, which values won, and which of them stand at an edge."""
    file = sweep.file
    if not file.search:
        return []
    race = file.tuning == "race"
    chosen, tuning = _rows(file, jobs)
    if race:
        first = _race_note(race_of(sweep), chosen, tuning, outcomes)
    else:
        first = _trials_note(file, chosen, jobs)
        if file.stop is not None:
            first += " The soonest to solve the task wins, where any does." + _given_up(
                tuning, outcomes
            )
    return [first + _widened(file, tuning), *_edges(file, chosen, tuning)]


def _rows(file: SweepFile, jobs: Sequence[Job]) -> tuple[dict[str, Job], dict[str, list[Job]]]:
    """Return a job of every row whose values are chosen, and the jobs that chose or will."""
    chosen = {job.cell.label: job for job in jobs if job.stage == "seed"}
    tuning: dict[str, list[Job]] = {label: [] for label in chosen}
    for job in jobs:
        if file.tuning == "race" or job.stage == "tune":
            tuning.setdefault(job.cell.label, []).append(job)
    return chosen, tuning


def edge_notes(sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
    """Warn, before there is a table, of rows whose chosen value stands at an edge of those tried.

    With `widen` that is so only where it has gone on as far as it may.
    """
    chosen, tuning = _rows(sweep.file, jobs)
    edges = _at_edges(chosen, tuning, sweep.file.search)
    more = "" if sweep.file.widen else " (`widen: true` goes on)"
    return [f"Warning: {edge} was tuned to an edge of its values{more}." for edge in edges]


def _at_edges(chosen: Mapping[str, Job], tuning: Rows, paths: Collection[str]) -> list[str]:
    """Return the rows whose value stands at an edge of what they tried, each with it."""
    return [
        f"{label} ({path} {shown(value)})"
        for label, job in chosen.items()
        for path, value in job.params.items()
        if path in paths
        and at_edge([one.params[path] for one in tuning[label] if path in one.params], value)
    ]


def _trials_note(file: SweepFile, chosen: Mapping[str, Job], jobs: Sequence[Job]) -> str:
    compared = sorted({job.seed for job in jobs if job.stage == "seed"} or file.seeds)
    won = "; ".join(f"{label}: {_values(job)}" for label, job in chosen.items())
    return (
        f"Tuned alike: {file.n_trials or file.trials_per_cell} trials of {', '.join(file.search)} "
        f"{'in all' if file.n_trials else 'per row'} on seed {file.tune_seed}, which is not among "
        f"the compared seeds {compared}. Won: {won}."
    )


def _race_note(race: Race, chosen: Mapping[str, Job], tuning: Rows, outcomes: Outcomes) -> str:
    file = race.file
    won = (
        f"{label}: {_values(job)}{_next_best(race, job, tuning[label], outcomes)}"
        for label, job in chosen.items()
    )
    n_runs = len({job.identity for own in tuning.values() for job in own})
    return (
        f"Tuned alike, by a race: {file.trials_per_cell} values of {', '.join(file.search)} train "
        f"on the compared seeds {file.seeds}, {n_runs} runs in all. After k seeds those are given "
        f"up {_bound(race)}; the best over all seeds stands in the table.{_went_on(file)} "
        f"Won: {'; '.join(won)}.{_by_one_run(race, chosen, tuning, outcomes)}"
    )


def _by_one_run(race: Race, chosen: Mapping[str, Job], tuning: Rows, outcomes: Outcomes) -> str:
    """Say in which rows no value solved the first seed: the metric chose there, and by one run."""
    told = []
    for label in chosen:  # of the others the race is not over
        own = [job for job in tuning[label] if job.identity in outcomes]
        first = [job for job in own if job.seed == race.file.seeds[0]]
        solved = (race.standing([(job, outcomes[job.identity])]).unsolved == 0 for job in first)
        if first and not any(solved):
            told.append(label)
    if not told:
        return ""
    return (
        f" No value solved the first seed in {', '.join(told)}: what had come furthest there was "
        "taken, by one run."
    )


def _bound(race: Race) -> str:
    if race.task is None:
        return f"whose mean {race.metric.name} is over {race.behind:g} / sqrt(k) behind the best"
    return (
        f"whose geometric mean of tokens until solved is over exp({race.behind:g} / sqrt(k)) times "
        f"the leader's (a run that ended unsolved counts as up to twice its end, the less it had "
        f"learned), or that have solved {FEWER} seeds fewer"
    )


def _went_on(file: SweepFile) -> str:
    return " Over further seeds went all that were in reach till then." if file.looks else ""


def _next_best(race: Race, best: Job, own: Sequence[Job], outcomes: Outcomes) -> str:
    """Say who came to the end of a race beside the winner, and how much later."""
    rivals: dict[str, list[Job]] = {}
    for job in own:
        if job.identity in outcomes:
            rivals.setdefault(_values(job), []).append(job)
    times = {
        values: race.standing([(job, outcomes[job.identity]) for job in jobs]).mean
        for values, jobs in rivals.items()
        if len(jobs) == len(rivals[_values(best)])
    }
    mine = times.pop(_values(best), math.inf)
    late = sorted((time, values) for values, time in times.items() if math.isfinite(time - mine))
    if not late:
        return ""
    mean, values = late[0]
    by = f"{mean - mine:.3g} behind" if race.task is None else f"{math.exp(mean - mine):.2f} times"
    return f" (next {values}, {by})"


def _values(job: Job) -> str:
    return ", ".join(map(shown, job.params.values()))


def _given_up(tuning: Rows, outcomes: Outcomes) -> str:
    tried = {job.identity for own in tuning.values() for job in own} & outcomes.keys()
    n = sum(outcomes[run].status == "pruned" for run in tried)
    return f" {n} that had not by then {'was' if n == 1 else 'were'} given up." if n else ""


def _widened(file: SweepFile, tuning: Rows) -> str:
    """Say how far past its choices a row went."""
    further = dict.fromkeys(
        f"{label} to {shown(job.params[path])}"
        for path, span in file.search.items()
        for label, own in tuning.items()
        for job in own
        if file.widen and job.params[path] not in (span.choices or [])
    )
    return f" Widened where the best stood at an edge: {'; '.join(further)}." if further else ""


def _edges(file: SweepFile, chosen: Mapping[str, Job], tuning: Rows) -> list[str]:
    told = never_widened(file)  # by the table itself
    edges = _at_edges(chosen, tuning, file.search.keys() - told.keys())
    said = "At an edge of what was tried, and perhaps better beyond it"
    return [f"{said}: {'; '.join(edges)}."] if edges else []
