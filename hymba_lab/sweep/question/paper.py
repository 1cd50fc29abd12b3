"""A sweep's reference column: cells of the paper's tables, looked up and never typed again."""

import csv
from collections.abc import Mapping
from pathlib import Path

from hymba_lab.config.yaml_file import Document
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.registry import Section

_CACHE = "cache_mb"  # the tables' name for the cache [MB = 1e6 bytes]


class Paper(Section):
    """Numbers of a paper, shown beside ours and never mixed with them."""

    label: str
    values: dict[str, float] = {}  # our row -> number
    table: str | None = None  # a CSV file, relative to the sweep
    of: str | None = None  # its column, or its row
    cells: dict[str, str] = {}  # our row -> its row, or its column
    caches: dict[str, float] = {}  # our row -> its cache [bytes], where the table prints it


def looked_up(paper: Paper, document: Document, folder: Path) -> Paper:
    """Return the paper's numbers with the `cells` of its table among the values.

    `of` is a column of the CSV file and a cell names a row by its first column, or the other way
    round. An empty cell is a number that the paper does not print: there is no value then.
    """
    if paper.table is None:
        return paper
    table = _read(folder / paper.table, document)
    if paper.of is None or not paper.cells:
        where = document.where(["paper"])
        raise ConfigError(f"{where}: paper: a table needs of: and cells: to say what is meant.")
    columns = list(next(iter(table.values())))
    values, caches = dict(paper.values), dict(paper.caches)
    for label, name in paper.cells.items():
        row, column = (name, paper.of) if paper.of in columns else (paper.of, name)
        where = f"{document.where(['paper', 'cells', label])}: paper.cells.{label}: {paper.table}"
        if row not in table:
            raise ConfigError(f"{where} has no row {row!r}" + suggest(row, table))
        if column not in columns:
            raise ConfigError(f"{where} has no column {column!r}" + suggest(column, columns))
        if table[row][column]:
            values[label] = float(table[row][column])
        row, column = (name, _CACHE) if paper.of in columns else (_CACHE, name)
        if printed := table.get(row, {}).get(column):
            caches[label] = 1e6 * float(printed)
    return paper.model_copy(update={"values": values, "caches": caches})


def _read(path: Path, document: Document) -> Mapping[str, Mapping[str, str]]:
    """Return the table as {first column: {column: cell}}."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        where = document.where(["paper", "table"])
        raise ConfigError(f"{where}: paper.table: {path}: {error.strerror}.") from None
    return {next(iter(line.values())): line for line in lines}
