"""What is asked of a table of runs: options that contradict each other are refused, not guessed."""

import math

from hymba_lab.errors import UserError
from hymba_lab.stats import Goal

_LEAST_ALPHA = 1e-12  # below it no quantile of a t-distribution is a number to go by


def check(
    alpha: float, margin: float | None, limits: tuple[float, float] | None, params: float
) -> None:
    """Raise UserError for what no table can be judged with."""
    low, high = limits or (0.0, 1.0)
    wrong = {
        f"alpha = {alpha:g}: give a chance between {_LEAST_ALPHA:g} and 1": not (
            _LEAST_ALPHA <= alpha < 1
        ),
        f"margin = {margin}: give a number above 0": margin is not None and not margin > 0,
        f"limits = {low:g} {high:g}: give the least value first": low >= high,
        f"params = {params:g}: give a count of parameters, such as 124e6": params < 1,
    }
    if said := [message for message, is_wrong in wrong.items() if is_wrong]:
        raise UserError("; ".join(said) + ".")


def check_times(
    goal: Goal,
    margin: float | None,
    solved: str | None,
    censored: str | None,
    of_levels: tuple[object, ...],
) -> None:
    """Raise UserError for what times until a task is solved cannot be judged with."""
    if solved and censored:
        raise UserError("solved and censored say the same of a run; name one of the columns.")
    if goal == "maximize":
        raise UserError(
            "goal = maximize: the metric is a time until a task is solved, and sooner is better; "
            "leave the goal out."
        )
    if any(one is not None for one in of_levels):
        raise UserError(
            "floor, solved-at and limits are those of a level, and the metric is a time; leave "
            "them out."
        )
    if margin is not None and margin <= 1:
        raise UserError(f"margin = {margin}: of times it is a factor; give one above 1, e.g. 1.2.")


def check_levels(
    goal: Goal,
    floor: float | None,
    solved_at: float | None,
    limits: tuple[float, float] | None,
) -> None:
    """Raise UserError for levels that contradict each other."""
    low, high = limits or (-math.inf, math.inf)
    for name, value in (("floor", floor), ("solved-at", solved_at)):
        if value is not None and not low <= value <= high:
            raise UserError(
                f"{name} = {value:g}: the metric's limits are {low:g} to {high:g}; give a level "
                "between them."
            )
    if floor is not None and solved_at is not None:
        best, word = (max, "above") if goal == "maximize" else (min, "below")
        if floor == solved_at or best(floor, solved_at) != solved_at:
            raise UserError(
                f"solved-at = {solved_at:g}: the goal is to {goal}; give a level {word} the floor, "
                f"{floor:g}."
            )
