"""Tables as HTML: wide ones scroll inside their own box, verdicts carry a mark besides a colour."""

from collections.abc import Sequence
from html import escape

from hymba_lab.tables.display import Column, Table, display
from hymba_lab.tables.sentence import kind

_MARKS = {
    "better": "▲ ",
    "worse": "▼ ",
    "equivalent": "= ",
    "unseen": "○ ",
    "few": "? ",
    "censored": "… ",
    "unlearned": "∅ ",
}
PAPER = "paper ◆ (its own models, data and scale)"


def result_html(table: Table, caption: str) -> str:
    """Return the result table; the paper's numbers stand in a marked column of their own."""
    kinds = [kind({str(k): v for k, v in line.items()}) for line in table.frame.to_dict("records")]
    columns, classes = [], []
    for column in _ordered(display(table)):
        of_cells = [""] * len(column.cells)
        if column.heading == "verdict":
            of_cells = [f"verdict-cell {name}" for name in kinds]
            marked = [_MARKS.get(name, "") for name in kinds]
            cells = [mark + cell for mark, cell in zip(marked, column.cells, strict=True)]
            column = column._replace(cells=cells)
        elif column.heading == "paper":
            of_cells = ["paper"] * len(column.cells)
            cells = [cell if cell == "—" else f"◆ {cell}" for cell in column.cells]
            column = column._replace(heading=PAPER, cells=cells)
        columns.append(column)
        classes.append(of_cells)
    return table_html(columns, caption, classes)


def _ordered(columns: Sequence[Column]) -> list[Column]:
    """Return what was found first, the paper's number beside it, then other metrics and costs."""
    found = [column.heading for column in columns].index("verdict") + 1
    rest = [(column, 2 if column.part == "cost" else 1) for column in columns[found:]]
    rest.sort(key=lambda pair: 0 if pair[0].heading == "paper" else pair[1])
    return [*columns[:found], *(column for column, _ in rest)]


def table_html(
    columns: Sequence[Column], caption: str, classes: Sequence[Sequence[str]] | None = None
) -> str:
    """Return columns as a table in a box that scrolls; the first one heads the rows."""
    kinds = classes or [[""] * len(column.cells) for column in columns]
    head = "".join(
        f'<th scope="col"{_class(column, "")}>{escape(column.heading)}</th>' for column in columns
    )
    lines = []
    for place in range(len(columns[0].cells)):
        cells = [
            _cell(column, place, kind[place], first=number == 0)
            for number, (column, kind) in enumerate(zip(columns, kinds, strict=True))
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f"""<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">
<table>
<caption>{escape(caption)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


def _cell(column: Column, place: int, kind: str, *, first: bool) -> str:
    text = escape(column.cells[place])
    if first:
        return f'<th scope="row">{text}</th>'
    return f"<td{_class(column, kind)}>{text}</td>"


def _class(column: Column, kind: str) -> str:
    names = " ".join(name for name in ("number" if column.numeric else "", kind) if name)
    return f' class="{names}"' if names else ""
