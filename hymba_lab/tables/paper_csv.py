"""Tables of papers as CSV files: lines by name, comments left out, nothing guessed."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from hymba_lab.atomic import text_of
from hymba_lab.errors import UserError

Table = Mapping[str, Mapping[str, str]]


def lines_of(path: Path) -> list[dict[str, str]]:
    """Return the lines below the header, those that begin with # left out.

    Raises `FileNotFoundError` for a file that is not there, `UserError` for one that is no table.
    """
    try:
        file = io.StringIO(text_of(path), newline="")
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); save it as one.") from None
    if not lines:
        raise UserError(f"{path} holds no line below its columns.")
    return lines


def by_first_column(lines: list[dict[str, str]]) -> Table:
    """Return {first column: line}."""
    return {next(iter(line.values())): line for line in lines}
