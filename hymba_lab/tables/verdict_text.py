"""Verdicts of anybody's table for a terminal, and as JSON."""

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import rich.table
from rich.text import Text

from hymba_lab.cli import plain_console
from hymba_lab.errors import plain
from hymba_lab.tables.numbers import estimate, number, ratio_estimate
from hymba_lab.tables.verdict import RowVerdict, Verdicts

_WIDTH, _LABELS = 80, 24
_LEAST_P = 1e-15  # below it a t-distribution's tail is no number to quote


def as_json(rows: Sequence[RowVerdict], timed: bool = False) -> str:
    """Return the list; what is not known, and an open end, is null: of ratios the low one is 0."""
    numbers = ("effect", "low", "high", "p")
    rows = [replace(one, low=math.nan) if timed and one.low == 0 else one for one in rows]
    lines = [
        {
            "row": one.row,
            "n": one.n,
            **{name: _finite(getattr(one, name)) for name in numbers},
            "verdict": one.verdict,
        }
        for one in rows
    ]
    return json.dumps(lines, indent=1, allow_nan=False)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_text(found: Verdicts) -> str:
    """Return a block per row, then what must be known beside them, in 80 columns."""
    rows = [(f"{one.row} ({one.n} runs)", _said(one, found.timed)) for one in found.rows]
    notes = list(found.notes)
    if not math.isnan(found.wrong_winner):
        notes.append(
            "One run per row, drawn at random, would have crowned another row than all runs do "
            f"{number(100 * found.wrong_winner, 0)} times in a hundred."
        )
    return "\n".join([*_beside(rows, _LABELS), *_beside([("-", note) for note in notes], 1)])


def _said(one: RowVerdict, timed: bool) -> str:
    if timed:
        known = not (math.isnan(one.effect) and math.isinf(one.high) and one.low == 0)
        effect = f"{ratio_estimate(one.effect, one.low, one.high)} times" if known else ""
    else:
        effect = estimate(one.effect, one.low, one.high, signed=True)
    if math.isnan(one.effect) and math.isnan(one.low):
        return one.says
    p = "" if math.isnan(one.p) else f"p = {one.p:.2g}" if one.p > _LEAST_P else "p < 1e-15"
    return f"{one.says}\n{effect} {p}".strip()


def _beside(pairs: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Two columns of which the first has a width; neither breaks a word where it need not."""
    grid = rich.table.Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=width, overflow="fold")
    grid.add_column(width=_WIDTH - width - 2, overflow="fold")
    for left, right in pairs:
        grid.add_row(Text(plain(left, keep="")), Text(plain(right)))
    file = io.StringIO()
    plain_console(file=file, width=_WIDTH, color_system=None).print(grid)
    return [line.rstrip() for line in file.getvalue().splitlines()]
