"""What runs and how it ended: jobs, outcomes, and which of them are best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hymba_lab.config import Config
from hymba_lab.sweep.cells import Cell
from hymba_lab.sweep.question.designs import shown
from hymba_lab.sweep.question.file import Metric, Stop
from hymba_lab.sweep.solving import solving_facts, tokens_per_step

Params = dict[str, Any]  # path in the configuration (or axis) -> value
Stage = Literal["tune", "race", "seed"]  # race: compared runs of values that may not win


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
    digest: str  # of the configuration
    identity: str
    history: tuple[Outcome, ...] = ()  # what a pruner compares with
    before: tuple[str, ...] = ()  # identities of the runs that its stages go on from

    @property
    def name(self) -> str:
        """Return the run's name in MLflow: its labels."""
        values = ", ".join(shown(value) for value in self.params.values())
        what = {
            "tune": f"trial {self.index}",
            "race": f"{values}, seed {self.seed}",
            "seed": f"seed {self.seed}",
        }
        return f"{self.cell.label}, {what[self.stage]}"

    @property
    def chain(self) -> tuple[str, ...]:
        """Return every run that its training makes, its own last."""
        return (*self.before, self.identity)


Outcomes = Mapping[str, Outcome]


def is_whole(outcome: Outcome, values: Sequence[float]) -> bool:
    """Whether a trial ended with a number for every goal, so that it may be compared."""
    return outcome.status == "finished" and not any(map(math.isnan, values))


def value_of(job: Job, outcome: Outcome, metric: Metric) -> float:
    """Return a finished job's metric or cost; NaN when it was not measured."""
    if metric.name.startswith("cost/"):
        return float(getattr(job.cell.costs, metric.name.removeprefix("cost/")))
    if outcome.status != "finished":
        return math.nan
    return float(outcome.record["metrics"].get(metric.name, math.nan))


def winner(
    done: Sequence[tuple[Job, Outcome]], metric: Metric, stop: Stop | None = None
) -> Job | None:
    """Return the best finished trial; the earlier one of equals, None when none finished.

    With a `stop`, those that solved their task come first, the soonest at the head: what they reach
    in the end is where they were stopped. Among the others the metric decides.
    """
    sign = -1 if metric.goal == "maximize" else 1
    scored = []
    for job, outcome in done:
        value = value_of(job, outcome, metric)
        facts = solving_facts(outcome.record, tokens_per_step(job.config), stop)
        took = facts.get("tokens_to_solve", math.nan)
        if not math.isnan(value):
            scored.append((math.isnan(took), sign * value if math.isnan(took) else took, job))
    return min(scored, key=lambda entry: (*entry[:2], entry[2].index))[2] if scored else None


def pareto_jobs(done: Sequence[tuple[Job, Outcome]], goals: Sequence[Metric]) -> list[Job]:
    """Return the finished trials that no other beats on every goal, each configuration once."""
    points = []
    for job, outcome in done:
        values = [
            (-1 if goal.goal == "maximize" else 1) * value_of(job, outcome, goal) for goal in goals
        ]
        if is_whole(outcome, values):
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
