"""Giving up hopeless tuning trials, with Optuna's pruners, on validation steps.

A trial is compared with the finished trials that its planner showed it, so that the decision
depends on results alone and not on which worker was faster.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from hymba_lab.sweep.file import Metric, Pruner

Curve = dict[int, float]  # step -> value of the metric


@dataclass(frozen=True)
class Pruning:
    """A pruner's options and the learning curves it compares with."""

    options: Pruner
    metric: Metric
    curves: tuple[Curve, ...]

    @property
    def key(self) -> str:
        """Hash of everything a decision depends on; stored with the result of a pruned run."""
        parts = [self.options.model_dump(), self.metric.model_dump(), self.curves]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def watcher(self) -> Callable[[int, Mapping[str, float]], bool]:
        """Return `stop(step, metrics)`, true once the trial should be given up."""
        study = optuna.create_study(direction=self.metric.goal, pruner=_make(self.options))
        for curve in self.curves:
            study.add_trial(
                optuna.trial.create_trial(value=list(curve.values())[-1], intermediate_values=curve)
            )
        trial = study.ask()

        def stop(step: int, metrics: Mapping[str, float]) -> bool:
            trial.report(metrics[self.metric.name], step)
            return trial.should_prune()

        return stop


def curve_of(record: Mapping[str, Any], metric: str) -> Curve:
    """Return a finished run's validation curve."""
    return {int(step): values[metric] for step, values in record["history"] if metric in values}


def make_pruning(
    options: Pruner, metric: Metric, records: Sequence[Mapping[str, Any]]
) -> Pruning | None:
    """Return the pruning of one trial, or None where nothing is pruned."""
    if options.name == "none" or metric.name.startswith("cost/"):
        return None
    curves = (curve_of(record, metric.name) for record in records)
    return Pruning(options, metric, tuple(curve for curve in curves if curve))


def _make(options: Pruner) -> optuna.pruners.BasePruner:
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
