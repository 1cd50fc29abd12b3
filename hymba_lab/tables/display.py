"""A result table, and its columns as a reader sees them: with units, and digits as measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from hymba_lab.stats import Goal
from hymba_lab.tables.numbers import (
    as_given,
    decimals_of,
    estimate,
    number,
    ratio_estimate,
    significant,
)

_ARROWS: dict[Goal | None, str] = {"maximize": " ↑", "minimize": " ↓", None: ""}

# How metrics are named (`val/<label>_accuracy/<group>` ...), their units and good direction.
_METRICS: tuple[tuple[str, str, Goal], ...] = (
    ("accuracy", " [fraction]", "maximize"),
    ("bits_per_byte", "", "minimize"),
    ("loss", " [nats/token]", "minimize"),
)


class Column(NamedTuple):
    """One column as a reader sees it."""

    heading: str
    cells: list[str]
    numeric: bool
    part: Literal["label", "verdict", "result", "cost"] = "result"


class Second(NamedTuple):
    """A further table under the first; `name` is that of its CSV file."""

    name: str
    title: str
    frame: pd.DataFrame
    columns: list[Column]


@dataclass(frozen=True)
class Table:
    """A table of results: `frame` holds raw numbers, a row per cell of the sweep in file order.

    `axes` and `also` name the frame's columns of labels and of further metrics. `notes` are part
    of the table: what was not measured, how verdicts were made, which scale it is. `more` are
    further tables that belong to it.
    """

    frame: pd.DataFrame
    metric: str
    goal: Goal
    baseline: str
    axes: tuple[str, ...]
    also: tuple[str, ...]
    notes: list[str]
    more: Sequence[Second] = ()
    caution: str = ""  # beside whatever its answer in one sentence decides


def display(table: Table) -> list[Column]:
    """The columns as a reader sees them, with units and an arrow towards the better end."""
    frame = table.frame
    numbers = {
        name: [math.nan if pd.isna(value) else float(value) for value in frame[name]]
        for name in frame.columns
        if pd.api.types.is_numeric_dtype(frame[name])
    }
    effects = zip(numbers["effect"], numbers["effect_low"], numbers["effect_high"], strict=True)
    means = zip(numbers["mean"], numbers["mean_low"], numbers["mean_high"], strict=True)
    heading = metric_heading(table.metric, table.goal)
    timed = "solved" in numbers
    shown = [ratio_estimate(*e) if timed else estimate(*e, signed=True) for e in effects]
    what = "tokens to solve [times]" if timed else "effect"
    columns = [
        *_label_columns(table),
        Column(f"{what} vs {table.baseline}", shown, True, "verdict"),
        Column("verdict", [str(verdict) for verdict in frame["verdict"]], False, "verdict"),
        *([_solved_column(numbers)] if timed else []),
        Column("seeds", [number(value, 0) for value in numbers["seeds"]], True),
        Column(heading, [estimate(*mean) for mean in means], True),
        *_cost_columns(numbers, list(frame["params_flagged"])),
    ]
    for name in table.also:
        trios = zip(numbers[name], numbers[f"{name}_low"], numbers[f"{name}_high"], strict=True)
        cells = [number(mean, decimals_of(low, high)) for mean, low, high in trios]
        columns.append(Column(metric_heading(name), cells, True))
    if "paper" in frame:
        columns.append(Column("paper", [as_given(value) for value in numbers["paper"]], True))
    return columns


def _solved_column(numbers: dict[str, list[float]]) -> Column:
    pairs = zip(numbers["solved"], numbers["seeds"], strict=True)
    return Column("solved", [f"{solved:.0f} of {n:.0f}" for solved, n in pairs], True)


def _label_columns(table: Table) -> list[Column]:
    """The row's label, and those axes whose labels it does not already contain."""
    rows = [str(row) for row in table.frame["row"]]
    axes = {axis: [str(label) for label in table.frame[axis]] for axis in table.axes}
    told = [axis for axis, labels in axes.items() if all(map(str.__contains__, rows, labels))]
    heading = table.axes[0] if len(table.axes) == 1 and told else "row"
    extra = [
        Column(axis, labels, False, "label") for axis, labels in axes.items() if axis not in told
    ]
    return [Column(heading, rows, False, "label"), *extra]


def _cost_columns(numbers: dict[str, list[float]], flagged: list[bool]) -> list[Column]:
    differences = [
        number(value, 1, signed=True) + (" (!)" if flag else "")
        for value, flag in zip(numbers["params_diff_percent"], flagged, strict=True)
    ]
    columns = [
        Column("params", [number(value, 0) for value in numbers["params"]], True, "cost"),
        Column("params vs baseline [%]", differences, True, "cost"),
    ]
    if not all(map(math.isnan, numbers["ssm_to_attention"])):
        cells = [number(value, 2) for value in numbers["ssm_to_attention"]]
        columns.append(Column("SSM : attention params", cells, True, "cost"))
    speeds = [number(value, 0) for value in numbers["tokens_per_second"]]
    return [
        *columns,
        _scaled("cache", numbers["cache_bytes"], {1e9: "GB", 1e6: "MB", 1e3: "kB"}),
        _scaled("FLOPs/token", numbers["flops_per_token"], {1e9: "G", 1e6: "M", 1e3: "k"}),
        Column("tokens/s ↑", speeds, True, "cost"),
    ]


def _scaled(heading: str, values: list[float], units: dict[float, str]) -> Column:
    """One unit for the whole column, by its largest value; three significant digits."""
    largest = max((value for value in values if not math.isnan(value)), default=0.0)
    scale = next((unit for unit in units if largest >= unit), min(units))
    cells = [significant(value / scale) for value in values]
    return Column(f"{heading} [{units[scale]}] ↓", cells, True, "cost")


def metric_heading(name: str, goal: Goal | None = None) -> str:
    """`val/recall_accuracy` -> "recall accuracy [fraction] ↑"; an unknown name stays as it is."""
    kind, unit, known = next((entry for entry in _METRICS if entry[0] in name), ("", "", None))
    words = name.removeprefix("val/").replace("_", " ") if kind else name
    return words + unit + _ARROWS[goal or known]


def plain_heading(name: str) -> str:
    """`val/recall_accuracy` -> "recall accuracy": its words alone."""
    return metric_heading(name).split(" [")[0].rstrip(" ↑↓")
