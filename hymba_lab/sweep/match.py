"""Equal budgets: the free integer that gives a variant the baseline's parameters or FLOPs."""

from dataclasses import replace

from hymba_lab.config import resolve
from hymba_lab.config.yaml_file import Document
from hymba_lab.cost.many import Meter
from hymba_lab.errors import ConfigError
from hymba_lab.sweep.cells import Cell, with_document
from hymba_lab.sweep.question.file import Sweep


def match_budgets(sweep: Sweep, cells: list[Cell], meter: Meter) -> list[Cell]:
    """Return the cells with `match.by` solved so that all have the asked budget.

    Raises `ConfigError` naming every row whose best integer misses the tolerance.
    """
    match = sweep.file.match
    if match is None:
        return cells
    asked = match.params or match.flops
    if isinstance(asked, int):
        target, of = float(asked), "asked"
        matched = [_solve(sweep, cell, target, meter) for cell in cells]
    else:
        target, of = budget(sweep, cells[0]), "baseline's"
        matched = [cells[0], *(_solve(sweep, cell, target, meter) for cell in cells[1:])]
    misses = [
        f"  {cell.label!r}: {free(sweep, cell)} = {cell.document.get(free(sweep, cell))} gives "
        f"{budget(sweep, cell):,.0f}, {cell.residual:+.2%}"
        for cell in matched
        if abs(cell.residual) > match.fraction
    ]
    if misses:
        raise sweep.wrong(
            ["match"],
            f"{match.by} cannot give every row the {of} {target:,.0f} "
            f"{'parameters' if match.params else 'FLOPs per token'} within {match.tolerance}:\n"
            + "\n".join(misses)
            + "\nAllow a larger tolerance, free another integer, or change the row.",
        )
    return matched


def budget(sweep: Sweep, cell: Cell) -> float:
    """Return what is to be equal: parameters, or forward FLOPs per token."""
    assert sweep.file.match is not None
    return cell.costs.params if sweep.file.match.params else cell.costs.flops_per_token


def free(sweep: Sweep, cell: Cell) -> str:
    """Return the path of the integer that a row's budget is matched by."""
    assert sweep.file.match is not None
    return sweep.file.match.rows.get(cell.label, sweep.file.match.by)


def _solve(sweep: Sweep, cell: Cell, target: float, meter: Meter) -> Cell:
    """Solve budget(n) = target: widths enter linearly, so two points give the line; look around."""
    by = free(sweep, cell)
    start = _integer(sweep, cell.document, by)
    held = sweep.file.match is not None and cell.label in sweep.file.match.hold
    seen: dict[int, float] = {} if held else {start: budget(sweep, cell)}

    def at(value: int) -> float:
        if value not in seen:
            seen[value] = _budget_of(sweep, cell, _held(sweep, cell, by, value), meter)
        return seen[value]

    value = start
    for _ in range(8):  # a line needs one step; a curve converges in a few
        here, there = at(value), at(value + 1)
        if here == there:
            raise sweep.wrong(["match", "by"], f"{by} does not change row {cell.label!r}.")
        step = round((target - here) / (there - here))
        if step == 0:
            break
        value = max(1, value + step)
    near = [n for n in (value - 1, value, value + 1) if n >= 1]
    best = min(near, key=lambda n: abs(at(n) - target))
    unchanged = best == start and not held
    solved = cell if unchanged else with_document(cell, _held(sweep, cell, by, best), meter)
    return replace(solved, residual=budget(sweep, solved) / target - 1)


def _budget_of(sweep: Sweep, cell: Cell, document: Document, meter: Meter) -> float:
    """The budget of a changed cell; parameters need no forward pass."""
    if sweep.file.match is None or not sweep.file.match.params:
        return budget(sweep, with_document(cell, document, meter))
    config = resolve(document)
    try:
        return meter.params(config.model)
    except ConfigError as error:
        raise config.blame(error) from None


def _held(sweep: Sweep, cell: Cell, by: str, value: int) -> Document:
    """Return the row's document with the free integer at `value` and what is held to it."""
    assert sweep.file.match is not None
    mark = sweep.document.where(["match"])
    document = cell.document.patched(by, value, mark)
    for path, held in sweep.file.match.hold.get(cell.label, {}).items():
        whole = max(1, round(held.ratio * value / held.of)) * held.of
        document = document.patched(path, whole, mark)
    return document


def _integer(sweep: Sweep, document: Document, by: str) -> int:
    try:
        value = document.get(by)
    except KeyError:
        raise sweep.wrong(["match", "by"], f"a row replaces what holds {by}.") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise sweep.wrong(["match", "by"], f"{by} is {value!r}; the free knob must be an integer.")
    return value
