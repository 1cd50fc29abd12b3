"""The paper's effects: cells of its tables, looked up and never typed again."""

from pathlib import Path

from hymba_lab.claims.schema import PaperCells
from hymba_lab.config.yaml_file import Document
from hymba_lab.errors import UserError, suggest
from hymba_lab.tables.paper_csv import Table, by_first_column, lines_of

Place = list[str | int]


class PaperTables:
    """The tables in a folder, each read once."""

    def __init__(self, document: Document, folder: Path) -> None:
        self.document, self.folder = document, folder
        self._tables: dict[str, Table] = {}

    def effect(self, name: str, cells: PaperCells) -> tuple[float, str]:
        """The paper's effect and its terms, e.g. (9.92, "49.90 - 39.98, recall_acc_pct")."""
        place: Place = ["claims", name, "paper"]
        if cells.minus and cells.over:
            raise self.document.wrong(place, "give minus or over, not both.")
        table = self._table([*place, "table"], cells.table)
        first = self._cell([*place, "cell"], table, cells.cell)
        other = cells.minus or cells.over
        if other is None:
            return float(first), f"{first} {cells.cell[1]}"
        second = self._cell([*place, "minus" if cells.minus else "over"], table, other)
        sign, effect = "-", float(first) - float(second)
        if cells.over:
            sign, effect = "/", float(first) / float(second)
        unit = cells.cell[1] if cells.cell[1] == other[1] else cells.cell[0]
        return effect, f"{first} {sign} {second}, {unit}"

    def _table(self, place: Place, name: str) -> Table:
        if name not in self._tables:
            self._tables[name] = self._read(place, name)
        return self._tables[name]

    def _read(self, place: Place, name: str) -> Table:
        path = self.folder / f"{name}.csv"
        try:
            return by_first_column(lines_of(path))
        except FileNotFoundError:
            known = sorted(found.stem for found in self.folder.glob("*.csv"))
            said = f"no table {name!r}" + suggest(name, known)
            raise self.document.wrong(place, said) from None
        except UserError as error:
            raise self.document.wrong(place, str(error)) from None

    def _cell(self, place: Place, table: Table, cell: list[str]) -> str:
        row, column = cell
        if row not in table:
            raise self.document.wrong(place, f"no row {row!r}" + suggest(row, table))
        if column not in table[row]:
            said = f"no column {column!r}" + suggest(column, table[row])
            raise self.document.wrong(place, said)
        try:
            float(table[row][column])
        except ValueError:
            said = f"[{row}, {column}] holds {table[row][column]!r}, no number."
            raise self.document.wrong(place, said) from None
        return table[row][column]
