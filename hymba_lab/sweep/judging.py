"""The compared runs as the table judges them, for whoever decides or plans before the table."""

import math
from collections.abc import Sequence

from hymba_lab.stats import Comparison, Looks, Run, compare, compare_times, crossing, factor_of
from hymba_lab.sweep.jobs import Job, Outcome, Outcomes, value_of
from hymba_lab.sweep.question.file import Metric, Sweep
from hymba_lab.sweep.question.level import Level, level_of
from hymba_lab.sweep.solving import solving_facts, tokens_per_step

Values = dict[str, dict[int, float]]
Times = dict[str, dict[int, Run]]


def judged(
    sweep: Sweep,
    labels: Sequence[str],
    jobs: Sequence[Job],
    outcomes: Outcomes,
    looks: Looks | None = None,
) -> list[Comparison]:
    """Return every row's comparison with the first label, by the rule of the sweep's table."""
    file, level = sweep.file, level_of(sweep.file, sweep.base.resolved())
    if level is None:
        return compare(
            values_of(file.metric, labels, jobs, outcomes), labels[0], goal=file.metric.goal,
            alpha=file.alpha, margin=file.margin, looks=looks,
        )  # fmt: skip
    times = times_of(sweep, level, labels, jobs, outcomes)
    margin = factor_of(file.margin)
    timed = compare_times(times, labels[0], alpha=file.alpha, margin=margin, looks=looks)
    return [one.comparison for one in timed]


def values_of(
    metric: Metric, labels: Sequence[str], jobs: Sequence[Job], outcomes: Outcomes
) -> Values:
    """Return the metric of every compared run that has ended, by row and seed; NaN if it failed."""
    values: Values = {label: {} for label in labels}
    for job in jobs:
        if job.stage == "seed" and job.identity in outcomes:
            values[job.cell.label][job.seed] = value_of(job, outcomes[job.identity], metric)
    return values


def times_of(
    sweep: Sweep, level: Level, labels: Sequence[str], jobs: Sequence[Job], outcomes: Outcomes
) -> Times:
    """Return when every compared run that finished solved its task [tokens], by row and seed."""
    times: Times = {label: {} for label in labels}
    for job in jobs:
        outcome = outcomes.get(job.identity)
        if job.stage != "seed" or outcome is None or outcome.status != "finished":
            continue
        run = _run(sweep, level, job, outcome)
        if run is not None and run.time > 0:
            times[job.cell.label][job.seed] = run
    return times


def _run(sweep: Sweep, level: Level, job: Job, outcome: Outcome) -> Run | None:
    per_step = tokens_per_step(job.config)
    facts = solving_facts(outcome.record, per_step, sweep.file.stop)
    if facts:
        solved = not math.isnan(facts["tokens_to_solve"])
        return Run(facts["tokens_to_solve"] if solved else facts["censored_at"], solved)
    history = [(s, v[level.metric]) for s, v in outcome.record["history"] if level.metric in v]
    if not history:
        return None
    return crossing([step * per_step for step, _ in history], [v for _, v in history], level.at)
