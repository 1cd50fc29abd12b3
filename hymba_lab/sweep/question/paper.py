"""A sweep's reference column: cells of the paper's tables, looked up and never typed again."""

from collections.abc import Mapping
from pathlib import Path

from hymba_lab.config.yaml_file import Document
from hymba_lab.errors import ConfigError, UserError, suggest
from hymba_lab.registry import Section
from hymba_lab.tables.paper_csv import Table, by_first_column, lines_of

QUOTED = "quoted by a note"
_LONG = {"row", "column", "value", "seen_in"}  # columns of a table with one number a line
_CACHE = "cache_mb"  # the tables' name for the cache [MB = 1e6 bytes]


class Paper(Section):
    """Numbers of a paper, shown beside ours and never mixed with them."""

    label: str  # the column's heading: paper, metric, scale
    values: dict[str, float] = {}  # our row -> number
    table: str | None = None  # a CSV file, relative to the sweep
    of: str | None = None  # its column, or its row
    cells: dict[str, str] = {}  # our row -> its row, or its column
    only: dict[str, str] = {}  # of a table with one number a line: which lines, by their columns
    caches: dict[str, float] = {}  # our row -> its cache [bytes], where the table prints it


def looked_up(paper: Paper, document: Document, folder: Path) -> Paper:
    """Return the paper's numbers with the `cells` of its table among the values.

    `of` is a column of the CSV file and a cell names a row by its first column, or the other way
    round. An empty cell is a number that the paper does not print: there is no value then. A table
    with one number a line (row, column, value, seen_in) may hold several papers' (`only`); where a
    number was not read in the paper itself, the label says that it is quoted.
    """
    if paper.table is None:
        return paper
    table, quoted = _read(folder / paper.table, document, paper.only)
    if paper.of is None or not paper.cells:
        raise document.wrong(["paper"], "a table needs of: and cells: to say what is meant.")
    columns = list(dict.fromkeys(column for line in table.values() for column in line))
    values, caches = dict(paper.values), dict(paper.caches)
    for label, name in paper.cells.items():
        row, column = (name, paper.of) if paper.of in columns else (paper.of, name)
        where = f"{document.where(['paper', 'cells', label])}: paper.cells.{label}: {paper.table}"
        if row not in table:
            raise ConfigError(f"{where} has no row {row!r}" + suggest(row, table))
        if column not in columns:
            raise ConfigError(f"{where} has no column {column!r}" + suggest(column, columns))
        if table[row].get(column):
            values[label] = _number(table[row][column], f"{where} [{row}, {column}]")
        row, column = (name, _CACHE) if paper.of in columns else (_CACHE, name)
        if printed := table.get(row, {}).get(column):
            caches[label] = 1e6 * _number(printed, f"{where} [{row}, {column}]")
    label = paper.label
    if quoted & {(row, paper.of) for row in paper.cells.values()}:
        label += f" ({QUOTED})"
    return paper.model_copy(update={"values": values, "caches": caches, "label": label})


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{where} holds {text!r}, no number.") from None


def _read(
    path: Path, document: Document, only: Mapping[str, str]
) -> tuple[Table, set[tuple[str, str]]]:
    """Return the table as {first column: {column: cell}}, and the cells that are second-hand."""
    try:
        lines = lines_of(path)
    except FileNotFoundError as error:
        raise document.wrong(["paper", "table"], f"{path}: {error.strerror}.") from None
    except UserError as error:
        raise document.wrong(["paper", "table"], str(error)) from None
    if not set(lines[0]) >= _LONG:
        return by_first_column(lines), set()
    table: dict[str, dict[str, str]] = {}
    quoted = set()
    for line in lines:
        if all(line.get(key) == value for key, value in only.items()):
            table.setdefault(line["row"], {})[line["column"]] = line["value"]
            if not line["seen_in"].startswith("paper text"):
                quoted.add((line["row"], line["column"]))
    if not table:
        raise document.wrong(["paper", "only"], f"{path} has no line with {dict(only)}.")
    return table, quoted
