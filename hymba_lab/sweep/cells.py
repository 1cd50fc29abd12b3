"""Axes -> cells: which combinations of choices a design compares, and with what configuration."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hymba_lab.config import Config, resolve
from hymba_lab.cost import Costs, measure_costs
from hymba_lab.errors import ConfigError
from hymba_lab.sweep.file import Sweep
from hymba_lab.yaml_file import Document

Choice = dict[str, str]  # axis -> label of the choice


@dataclass(frozen=True)
class Cell:
    """One row of the table, before its hyperparameters are tuned and its seeds repeated."""

    label: str
    choice: Choice
    document: Document
    config: Config
    costs: Costs
    residual: float = 0.0  # budget over the baseline's, minus 1


def make_cells(sweep: Sweep, vocab: int) -> list[Cell]:
    """Return the cells of the design, baseline first, matched to its budget where asked for."""
    choices = design_choices(sweep)
    cells = [make_cell(sweep, choice, label, vocab) for label, choice in choices.items()]
    labels = [cell.label for cell in cells]
    baseline = sweep.file.baseline or labels[0]
    if baseline not in labels:
        raise sweep.wrong(["baseline"], f"no row {baseline!r}; the rows are {', '.join(labels)}.")
    cells.sort(key=lambda cell: cell.label != baseline)
    return cells


def make_cell(sweep: Sweep, choice: Choice, label: str, vocab: int) -> Cell:
    """Return the cell of one combination of choices, with its costs."""
    document = sweep.base_document
    for axis, name in choice.items():
        for path, value in sweep.file.axes[axis][name].items():
            mark = sweep.document.where(["axes", axis, name, path])
            document = document.patched(path, value, mark)
    try:
        config = resolve(document)
        costs = cell_costs(config, vocab)
    except ConfigError as error:
        raise ConfigError(f"row {label!r} of {sweep.document.where(['axes'])}:\n{error}") from None
    return Cell(label, choice, document, config, costs)


def cell_costs(config: Config, vocab: int) -> Costs:
    """Return the costs of a configuration; a component's refusal gets its file:line:column."""
    try:
        return measure_costs(config.model, vocab, config.training.seq_len)
    except ConfigError as error:
        raise config.blame(error) from None


def with_document(cell: Cell, document: Document, vocab: int) -> Cell:
    """Return the cell with another configuration and the costs that follow from it."""
    config = resolve(document)
    return replace(cell, document=document, config=config, costs=cell_costs(config, vocab))


def design_choices(sweep: Sweep) -> dict[str, Choice]:
    """Return label -> choices of every cell, in the order of the file."""
    axes = {axis: list(choices) for axis, choices in sweep.file.axes.items()}
    return _DESIGNS[sweep.file.design](axes)


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


def _search(axes: Mapping[str, list[str]]) -> dict[str, Choice]:
    """The first choice of every axis; Optuna chooses the others as it goes."""
    first = {axis: labels[0] for axis, labels in axes.items()}
    return {" / ".join(first.values()): first}


def _short(axes: Mapping[str, list[str]], first: Choice) -> str:
    return next(iter(first.values())) if len(axes) == 1 else "baseline"


_DESIGNS = {
    "one_factor": _one_factor,
    "factorial": _factorial,
    "cumulative": _cumulative,
    "leave_one_out": _leave_one_out,
    "search": _search,
}
