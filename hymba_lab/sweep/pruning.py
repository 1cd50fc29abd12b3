"""Giving up hopeless tuning trials, on validation steps.

A trial is compared with the earlier trials that its planner showed it, so that the decision
depends on results alone and not on which worker was faster. Optuna's pruners guess from a curve
who will lose; `overtaken` loses nothing: where the soonest to solve the task wins, a trial that has
not solved it by the time another one had cannot win any more.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hymba_lab.sweep.question.file import Metric, Pruner, Stop
from hymba_lab.sweep.solving import step_of_solving

if TYPE_CHECKING:  # a task that is read on its way to a worker needs neither torch nor Optuna
    import optuna

Curve = dict[int, float]  # step -> value of the metric
Past = tuple[Curve, bool]  # an earlier trial's curve, and whether it was trained to its end
Watcher = Callable[[int, Mapping[str, float]], bool]


class Pruning(Protocol):
    """How one trial is given up."""

    @property
    def key(self) -> str:
        """Hash of everything a decision depends on; stored with the result of a pruned run."""

    def watcher(self) -> Watcher:
        """Return `stop(step, metrics)`, true once the trial should be given up."""


@dataclass(frozen=True)
class Overtaken:
    """A trial of the row solved the task so soon that who has not by `step` is not its winner."""

    step: float
    stop: Stop

    @property
    def key(self) -> str:
        """Hash of the step and of what counts as solved."""
        parts = ["overtaken", self.step, self.stop.model_dump()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def watcher(self) -> Watcher:
        """Return `stop(step, metrics)`; a run that solves the task there has ended by that."""
        return lambda step, _: step >= self.step


@dataclass(frozen=True)
class CurvePruning:
    """One of Optuna's pruners: its options and the learning curves it compares with."""

    options: Pruner
    metric: Metric
    past: tuple[Past, ...]

    @property
    def key(self) -> str:
        """Hash of the pruner's options and of the curves."""
        parts = [self.options.model_dump(), self.metric.model_dump(), self.past]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def watcher(self) -> Watcher:
        """Return `stop(step, metrics)`, true once the trial should be given up."""
        import optuna

        study = optuna.create_study(direction=self.metric.goal, pruner=_make(self.options))
        for curve, whole in self.past:
            _replay(study, curve, whole)
        trial, history = study.ask(), list[tuple[int, Mapping[str, float]]]()

        def stop(step: int, metrics: Mapping[str, float]) -> bool:
            history.append((step, metrics))
            trial.report(so_far(history)[self.metric.name], step)
            return trial.should_prune()

        return stop


def _replay(study: "optuna.Study", curve: Curve, whole: bool) -> None:
    """Let the pruner see an earlier trial as it went: halving takes its own notes at every rung."""
    from optuna.trial import TrialState

    trial = study.ask()
    for step, value in curve.items():
        trial.report(value, step)
        trial.should_prune()
    state = TrialState.COMPLETE if whole else TrialState.PRUNED
    study.tell(trial, list(curve.values())[-1] if whole else None, state)


def curve_of(record: Mapping[str, Any], metric: str) -> Curve:
    """Return what a run had reached at each of its validations."""
    history = [(int(step), values) for step, values in record["history"]]
    reached = [(step, so_far(history[:n])) for n, (step, _) in enumerate(history, start=1)]
    return {step: values[metric] for step, values in reached if metric in values}


def so_far(history: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return the metrics of a run that ends here, the areas under its curves included."""
    from hymba_lab.training.validation import curve_areas

    return {**history[-1][1], **curve_areas(history)}


def make_pruning(
    options: Pruner,
    metric: Metric,
    records: Sequence[Mapping[str, Any]],
    stop: Stop | None = None,
    slack: float = 1.0,
) -> Pruning | None:
    """Return the pruning of one trial, or None where nothing is pruned.

    `records` are of the earlier trials that it is compared with, `stop` says what solved means;
    a trial is overtaken at `slack` times the step of the soonest.
    """
    if options.name == "overtaken":
        return _overtaken(records, stop, slack) if stop is not None else None
    if options.name == "none" or metric.name.startswith("cost/"):
        return None
    past = ((curve_of(record, metric.name), record["stopped_by"] is None) for record in records)
    return CurvePruning(options, metric, tuple((curve, whole) for curve, whole in past if curve))


def _overtaken(records: Sequence[Mapping[str, Any]], stop: Stop, slack: float) -> Overtaken | None:
    steps = [step_of_solving(record["history"], stop) for record in records]
    solved = [step for step in steps if not math.isnan(step)]
    return Overtaken(slack * min(solved), stop) if solved else None


def _make(options: Pruner) -> "optuna.pruners.BasePruner":
    import optuna

    if options.name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=options.n_startup_trials,
            n_warmup_steps=options.n_warmup_steps,
            interval_steps=1,
            n_min_trials=1,
        )
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=options.min_resource,
        reduction_factor=options.reduction_factor,
        min_early_stopping_rate=0,
        bootstrap_count=0,
    )
