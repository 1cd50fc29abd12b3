"""Axes -> cells: which combinations of choices a design compares, and with what configuration."""

import traceback
from dataclasses import dataclass, replace

from hymba_lab.config import Config, resolve
from hymba_lab.config.yaml_file import Document
from hymba_lab.cost import Costs
from hymba_lab.cost.many import Meter, Tried
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.model import LanguageModel
from hymba_lab.sweep.question.designs import Choice, design_choices
from hymba_lab.sweep.question.file import Sweep
from hymba_lab.training.trainable import require_trainable


@dataclass(frozen=True)
class Cell:
    """One row of the table, before its hyperparameters are tuned and its seeds repeated."""

    label: str
    choice: Choice
    document: Document
    config: Config
    costs: Costs
    residual: float = 0.0  # budget over the baseline's, minus 1


def make_cells(sweep: Sweep, meter: Meter) -> list[Cell]:
    """Return the cells of the design, baseline first."""
    choices = design_choices(sweep.file)
    trainable = _Trainable(meter.vocab)
    cells = [make_cell(sweep, choice, label, meter, trainable) for label, choice in choices.items()]
    baseline = sweep.file.baseline or cells[0].label
    _require_row(sweep, ["baseline"], baseline, cells)
    if sweep.file.control is not None:
        _require_row(sweep, ["control"], sweep.file.control, cells)
    for row in sweep.file.paper.values if sweep.file.paper else ():
        _require_row(sweep, ["paper", "values", row], row, cells)
    for row in sweep.file.match.rows if sweep.file.match else ():
        _require_row(sweep, ["match", "rows", row], row, cells)
    for row in sweep.file.match.hold if sweep.file.match else ():
        _require_row(sweep, ["match", "hold", row], row, cells)
    cells.sort(key=lambda cell: cell.label != baseline)
    return cells


def _require_row(sweep: Sweep, place: list[str | int], row: str, cells: list[Cell]) -> None:
    labels = [cell.label for cell in cells]
    if row not in labels:
        raise sweep.wrong(place, f"no row {row!r}" + suggest(row, labels))


def refuse_twins(sweep: Sweep, cells: list[Cell]) -> None:
    """Refuse rows of one configuration: their difference would be zero by construction."""
    seen: dict[str, str] = {}
    for cell in cells:
        twin = seen.setdefault(cell.config.digest, cell.label)
        if twin != cell.label:
            raise sweep.wrong(
                ["axes"], f"the rows {twin!r} and {cell.label!r} are one configuration; drop one."
            )


def make_cell(
    sweep: Sweep, choice: Choice, label: str, meter: Meter, trainable: "_Trainable"
) -> Cell:
    """Return the cell of one combination of choices, with its costs."""
    document = sweep.base_document
    for axis, name in choice.items():
        for path, value in sweep.file.axes[axis][name].items():
            mark = sweep.document.where(["axes", axis, name, path])
            document = document.patched(path, value, mark)
    try:
        config = resolve(document)
        costs = cell_costs(config, meter, lambda model: trainable.tried_with(config, model))
        trainable.require(config)
    except ConfigError as error:
        raise ConfigError(f"row {label!r} of {sweep.document.where(['axes'])}:\n{error}") from None
    return Cell(label, choice, document, config, costs)


def cell_costs(config: Config, meter: Meter, tried: Tried | None = None) -> Costs:
    """Return the costs of a configuration; a component's refusal gets its file:line:column."""
    try:
        return meter.costs(config, tried)
    except ConfigError as error:
        raise config.blame(error) from None
    except Exception as error:
        fault = _plugin_fault(config, error)
        if fault is None:
            raise
        raise ConfigError(fault) from error


class _Trainable:
    """Tries every optimizer and schedule once, and every kind of layer once with an optimizer."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._passed: set[tuple[str, str, int]] = set()

    def tried_with(self, config: Config, model: LanguageModel) -> None:
        """Refuse what no optimizer of this kind takes; `model` has a part of the row's layers."""
        try:
            require_trainable(config, self._vocab, model)
        except ConfigError:  # of a part: the row's whole model decides
            require_trainable(config, self._vocab)

    def require(self, config: Config) -> None:
        """Refuse an optimizer or a schedule, each combination being tried with its first row."""
        optimizer, schedule = config.optimizer, config.schedule
        key = (optimizer.model_dump_json(), schedule.model_dump_json(), config.n_steps)
        if key not in self._passed:
            require_trainable(config, self._vocab)
            self._passed.add(key)


def _plugin_fault(config: Config, error: Exception) -> str | None:
    """Return where a component of the user's own broke, None when it was none of theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in config.plugins]
    return f"{own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {error}" if own else None


def with_document(cell: Cell, document: Document, meter: Meter) -> Cell:
    """Return the cell with another configuration and the costs that follow from it."""
    config = resolve(document)
    return replace(cell, document=document, config=config, costs=cell_costs(config, meter))
