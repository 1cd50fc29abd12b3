"""Tuning on the compared runs themselves: a row's values race, and the slow ones are given up.

Who chooses a value by one run chooses by luck, and every run of the row then pays for it: where two
values differ by the noise of a run, rows of one and the same architecture are told apart in up to a
third of comparisons. In a race every value trains on the compared seeds, in their order. After k of
them a value is given up whose geometric mean of tokens until solved is more than exp(0.6 / sqrt(k))
times the leader's: 1.8, 1.5, 1.4, 1.35, 1.3 times; the leader is who solved oftenest, then soonest,
and a value that has solved two seeds fewer is given up, too. A run that ended unsolved counts as
solved at its end where it was nearly there, at twice its end where it stood at the best guess, and
between them by the way of its metric that was left. Without a task to solve it is the
metric's mean, and `behind` / sqrt(k). What is best over all seeds stands in the table. Every row
chooses by the runs that it is judged by, so that none gains more by it than a few percent
(tests/test_race.py); it takes fewer runs than tuning on as many seeds apart.

Source: races of configurations, Birattari et al. 2002 (F-Race, GECCO); the bound is our own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hymba_lab.sweep.jobs import Job, Outcome, Outcomes, Params, Stage, value_of, winner
from hymba_lab.sweep.question.file import Metric, Stop, Sweep, SweepFile
from hymba_lab.sweep.question.level import recall_guess, task_of_sweep
from hymba_lab.sweep.solving import solving_facts, tokens_per_step
from hymba_lab.sweep.widening import MOST, one_further

BEHIND = 0.6  # of the logarithm of a time, after one seed
FEWER = 2  # seeds solved than the leader
UNBEGUN = math.log(2)  # of a run that has learned nothing, beyond its end
GIVEN_UP_AT = math.exp(BEHIND)  # times the soonest, on the first seed


Make = Callable[[Stage, int, int, Params, Sequence[tuple[Job, Outcome]]], Job]
"""Makes a job of the row: stage, number, seed, values, and what its pruner compares it with."""


@dataclass(frozen=True)
class Standing:
    """Where a value stands: infinite once a run of it failed or was given up."""

    unsolved: int  # runs that came to the end of their budget
    mean: float  # over its runs, smaller is better: of the log time, or of the metric

    @property
    def rank(self) -> tuple[float, int, float]:
        """Smaller is better at the end: whoever solves oftener, then who is sooner."""
        return (math.inf if math.isinf(self.mean) else 0, self.unsolved, self.mean)


@dataclass(frozen=True)
class Race:
    """What values race for: to solve a task sooner, or without one to end with a better metric."""

    file: SweepFile
    task: Stop | None
    guess: float = math.nan  # of the task's metric, by who never looks at the content

    @property
    def metric(self) -> Metric:
        """What decides where nothing solves."""
        return self.file.metric

    @property
    def behind(self) -> float:
        """How far behind the best a value is given up after one seed."""
        return BEHIND if self.task else self.file.behind or math.inf

    def standing(self, runs: Sequence[tuple[Job, Outcome]]) -> Standing:
        """Return where a value stands by its runs so far."""
        marks = [self._mark(job, outcome) for job, outcome in runs]
        mean = math.fsum(mark for mark, _ in marks) / len(marks)
        return Standing(sum(not solved for _, solved in marks), mean)

    def _mark(self, job: Job, outcome: Outcome) -> tuple[float, bool]:
        if outcome.status != "finished":
            return math.inf, False
        if self.task is None:
            value = value_of(job, outcome, self.metric)
            sign = -1 if self.metric.goal == "maximize" else 1
            return (math.inf, False) if math.isnan(value) else (sign * value, True)
        facts = solving_facts(outcome.record, tokens_per_step(job.config), self.task)
        if facts["solved"]:
            return math.log(facts["tokens_to_solve"]), True
        left = self._left(outcome.record["metrics"].get(self.task.metric, math.nan), self.task.at)
        return math.log(facts["censored_at"]) + UNBEGUN * left, False

    def _left(self, value: float, at: float) -> float:
        """The share of the way from the guess to the level that was left; 0 where not known."""
        if math.isnan(self.guess) or math.isnan(value) or at <= self.guess:
            return 0.0
        return min(1.0, max(0.0, (at - value) / (at - self.guess)))


def race_of(sweep: Sweep) -> Race:
    """Return what the values of this sweep's rows race for."""
    base = sweep.base.resolved()
    task = task_of_sweep(sweep.file, base)
    return Race(sweep.file, task, recall_guess(base, task.metric) if task else math.nan)


def still_racing(standings: Sequence[Standing], k: int, behind: float = BEHIND) -> list[int]:
    """Return which of the values, standing so after `k` seeds, go on: the best first.

    The mean of a value that did not always solve may be smaller than the leader's, since a run
    that was nearly there counts as solved at its end: it is in reach, but not by solving less.
    """
    order = sorted(range(len(standings)), key=lambda n: standings[n].rank)
    leader = standings[order[0]]
    if math.isinf(leader.mean):
        return []
    reach = leader.mean + behind / math.sqrt(k)
    return [
        n
        for n in order
        if standings[n].mean <= reach and standings[n].unsolved - leader.unsolved < FEWER
    ]


def race_jobs(
    race: Race,
    values: Sequence[Params],
    outcomes: Outcomes,
    make: Make,
    seeds: Sequence[int] = (),
    takes: Callable[[Params], bool] = lambda params: True,
) -> list[Job]:
    """Return the jobs of one row that the outcomes so far determine: a pure function of them.

    `seeds`, by default the file's, may be more of them: who was in reach at the end goes on.
    The winner's are of stage "seed", all others of stage "race"; while several are in the race, all
    are. With `widen`, a leader at an edge of what was tried brings one value more into the race,
    if the row `takes` it.
    """
    file, entered = race.file, list(values)
    for _ in range(MOST + 1):
        jobs, leader = _raced(race, entered, outcomes, make, seeds or file.seeds)
        if not file.widen or leader is None or len(entered) == len(values) + MOST:
            break
        tried = {path: [params[path] for params in entered] for path in file.search}
        further = one_further(leader, tried)
        if further is None or not takes(further):
            break
        entered.append(further)
    return jobs


def _raced(
    race: Race,
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
        heat = list(_heat(race.file, racing, k, seed, outcomes, make))
        jobs += heat
        if len(heat) < len(racing) or any(job.identity not in outcomes for job in heat):
            return jobs, leader
        left = _left(race, racing, jobs, outcomes, k)
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
    race: Race, racing: Sequence[Params], jobs: Sequence[Job], outcomes: Outcomes, k: int
) -> list[Params]:
    """Return who is still racing after `k` seeds, the best first."""
    own = [[(j, outcomes[j.identity]) for j in jobs if j.params == params] for params in racing]
    standings = [race.standing(runs) for runs in own]
    if k == 1 and not any(one.unsolved == 0 and math.isfinite(one.mean) for one in standings):
        best = winner([run for runs in own for run in runs], race.metric)
        return [best.params] if best is not None else []
    return [racing[n] for n in still_racing(standings, k, race.behind)]
