"""A result table as Markdown, LaTeX, terminal text or CSV: the same input gives the same bytes.

The CSV carries every digit of a number, and an empty field for what was not measured.
"""

import io
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pandas as pd
import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from hymba_lab.cli import plain_console
from hymba_lab.tables.display import Column, Table, display
from hymba_lab.tables.numbers import MISSING

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
    plain_console(file=file, width=width, color_system=None).print(to_rich(table, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _rows(columns: Iterable[list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*columns, strict=True))


def markdown_text(text: str) -> str:
    """`text` on one line, safe in a cell of a Markdown table."""
    return re.sub(r"([\\|*`<])", r"\\\1", " ".join(text.split()))


def _latex(text: str, numeric: bool = False) -> str:
    escaped = "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
    return re.sub(r"-(?=\d)", "$-$", escaped) if numeric else escaped
