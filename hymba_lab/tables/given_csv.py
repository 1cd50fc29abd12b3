"""Anybody's CSV file of runs as a frame of text: nothing is guessed, every line keeps its place.

A label `None`, `001` or `1e-3` stays what it is; what is a number, and what is missing, is for the
columns to say (`frame_columns`).
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hymba_lab.atomic import text_of
from hymba_lab.errors import StoreError
from hymba_lab.tables.frame_columns import FILE, LINE

_SEPARATORS = (",", ";", "\t")


def read_given(path: Path) -> pd.DataFrame:
    """Return a CSV file as a frame of text; its index holds the numbers of the lines.

    Fields are separated by commas, semicolons or tabs, whichever the header has. Blanks around a
    field are no part of it; lines without any field are skipped. A `StoreError` says where a file
    is none, or was cut.
    """
    text = _text(path)
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').startswith("sep="):  # Excel's own line: which separator follows
        text = f"\n{rest}"
    lines = _lines(path, text, _separator(path, text))
    number, header = next(lines, (0, []))
    if not header:
        raise StoreError(f"{path}: is empty; give a CSV file with a header and a line per run.")
    columns: list[list[str]] = [[] for _ in header]
    numbers = []
    for number, fields in lines:
        if len(fields) != len(header):
            raise StoreError(_of_another_length(path, number, len(fields), len(header)))
        numbers.append(number)
        for own, field in zip(columns, fields, strict=True):
            own.append(field)
    frame = pd.DataFrame(
        dict(enumerate(columns)), index=pd.Index(numbers, name=LINE), dtype="object"
    )
    frame.columns = pd.Index(header, dtype="object")
    frame.attrs[FILE] = str(path)
    return frame


def _of_another_length(path: Path, number: int, n: int, n_header: int) -> str:
    told = f"{path}: line {number} has {n} fields, the header {n_header}"
    if n < n_header:
        return f"{told}: it was cut or edited; give every field, an empty one where nothing is."
    return (
        f"{told}; name every column, take the comma at the end away, and write decimals with a "
        "point."
    )


def _text(path: Path) -> str:
    try:
        text = text_of(path).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise StoreError(
            f"{path}: is no text in UTF-8 (byte {byte:#04x} at {error.start}); save the table as "
            "CSV in UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip()
        raise StoreError(
            f"{path}: cannot be read as CSV with a header: {reason}; give such a file."
        ) from None
    if "\0" in text:
        raise StoreError(f"{path}: holds NUL bytes, so it is no CSV in UTF-8; save it as that.")
    return text


def _separator(path: Path, text: str) -> str:
    """The one that gives the header the most fields; a comma where they tie."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    try:
        return max(_SEPARATORS, key=lambda own: len(next(csv.reader([header], delimiter=own), [])))
    except csv.Error as error:
        raise StoreError(f"{path}: the header: {error}; is this a table of runs?") from None


def _lines(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for fields in reader:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        at = f"line {reader.line_num}: {error}"
        raise StoreError(
            f"{path}: {at}; close every quote, and double one that stands inside of a field."
        ) from None
