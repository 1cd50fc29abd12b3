"""What to run next, as a pure function of what has finished.

A cell first tunes its hyperparameters on a seed of its own (`tune_seed`), then repeats the winner
over `seeds`. No state survives a process: whoever starts again derives the same jobs from the same
results, whatever the order in which they came in.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hymba_lab.config import Config, resolve
from hymba_lab.runs import run_identity
from hymba_lab.sweep.cells import Cell, make_cell
from hymba_lab.sweep.file import Metric, Range, Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)

Params = dict[str, Any]  # path in the configuration (or axis) -> value
Stage = Literal["tune", "seed"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `record` is the run's result file, empty after a failure."""

    status: Literal["finished", "pruned", "failed"]
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Job:
    """One training run of a cell."""

    cell: Cell
    stage: Stage
    index: int  # number of the trial, or of the seed
    seed: int
    params: Params
    config: Config
    identity: str
    history: tuple[Outcome, ...] = ()  # what a pruner compares with

    @property
    def name(self) -> str:
        """Return the run's name in MLflow: its labels."""
        what = f"trial {self.index}" if self.stage == "tune" else f"seed {self.seed}"
        return f"{self.cell.label}, {what}"


Outcomes = Mapping[str, Outcome]


class Planner:
    """The jobs of a sweep; needs the data's fingerprint for identities."""

    def __init__(self, sweep: Sweep, cells: Sequence[Cell], fingerprint: str, vocab: int) -> None:
        self.sweep, self.cells, self.fingerprint = sweep, list(cells), fingerprint
        self._vocab = vocab
        self._jobs: dict[tuple[str, str, int, str], Job] = {}

    def jobs(self, outcomes: Outcomes) -> list[Job]:
        """Return every job that the outcomes so far determine, finished ones included."""
        if self.sweep.file.design == "search":
            return list(self._search_jobs(outcomes))
        return [job for cell in self.cells for job in self._cell_jobs(cell, outcomes)]

    def total(self) -> int:
        """Return how many jobs the sweep comes to (with design search: at least)."""
        file = self.sweep.file
        if file.design == "search":
            return (file.n_trials or 0) + len(file.seeds)
        return len(self.cells) * (file.trials_per_cell + len(file.seeds))

    def _cell_jobs(self, cell: Cell, outcomes: Outcomes) -> Iterator[Job]:
        file = self.sweep.file
        tuned: list[Job] = []
        for index in range(file.trials_per_cell):
            past = known(tuned[: self._visible(index)], outcomes)
            if past is None:
                break
            params = suggest(self.sweep, file.search, index, past, [file.metric])
            tuned.append(self._job(cell, "tune", index, file.tune_seed, params, past))
        yield from tuned
        done = known(tuned, outcomes)
        if len(tuned) < file.trials_per_cell or done is None:
            return
        best = winner(done, file.metric) if tuned else None
        if tuned and best is None:
            return  # nothing finished: the row stays without a result
        params = best.params if best else {}
        for index, seed in enumerate(file.seeds):
            yield self._job(cell, "seed", index, seed, params)

    def _search_jobs(self, outcomes: Outcomes) -> Iterator[Job]:
        """Optuna chooses the labels too; what no other trial dominates is repeated over the seeds."""
        file = self.sweep.file
        spans = {axis: Range(choices=list(labels)) for axis, labels in file.axes.items()}
        goals = file.objectives or [file.metric]
        tried: list[Job] = []
        for index in range(file.n_trials or 0):
            past = known(tried[: self._visible(index)], outcomes)
            if past is None:
                break
            params = suggest(self.sweep, {**spans, **file.search}, index, past, goals)
            choice = {axis: str(params.pop(axis)) for axis in file.axes}
            tried.append(self._job(self._cell(choice), "tune", index, file.tune_seed, params, past))
        yield from tried
        done = known(tried, outcomes)
        if len(tried) < (file.n_trials or 0) or done is None:
            return
        for job in pareto_jobs(done, goals):
            for index, seed in enumerate(file.seeds):
                yield self._job(job.cell, "seed", index, seed, job.params)

    def _visible(self, index: int) -> int:
        """Return how many of the earlier trials number `index` may look at."""
        sampler = self.sweep.file.sampler
        return 0 if index < sampler.n_startup_trials else max(0, index - sampler.lag + 1)

    def _cell(self, choice: dict[str, str]) -> Cell:
        for cell in self.cells:
            if cell.choice == choice:
                return cell
        self.cells.append(make_cell(self.sweep, choice, " / ".join(choice.values()), self._vocab))
        return self.cells[-1]

    def _job(
        self,
        cell: Cell,
        stage: Stage,
        index: int,
        seed: int,
        params: Params,
        past: "Sequence[tuple[Job, Outcome]]" = (),
    ) -> Job:
        key = (cell.label, stage, index, repr(sorted(params.items())))
        if key not in self._jobs:
            document = cell.document
            for path, value in params.items():
                document = document.patched(
                    path, value, self.sweep.document.where(["search", path])
                )
            config = resolve(document)
            identity = run_identity(config, seed, self.fingerprint)
            history = tuple(outcome for _, outcome in past)
            self._jobs[key] = Job(cell, stage, index, seed, params, config, identity, history)
        return self._jobs[key]


def known(jobs: Sequence[Job], outcomes: Outcomes) -> list[tuple[Job, Outcome]] | None:
    """Return the jobs with their outcomes, or None while one is still out."""
    if any(job.identity not in outcomes for job in jobs):
        return None
    return [(job, outcomes[job.identity]) for job in jobs]


def value_of(job: Job, outcome: Outcome, metric: Metric) -> float:
    """Return a finished job's metric or cost; NaN when it was not measured."""
    if metric.name.startswith("cost/"):
        return float(getattr(job.cell.costs, metric.name.removeprefix("cost/")))
    if outcome.status != "finished":
        return math.nan
    return float(outcome.record["metrics"].get(metric.name, math.nan))


def winner(done: Sequence[tuple[Job, Outcome]], metric: Metric) -> Job | None:
    """Return the best finished trial; the earlier one of equals, None when none finished."""
    sign = -1 if metric.goal == "maximize" else 1
    scored = [(sign * value_of(job, outcome, metric), job.index, job) for job, outcome in done]
    finished = [entry for entry in scored if not math.isnan(entry[0])]
    return min(finished, key=lambda entry: entry[:2])[2] if finished else None


def pareto_jobs(done: Sequence[tuple[Job, Outcome]], goals: Sequence[Metric]) -> list[Job]:
    """Return the finished trials that no other beats on every goal, each configuration once."""
    points = []
    for job, outcome in done:
        values = [
            (-1 if goal.goal == "maximize" else 1) * value_of(job, outcome, goal) for goal in goals
        ]
        if outcome.status == "finished" and not any(map(math.isnan, values)):
            points.append((values, job))
    front = [
        job
        for values, job in points
        if not any(
            all(o <= v for o, v in zip(other, values, strict=True)) and other != values
            for other, _ in points
        )
    ]
    return list({job.identity: job for job in front}.values())


def suggest(
    sweep: Sweep,
    spans: Mapping[str, Range],
    index: int,
    past: Sequence[tuple[Job, Outcome]],
    goals: Sequence[Metric],
) -> Params:
    """Return trial number `index`'s values: a pure function of the file and of the past given.

    The random numbers depend on the trial's number only, so every cell starts from the same values.
    """
    if not spans:
        return {}
    distributions = {path: distribution(span) for path, span in spans.items()}
    options = sweep.file.sampler
    if options.name == "grid":
        points = list(product(*(span.choices or [] for span in spans.values())))
        return dict(zip(spans, points[index % len(points)], strict=True))
    sampler: optuna.samplers.BaseSampler
    if options.name == "random":
        sampler = optuna.samplers.RandomSampler(seed=index)
    else:
        sampler = optuna.samplers.TPESampler(
            seed=index, n_startup_trials=options.n_startup_trials, multivariate=options.multivariate,
            n_ei_candidates=options.n_ei_candidates, group=False, constant_liar=False,
        )  # fmt: skip
    directions = [goal.goal for goal in goals]
    study = optuna.create_study(sampler=sampler, directions=directions)
    for job, outcome in past:
        study.add_trial(frozen_trial(job, outcome, goals, distributions))
    trial = study.ask(distributions)
    return {path: trial.params[path] for path in spans}


def distribution(span: Range) -> BaseDistribution:
    """Return Optuna's distribution of a range; whole bounds search whole numbers."""
    if span.choices is not None:
        return CategoricalDistribution(span.choices)
    assert span.low is not None and span.high is not None
    if isinstance(span.low, int) and isinstance(span.high, int):
        return IntDistribution(span.low, span.high, log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)


def frozen_trial(
    job: Job,
    outcome: Outcome,
    goals: Sequence[Metric],
    distributions: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any] = {},
) -> optuna.trial.FrozenTrial:
    """Return a finished trial for Optuna; one without a value counts as failed."""
    every = {**job.cell.choice, **job.params}
    values = [value_of(job, outcome, goal) for goal in goals]
    whole = outcome.status == "finished" and not any(map(math.isnan, values))
    state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.FAIL
    if outcome.status == "pruned":
        state = optuna.trial.TrialState.PRUNED
    return optuna.trial.create_trial(
        state=state,
        values=values if whole else None,
        params={path: every[path] for path in distributions},
        distributions=dict(distributions),
        user_attrs=dict(attributes),
    )
