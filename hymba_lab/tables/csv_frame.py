"""CSV files as frames: a cut or edited file is refused, not guessed at."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab.errors import StoreError

_TRUTH = {"True": True, "False": False, "": math.nan}


def read_csv(path: Path, text: str, words: Iterable[str]) -> pd.DataFrame:
    """Return a CSV as a frame: the columns `words` as text, others as numbers or true and false.

    An empty field is "" in a column of text, NaN elsewhere; every digit of a number counts. A
    `StoreError` names the line with another number of fields than the header, or no number where
    one is due. `path` only stands in errors.
    """
    try:
        header, *lines = list(csv.reader(io.StringIO(text), strict=True))
    except (csv.Error, ValueError):
        raise StoreError(f"{path}: not a CSV file with a header; write it again.") from None
    if len(set(header)) < len(header):
        raise StoreError(f"{path}: the header names a column twice; write it again.")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise StoreError(
                f"{path}: line {number} has {len(line)} fields, the header {len(header)}: it was "
                "cut or edited; write it again."
            )
    kept, columns = set(words), [[line[place] for line in lines] for place in range(len(header))]
    read = {
        name: cells if name in kept else _values(path, name, cells)
        for name, cells in zip(header, columns, strict=True)
    }
    return pd.DataFrame(read, columns=header)


def _values(path: Path, name: str, cells: Sequence[str]) -> list[Any]:
    if set(cells) <= _TRUTH.keys():
        return [_TRUTH[cell] for cell in cells]
    values = [_number(cell) for cell in cells]
    if None in values:
        line = values.index(None)
        raise StoreError(
            f"{path}: line {line + 2}, column {name!r}: {cells[line]!r} is not a number."
        )
    return values


def _number(cell: str) -> float | None:
    """Return an int, a float, NaN for an empty field, or None where there is no number."""
    for kind in (int, float):
        try:
            return kind(cell) if cell else math.nan
        except ValueError:
            continue
    return None
