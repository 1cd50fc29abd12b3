"""Before a verdict on levels: did anybody learn, and do the levels only say who was stopped?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hymba_lab.stats import Comparison, Goal, measured

_SLACK = 1e-12  # of the floor: a mean of values at it is rounded to either side


@dataclass(frozen=True)
class Floor:
    """A level that needs no learning, and what reaches it."""

    at: float
    by: str

    def note(self, metric: str, goal: Goal, values: Mapping[str, Mapping[int, float]]) -> str:
        """Return what it is, and which rows are not beyond it on the mean of their runs."""
        sides = {row: [*measured(own).values()] for row, own in values.items()}
        sign = _sign(goal)
        most = _at_most(sign * self.at)
        below = [row for row, own in sides.items() if own and _mean(own, sign) <= most]
        said = f"; no better, so nothing learned is shown: {', '.join(below)}" if below else ""
        return f"{metric} without learning: {self.at:.3g} by {self.by}{said}."


@dataclass(frozen=True)
class Gate:
    """`floor` is what a guess reaches, `solved_at` the level at which a task counts as solved.

    Rows that are not above the floor on either side are "not learned"; a row that is solved
    against one that is not is "censored": the level says when a run was stopped.
    """

    goal: Goal
    floor: float | None
    solved_at: float | None

    def __call__(
        self, one: Comparison, values: Mapping[str, Mapping[int, float]], baseline: str
    ) -> Comparison:
        """Return the comparison, without a verdict where there can be none."""
        if one.kind == "too_few_seeds":
            return one
        sign = _sign(self.goal)
        sides = [
            [sign * value for value in measured(values[label]).values()]
            for label in (one.label, baseline)
        ]
        floor = math.nan if self.floor is None else _at_most(sign * self.floor)
        if all(_mean(side) <= floor for side in sides):
            return replace(one, kind="not_learned", verdict="not learned by either", bound=math.nan)
        if self.solved_at is None or all(min(side) >= sign * self.solved_at for side in sides):
            return one
        said = "censored: not solved at the end of its runs"
        return replace(one, kind="censored", verdict=said, bound=math.nan)


def _at_most(floor: float) -> float:
    return floor + _SLACK * abs(floor)


def _sign(goal: Goal) -> float:
    return 1.0 if goal == "maximize" else -1.0


def _mean(values: Sequence[float], sign: float = 1.0) -> float:
    return sign * math.fsum(values) / len(values)
