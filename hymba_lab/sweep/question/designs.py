"""Designs: which combinations of choices a sweep compares, and what its rows are called."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from hymba_lab.sweep.question.file import Design, Sweep, SweepFile

MOST_ROWS = 20_000
MOST_RUNS = 1_000_000

Choice = dict[str, str]  # axis -> label of the choice


def design_choices(file: SweepFile) -> dict[str, Choice]:
    """Return label -> choices of every cell, in the order of the file."""
    axes = {axis: list(choices) for axis, choices in file.axes.items()}
    return _DESIGNS[file.design](axes)


def n_rows(file: SweepFile) -> int:
    """Return how many rows the design has, before any of them is made."""
    sizes = [len(choices) for choices in file.axes.values()]
    if file.design in ("factorial", "search"):
        return math.prod(sizes)
    return 1 + (len(sizes) if file.design == "leave_one_out" else sum(sizes) - len(sizes))


def check_size(sweep: Sweep) -> None:
    """Refuse a design that no machine plans, and labels of which two make one row."""
    planned = n_rows(sweep.file)
    if planned > MOST_ROWS:
        raise sweep.wrong(
            ["axes"],
            f"design: {sweep.file.design} makes {planned:,} rows of these axes; {MOST_ROWS:,} are "
            "allowed. Take fewer choices, or design: one_factor.",
        )
    runs = sweep.file.runs_of(planned)
    if runs > MOST_RUNS:
        raise sweep.wrong(["axes"], f"comes to {runs:,} runs; {MOST_RUNS:,} are allowed.")
    if len(design_choices(sweep.file)) < planned:
        raise sweep.wrong(["axes"], "gives two rows one label; rename a choice.")


def row_label(design: Design, label: str, params: Mapping[str, Any]) -> str:
    """Return the table's row of a cell with tuned values: a search's rows differ in them, too."""
    if design != "search" or not params:
        return label
    told = (f"{path.split('.')[-1]}={shown(value, 6)}" for path, value in params.items())
    return f"{label} {', '.join(told)}"


def shown(value: Any, digits: int = 3) -> str:
    """Return a tuned value as text: whole numbers whole, others in so many digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _one_factor(axes: Mapping[str, list[str]]) -> dict[str, Choice]:
    """The first choice of every axis, and each other choice alone."""
    first = {axis: labels[0] for axis, labels in axes.items()}
    cells = {_short(axes, first): first}
    for axis, labels in axes.items():
        for label in labels[1:]:
            choice = {**first, axis: label}
            cells[label if len(axes) == 1 else f"{axis}: {label}"] = choice
    return cells


def _factorial(axes: Mapping[str, list[str]]) -> dict[str, Choice]:
    """Every combination."""
    rows = (dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values()))
    return {" / ".join(choice.values()): choice for choice in rows}


def _cumulative(axes: Mapping[str, list[str]]) -> dict[str, Choice]:
    """The paper's ladder: each further choice on top of all before it."""
    choice = {axis: labels[0] for axis, labels in axes.items()}
    cells = {_short(axes, choice): choice}
    for axis, labels in axes.items():
        for label in labels[1:]:
            choice = {**choice, axis: label}
            cells[f"+ {axis}: {label}"] = choice
    return cells


def _leave_one_out(axes: Mapping[str, list[str]]) -> dict[str, Choice]:
    """The last choice of every axis, and each axis alone set back to its first."""
    full = {axis: labels[-1] for axis, labels in axes.items()}
    cells = {"all": full}
    for axis, labels in axes.items():
        cells[f"without {axis}: {labels[-1]}"] = {**full, axis: labels[0]}
    return cells


def _short(axes: Mapping[str, list[str]], first: Choice) -> str:
    return next(iter(first.values())) if len(axes) == 1 else "baseline"


_DESIGNS = {
    "one_factor": _one_factor,
    "factorial": _factorial,
    "cumulative": _cumulative,
    "leave_one_out": _leave_one_out,
    "search": _factorial,  # Optuna chooses among all, so all must be possible
}
