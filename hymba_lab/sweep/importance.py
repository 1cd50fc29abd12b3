"""Which axes and searched values the result of a search depended on."""

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from hymba_lab.sweep.jobs import Job, Outcome, is_whole, value_of
from hymba_lab.sweep.question.file import Metric, SweepFile
from hymba_lab.sweep.suggest import distribution, frozen_trial

_FEWEST = 8  # finished trials; fewer fit any forest


def importances(
    file: SweepFile, done: Sequence[tuple[Job, Outcome]], goal: Metric
) -> dict[str, float]:
    """Axis or searched path -> its share of the goal's variance over the searched space.

    fANOVA: a forest of trees is fitted to the trials, its variance split over the main effects;
    the shares add up to 1, what axes do together is left out. {} for fewer than 8 finished trials,
    or where all reached the same value. The same trials give the same shares.
    Source: Hutter, Hoos and Leyton-Brown 2014 (ICML), as Optuna has it.
    """
    spans: dict[str, BaseDistribution] = {
        **{axis: CategoricalDistribution(list(labels)) for axis, labels in file.axes.items()},
        **{path: distribution(span) for path, span in file.search.items()},
    }
    study = optuna.create_study(direction=goal.goal)
    values = set()
    for job, outcome in done:
        value = value_of(job, outcome, goal)
        if is_whole(outcome, [value]):
            study.add_trial(frozen_trial(job, outcome, [goal], spans))
            values.add(value)
    if len(study.trials) < _FEWEST or len(values) == 1:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def importance_notes(file: SweepFile, done: Sequence[tuple[Job, Outcome]]) -> list[str]:
    """Say for every goal of a search what it depended on, a line each."""
    notes = []
    for goal in file.objectives or [file.metric]:
        shares = importances(file, done, goal)
        if shares:
            n = sum(is_whole(outcome, [value_of(job, outcome, goal)]) for job, outcome in done)
            told = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
            notes.append(
                f"Importance for {goal.name} (share of its variance over the searched space, by "
                f"fANOVA from {n} trials on seed {file.tune_seed}; an estimate, not a "
                f"test): {told}."
            )
    return notes
