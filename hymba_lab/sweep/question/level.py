"""Whether a sweep's rows are compared by when they solved a task, and what counts as solved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hymba_lab.stats.position_guess import position_guess
from hymba_lab.sweep.question.file import Goal, Stop, SweepFile


@dataclass(frozen=True)
class Level:
    """A task counts as solved where `metric` first passes `at`, upwards or, to minimize, down.

    `guess` is what the best guess reaches that never looks at the content, NaN where unknown.
    """

    metric: str
    at: float
    guess: float
    goal: Goal = "maximize"


def level_of(sweep: SweepFile, base: Mapping[str, Any]) -> Level | None:
    """Return the level that the sweep's rows are compared by; None where the metric itself is.

    There is one where the sweep names a level to stop at, or the metric is the accuracy (or the
    area under its curve, as older sweeps asked it) of a recall task of which the guess from
    position alone is known: solved is then half-way between that guess and 1. `base` is the
    resolved experiment.
    """
    metric = sweep.metric.name.removesuffix("_auc")
    guess = recall_guess(base, metric)
    at = (1 + guess) / 2
    if sweep.stop is not None:  # runs end there: what they reach later is not known
        metric, at = sweep.stop.metric, sweep.stop.at
        guess = recall_guess(base, metric) if sweep.stop.goal == "maximize" else math.nan
        return Level(metric, at, guess, sweep.stop.goal)
    return None if math.isnan(at) else Level(metric, at, guess)


def task_of_sweep(sweep: SweepFile, base: Mapping[str, Any]) -> Stop | None:
    """Return what says that a run has solved its task: `stop`, or the level of `level_of`."""
    level = None if sweep.stop else level_of(sweep, base)
    return Stop(metric=level.metric, at=level.at) if level else sweep.stop


def recall_guess(base: Mapping[str, Any], metric: str) -> float:
    """Return what a guess from position alone reaches in a metric of the runs; NaN if unknown."""
    label = metric.removeprefix("val/").removesuffix("_accuracy")
    source = base.get("data", {}).get(label, {})
    if not metric.endswith("_accuracy") or source.get("name") != "mqar":
        return math.nan
    if "n_pairs" not in source or "training" not in base:
        return math.nan
    power = source.get("power", 0.01)
    return position_guess(base["training"]["seq_len"], source["n_pairs"], power)
