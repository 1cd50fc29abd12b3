"""A result table as Markdown, LaTeX, terminal text or CSV: the same input gives the same bytes.

Numbers for readers carry the digits that their interval supports; the CSV carries all of them.
What was not measured is an em dash for readers and an empty field in the CSV, never 0.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

from hymba_lab.stats import Goal
from hymba_lab.stats.times import rounded_down

MISSING = "—"
_MOST_DECIMALS = 6
_ARROWS: dict[Goal | None, str] = {"maximize": " ↑", "minimize": " ↓", None: ""}

# How metrics are named (`val/<label>_accuracy/<group>` ...), their units and good direction.
_METRICS: tuple[tuple[str, str, Goal], ...] = (
    ("accuracy", " [fraction]", "maximize"),
    ("bits_per_byte", "", "minimize"),
    ("loss", " [nats/token]", "minimize"),
)
_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"${char}$" for char in "<>|"},
    **{char: f"{{{char}}}" for char in "[*"},  # after \\ both would be read as its arguments
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    MISSING: "---",
}


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


def to_csv(table: Table) -> str:
    """The raw numbers, exact to the last bit; empty where nothing was measured."""
    frame = table.frame.copy()
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].map(_no_formula)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _no_formula(cell: Any) -> Any:
    """Return text that a spreadsheet would run as a formula with an apostrophe in front."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "@", "\t")) else cell


def to_markdown(table: Table) -> str:
    """A GitHub-flavored Markdown table, the notes as a list under it."""
    parts = [markdown_table(display(table))]
    for second in table.more:
        parts += [markdown_text(second.title) + ":", markdown_table(second.columns)]
    notes = "\n".join(f"- {markdown_text(note)}" for note in table.notes)
    return "\n\n".join([*parts, notes]) + "\n"


def markdown_table(columns: list[Column]) -> str:
    """Columns as a GitHub-flavored Markdown table."""
    lines = [
        [markdown_text(column.heading) for column in columns],
        ["---:" if column.numeric else "---" for column in columns],
        *_rows([[markdown_text(cell) for cell in column.cells] for column in columns]),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_latex(table: Table) -> str:
    """A `tabular` for the booktabs package, the notes in small print under it."""
    lines = _latex_table(display(table))
    for second in table.more:
        title = rf"\par\medskip {_latex(second.title)}:\par\smallskip"
        lines += [title, *_latex_table(second.columns)]
    lines.append(r"\par\smallskip{\footnotesize")
    return "\n".join([*lines, *(_latex(note) + r"\par" for note in table.notes), "}"]) + "\n"


def _latex_table(columns: list[Column]) -> list[str]:
    body = _rows([[_latex(cell, column.numeric) for cell in column.cells] for column in columns])
    return [
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in columns)}}}",
        r"\toprule",
        rf"{' & '.join(_latex(column.heading) for column in columns)} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def to_rich(table: Table, width: int) -> Group:
    """For a terminal of a width [characters]: verdicts, then results, costs, notes.

    Labels are text, never markup. Where columns would be folded or cut they go on in a table below.
    """
    columns = display(table)
    parts = [
        part
        for kind in ("verdict", "result", "cost")
        for part in _rich_tables([one for one in columns if one.part in ("label", kind)], width)
    ]
    for one in table.more:
        parts += [Text(one.title), *_rich_tables(one.columns, width)]
    return Group(*parts, Text("\n".join(table.notes)))


def _rich_tables(columns: list[Column], width: int) -> list[RenderableType]:
    """Columns in as many tables, each with the labels in front, as it takes to keep them whole."""
    labels = [column for column in columns if column.part == "label"]
    groups: list[list[Column]] = [[]]
    for column in columns[len(labels) :]:
        if groups[-1] and _room([*labels, *groups[-1], column], _least) > width:
            groups.append([])
        groups[-1].append(column)
    return [_rich_table([*labels, *group], width) for group in groups]


def _rich_table(columns: list[Column], width: int) -> rich.table.Table:
    result = rich.table.Table(box=rich.box.SIMPLE)
    tight, spare = _room(columns, _most) > width, max(0, width - _room(columns, _least))
    *_, last = [0, *(place for place, column in enumerate(columns) if not column.numeric)]
    for place, column in enumerate(columns):
        fixed = None
        if tight and place != last:  # the last text takes what is left
            more = 0 if column.numeric else min(_most(column) - _least(column), spare // 3)
            fixed = _least(column) + more
        justify: Literal["right", "left"] = "right" if column.numeric else "left"
        result.add_column(Text(column.heading), justify=justify, width=fixed)
    for row in _rows([column.cells for column in columns]):
        result.add_row(*(Text(cell) for cell in row))
    return result


def _room(columns: list[Column], width_of: Callable[[Column], int]) -> int:
    """Characters of a line: a blank on either side of a cell, and one between two."""
    return 1 + sum(width_of(column) + 3 for column in columns)


def _least(column: Column) -> int:
    """The narrowest that a column may be: no word and no number is broken."""
    words = column.heading.split()
    cells = column.cells if column.numeric else [w for cell in column.cells for w in cell.split()]
    return max(map(cell_len, [*words, *cells]), default=1)


def _most(column: Column) -> int:
    return max(map(cell_len, [column.heading, *column.cells]))


def to_text(table: Table, width: int = 160) -> str:
    """`to_rich` without colors at a fixed width [characters], for files and logs."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(to_rich(table, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


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
        cells = [number(mean, _decimals(low, high)) for mean, low, high in trios]
        columns.append(Column(metric_heading(name), cells, True))
    if "paper" in frame:
        columns.append(Column("paper", [_as_given(value) for value in numbers["paper"]], True))
    return columns


def _solved_column(numbers: dict[str, list[float]]) -> Column:
    pairs = zip(numbers["solved"], numbers["seeds"], strict=True)
    return Column("solved", [f"{solved:.0f} of {n:.0f}" for solved, n in pairs], True)


def ratio_estimate(value: float, low: float, high: float) -> str:
    """`1.32 [1.10, 1.58]`; an open end is told as a bound: "> 1.24", and NaN as an em dash."""
    if math.isinf(high) and low > 0:
        return f"> {rounded_down(low)}"
    if low == 0 and not math.isinf(high) and not math.isnan(high):
        return f"< {math.ceil(high * 100) / 100:.2f}"
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return number(value, 2)
    return estimate(value, low, high)


def limits_of(metric: str) -> tuple[float, float]:
    """The least and the largest value of a metric: an accuracy and its area are fractions."""
    return (0.0, 1.0) if "accuracy" in metric else (-math.inf, math.inf)


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
    cells = [_significant(value / scale) for value in values]
    return Column(f"{heading} [{units[scale]}] ↓", cells, True, "cost")


def metric_heading(name: str, goal: Goal | None = None) -> str:
    """`val/recall_accuracy` -> "recall accuracy [fraction] ↑"; an unknown name stays as it is."""
    kind, unit, known = next((entry for entry in _METRICS if entry[0] in name), ("", "", None))
    words = name.removeprefix("val/").replace("_", " ") if kind else name
    return words + unit + _ARROWS[goal or known]


def estimate(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """`value [low, high]` to two digits of the half-width: "0.512 [0.497, 0.527]".

    Signed ends keep digits until none of them is rounded to 0: the reader sees which side of 0
    an interval is on, as the verdict says.
    """
    if math.isnan(low) or math.isnan(high):
        return number(value, 3, signed=signed)
    decimals = _decimals(low, high)
    while signed and decimals < _MOST_DECIMALS and _hides_sign(low, high, decimals):
        decimals += 1
    if signed and _hides_sign(low, high, decimals):
        return f"{value:+.1e} [{low:+.1e}, {high:+.1e}]"
    ends = (number(end, decimals, signed=signed) for end in (low, high))
    return f"{number(value, decimals, signed=signed)} [{', '.join(ends)}]"


def _hides_sign(low: float, high: float, decimals: int) -> bool:
    return any(end != 0 and round(end, decimals) == 0 for end in (low, high))


def _decimals(low: float, high: float) -> int:
    half_width = (high - low) / 2
    if not 0 < half_width < math.inf:
        return 3
    return min(max(1 - math.floor(math.log10(half_width)), 0), _MOST_DECIMALS)


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """`value` with thousands separators; an em dash for NaN; no negative zero."""
    if math.isnan(value):
        return MISSING
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


def _significant(value: float) -> str:
    if math.isnan(value) or value == 0:
        return number(value, 0)
    return number(value, min(max(2 - math.floor(math.log10(abs(value))), 0), _MOST_DECIMALS))


def _as_given(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:,.10g}"


def _rows(columns: Iterable[list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*columns, strict=True))


def markdown_text(text: str) -> str:
    """`text` on one line, safe in a cell of a Markdown table."""
    return re.sub(r"([\\|*`<])", r"\\\1", " ".join(text.split()))


def _latex(text: str, numeric: bool = False) -> str:
    escaped = "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
    return re.sub(r"-(?=\d)", "$-$", escaped) if numeric else escaped
