"""The values that a sweep searches, tried before anything trains: each of them, in every row."""

from collections.abc import Mapping, Sequence

from hymba_lab.config import resolve
from hymba_lab.cost import meta_model
from hymba_lab.cost.many import Meter
from hymba_lab.errors import ConfigError
from hymba_lab.sweep.cells import Cell, cell_costs
from hymba_lab.sweep.question.file import Range, Sweep
from hymba_lab.training.trainable import require_trainable

MOST_TRIED = 64  # whole numbers of a range; of a wider one its ends are
Scalar = str | int | float | bool


def check_search(sweep: Sweep, cells: Sequence[Cell], meter: Meter) -> None:
    """Refuse a searched value that cannot work in some row, or leaves the budget that rows share.

    Of a range all whole numbers are tried, or its ends. Rows that are alike in the part of the
    configuration that holds the value are tried once.
    """
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        for path, span in sweep.file.search.items():
            part = getattr(cell.config, path.partition(".")[0], None)
            key = path, repr(part)
            if key not in seen:
                seen.add(key)
                for value in _searched(span):
                    _check_value(sweep, cell, {path: value}, meter)


def _searched(span: Range) -> Sequence[Scalar]:
    if span.choices is not None:
        return span.choices
    low, high = span.low, span.high
    assert low is not None and high is not None
    if isinstance(low, int) and isinstance(high, int) and high - low < MOST_TRIED:
        return range(low, high + 1)
    return (low, high)


def _check_value(sweep: Sweep, cell: Cell, params: Mapping[str, Scalar], meter: Meter) -> None:
    document = cell.document
    for path, value in params.items():
        document = document.patched(path, value, sweep.document.where(["search", path]))
    try:
        config = resolve(document)
        if config.model == cell.config.model:
            require_trainable(config, meter.vocab, meta_model(config.model, meter.vocab))
            return
        require_trainable(config, meter.vocab)
    except ConfigError as error:
        raise refused(sweep, cell, params, error) from None
    match = sweep.file.match
    if match is None:
        return
    costs = cell_costs(config, meter)
    ratio = (costs.params / cell.costs.params if match.params
             else costs.flops_per_token / cell.costs.flops_per_token)  # fmt: skip
    if abs(ratio - 1) > match.fraction:
        raise sweep.wrong(
            ["search", *params],
            f"{_named(params)} changes the budget of row {cell.label!r} by {ratio - 1:+.1%}, which "
            f"`match` holds within {match.tolerance}; search what costs nothing, or drop match.",
        )


def refused(
    sweep: Sweep, cell: Cell, params: Mapping[str, Scalar], error: ConfigError
) -> ConfigError:
    """Return the refusal of searched values, with the row in which they cannot work."""
    place = sweep.document.where(["search", *list(params)[:1]])
    return ConfigError(f"row {cell.label!r} with {_named(params)} of {place}:\n{error}")


def _named(params: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{path} = {value}" for path, value in params.items())
