"""Optuna as a pure function: the past of a cell -> the values of its next trial."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from hymba_lab.sweep.jobs import Job, Outcome, Params, is_whole, value_of
from hymba_lab.sweep.question.file import Metric, Range, Sampler, Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
    directions = [goal.goal for goal in goals]
    study = optuna.create_study(sampler=make_sampler(options, index), directions=directions)
    for job, outcome in past:
        study.add_trial(frozen_trial(job, outcome, goals, distributions))
    trial = study.ask(distributions)
    return {path: trial.params[path] for path in spans}


def make_sampler(options: Sampler, index: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's sampler for trial number `index`, every option named."""
    if options.name == "random":
        return optuna.samplers.RandomSampler(seed=index)
    return optuna.samplers.TPESampler(
        seed=index,
        n_startup_trials=options.n_startup_trials,
        multivariate=options.multivariate,
        n_ei_candidates=options.n_ei_candidates,
        group=False,
        constant_liar=False,
    )


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
) -> FrozenTrial:
    """Return a finished trial for Optuna; one without a value counts as failed."""
    every = {**job.cell.choice, **job.params}
    values = [value_of(job, outcome, goal) for goal in goals]
    whole = is_whole(outcome, values)
    state = TrialState.COMPLETE if whole else TrialState.FAIL
    if outcome.status == "pruned":
        state = TrialState.PRUNED
    return create_trial(
        state=state,
        values=values if whole else None,
        params={path: every[path] for path in distributions},
        distributions=dict(distributions),
        user_attrs=dict(attributes),
    )
