"""Runs that may end when they have solved their task: when that was, and whose result stands.

A stop is no part of a run's identity: the run it ends is the beginning of the longer one, bit for
bit where the schedule does not look at the budget, and its checkpoint is kept. Whoever asks for the
whole budget later, or for a higher level, trains on from there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hymba_lab.config import Config
from hymba_lab.sweep.question.file import Stop

History = Sequence[tuple[int, Mapping[str, float]]]


def reached(stop: Stop, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are at the level; a metric that is not there is not."""
    value = metrics.get(stop.metric, math.nan)
    return value >= stop.at if stop.goal == "maximize" else value <= stop.at


def watcher(stop: Stop) -> Callable[[int, Mapping[str, float]], bool]:
    """Return `stop(step, metrics)`, true once the task is solved."""
    return lambda _, metrics: reached(stop, metrics)


def step_of_solving(history: History, stop: Stop) -> float:
    """Return the step at which the level was first reached, NaN where it never was.

    Between two validations that have the metric it is taken as straight; at the first one the step
    is its own.
    """
    before: tuple[int, float] | None = None
    for step, metrics in history:
        value = metrics.get(stop.metric, math.nan)
        if math.isnan(value):
            continue
        if reached(stop, metrics):
            if before is None:
                return float(step)
            share = (stop.at - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = (int(step), value)
    return math.nan


def tokens_per_step(config: Config) -> int:
    """Return the tokens of one batch, those that are not scored included."""
    data = {label: source.options() for label, source in config.data.items()}
    return batch_tokens(data, config.training.seq_len)


def batch_tokens(data: Mapping[str, Mapping[str, Any]], seq_len: int) -> int:
    """Return the same from the options of every source."""
    return sum(int(options["rows"]) for options in data.values()) * seq_len


def solving_facts(record: Mapping[str, Any], per_step: int, stop: Stop | None) -> dict[str, float]:
    """Return what a run took to solve its task, in tokens; nothing where no level was named.

    `per_step` are the tokens of a batch. `tokens_to_solve` is NaN for a run that did not, which
    was `censored_at` the tokens it saw.
    """
    if stop is None or not record:
        return {}
    trained = per_step * int(record["n_steps"])
    solved = per_step * step_of_solving(record["history"], stop)
    never = math.isnan(solved)
    return {
        "solved": float(not never),
        "tokens_to_solve": solved,
        "censored_at": float(trained) if never else math.nan,
        "tokens_trained": float(trained),
    }


def stands(record: Mapping[str, Any], stop: Stop | None) -> bool:
    """Whether a run that ended when it had solved its task answers who asks with this stop."""
    ended_by = record.get("ended_by")
    if ended_by is None:
        return True
    if stop is None or (stop.metric, stop.goal) != (ended_by["metric"], ended_by["goal"]):
        return False
    sign = 1 if stop.goal == "maximize" else -1
    return sign * float(ended_by["at"]) >= sign * stop.at
