"""Tuning on the compared runs themselves: a row's values race, and the slow ones are given up.

Who chooses a value by one run chooses by luck, and every run of the row then pays for it: where two
values differ by the noise of a run, rows of one and the same architecture are told apart in up to a
third of comparisons. In a race every value trains on the compared seeds, in their order. After k of
them a value is given up whose geometric mean of tokens until solved is more than
exp(0.6 / sqrt(k)) times the best's: 1.8, 1.5, 1.4, 1.35, 1.3 times. What is best over all seeds
stands in the table. Every row chooses by the runs that it is judged by, so that none gains more by
it than a few percent (tests/test_race.py); it takes fewer runs than tuning on as many seeds apart.

Source: races of configurations, Birattari et al. 2002 (F-Race, GECCO); the bound is our own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hymba_lab.sweep.jobs import Job, Outcome, Outcomes, Params, Stage, winner
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.solving import solving_facts, tokens_per_step
from hymba_lab.sweep.widening import MOST, one_further

BEHIND = 0.6  # of the logarithm of a time, after one seed
GIVEN_UP_AT = math.exp(BEHIND)  # times the soonest, on the first seed


Make = Callable[[Stage, int, int, Params, Sequence[tuple[Job, Outcome]]], Job]
"""Makes a job of the row: stage, number, seed, values, and what its pruner compares it with."""


@dataclass(frozen=True)
class Standing:
    """Where a value stands: infinite once a run of it failed or was given up."""

    unsolved: int  # runs that came to the end of their budget
    log_time: float  # mean over its runs; what was not solved counts as solved at its end

    @property
    def rank(self) -> tuple[float, int, float]:
        """Smaller is better at the end: whoever solves oftener, then who is sooner."""
        return (math.inf if math.isinf(self.log_time) else 0, self.unsolved, self.log_time)


def still_racing(log_times: Sequence[float], k: int) -> list[int]:
    """Return which of the mean log times after `k` seeds are within reach of the best."""
    best = min(log_times)
    if math.isinf(best):
        return []
    return [n for n, time in enumerate(log_times) if time - best <= BEHIND / math.sqrt(k)]


def race_jobs(
    file: SweepFile,
    values: Sequence[Params],
    outcomes: Outcomes,
    make: Make,
    seeds: Sequence[int] = (),
) -> list[Job]:
    """Return the jobs of one row that the outcomes so far determine: a pure function of them.

    `seeds`, by default the file's, may be more of them: who was in reach at the end goes on.
    The winner's are of stage "seed", all others of stage "race"; while several are in the race, all
    are. With `widen`, a leader at an edge of what was tried brings one value more into the race.
    """
    entered = list(values)
    for _ in range(MOST + 1):
        jobs, leader = _raced(file, entered, outcomes, make, seeds or file.seeds)
        if not file.widen or leader is None or len(entered) == len(values) + MOST:
            break
        tried = {path: [params[path] for params in entered] for path in file.search}
        further = one_further(leader, tried)
        if further is None:
            break
        entered.append(further)
    return jobs


def _raced(
    file: SweepFile,
    values: Sequence[Params],
    outcomes: Outcomes,
    make: Make,
    seeds: Sequence[int],
) -> tuple[list[Job], Params | None]:
    """Return the jobs, and who leads after the last seed that all have run; None before that."""
    jobs: list[Job] = []
    racing, leader = list(values), None
    for k, seed in enumerate(seeds, start=1):
        if len(racing) == 1 and leader is not None:
            break
        heat = list(_heat(file, racing, k, seed, outcomes, make))
        jobs += heat
        if len(heat) < len(racing) or any(job.identity not in outcomes for job in heat):
            return jobs, leader
        left = _left(file, racing, jobs, outcomes, k)
        if k == len(seeds):
            left = left[:1]
        if not left:  # all failed: the first seed leaves no result, a later one says so
            left = [leader] if leader is not None else []
        if not left:
            return jobs, None
        racing, leader = left, left[0]
    losers = [job for job in jobs if job.params != leader]
    assert leader is not None
    return [*losers, *(make("seed", n, s, leader, ()) for n, s in enumerate(seeds))], leader


def _heat(
    file: SweepFile, racing: Sequence[Params], k: int, seed: int, outcomes: Outcomes, make: Make
) -> Iterator[Job]:
    """The runs of one seed; on the first, one after the other where the soonest bounds the rest."""
    past: list[tuple[Job, Outcome]] = []
    for params in racing:
        job = make("race", k - 1, seed, params, past if k == 1 else ())
        yield job
        if k == 1 and file.pruner.name == "overtaken":
            if job.identity not in outcomes:
                return
            past.append((job, outcomes[job.identity]))


def _left(
    file: SweepFile, racing: Sequence[Params], jobs: Sequence[Job], outcomes: Outcomes, k: int
) -> list[Params]:
    """Return who is still racing after `k` seeds, the best first."""
    own = [[(j, outcomes[j.identity]) for j in jobs if j.params == params] for params in racing]
    standings = [standing(file, runs) for runs in own]
    if k == 1 and not any(one.unsolved == 0 and math.isfinite(one.log_time) for one in standings):
        best = winner([run for runs in own for run in runs], file.metric)
        return [best.params] if best is not None else []
    order = sorted(range(len(racing)), key=lambda n: standings[n].rank)
    within = still_racing([standings[n].log_time for n in order], k)
    return [racing[order[n]] for n in within]


def standing(file: SweepFile, runs: Sequence[tuple[Job, Outcome]]) -> Standing:
    """Return where a value stands by its runs so far."""
    times, unsolved = [], 0
    for job, outcome in runs:
        facts: Mapping[str, float] = {}
        if outcome.status == "finished":
            facts = solving_facts(outcome.record, tokens_per_step(job.config), file.stop)
        if not facts:
            return Standing(len(runs), math.inf)
        solved = bool(facts["solved"])
        unsolved += not solved
        times.append(math.log(facts["tokens_to_solve"] if solved else facts["censored_at"]))
    return Standing(unsolved, math.fsum(times) / len(times))
