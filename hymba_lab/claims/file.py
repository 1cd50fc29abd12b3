"""analysis/claims.yaml: what the paper claims, and what counts as reproduced."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hymba_lab.config.messages import explain
from hymba_lab.config.yaml_file import Document, read_yaml
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.probes.columns import COLUMNS as PROBES
from hymba_lab.registry import Section
from hymba_lab.stats import Region

COSTS = ("params", "cache_bytes", "flops_per_token")  # exact: their effect is the ratio

Word = str | int
Condition = dict[str, Word | dict[Literal["not"], Word]]
Cell = Annotated[list[str], Field(min_length=2, max_length=2)]  # first column's entry, column


class PaperCells(Section):
    """The paper's effect: a cell of a table in `paper/`, minus or over another."""

    table: str
    cell: Cell
    minus: Cell | None = None
    over: Cell | None = None


class ReproducedIf(Section):
    """Where the effect, in the metric's unit and sign, has to lie: one of the three."""

    above: float | None = None
    below: float | None = None
    within: Annotated[float, Field(gt=0)] | None = None

    @property
    def region(self) -> Region:
        """The values that count as reproduced."""
        if self.within is not None:
            return Region(-self.within, self.within)
        if self.below is not None:
            return Region(high=self.below)
        return Region() if self.above is None else Region(low=self.above)

    def __str__(self) -> str:
        if self.within is not None:
            return f"within ±{self.within:g}"
        return f"< {self.below:g}" if self.above is None else f"> {self.above:g}"


class Claim(Section):
    """One claim: the effect is row minus against (each of them), paired by seed.

    With a `probe`, a side is the mean of `value` over the probe's lines that meet `where`; the
    other side is another row, or the same one under `against_where`. `metric` is a metric or a cost
    of the runs, the sweep's own where it is not given. `$words` in rows are those of the scale.
    """

    claim: str
    source: str
    sweep: str
    row: str
    against: str | Annotated[list[str], Field(min_length=1)] | None = None
    metric: str | None = None
    probe: str | None = None
    value: str = "value"
    where: Condition = {}
    against_where: Condition | None = None
    reproduced_if: ReproducedIf
    paper: PaperCells | None = None

    @property
    def others(self) -> list[str]:
        """The rows on the other side."""
        if self.against is None:
            return [self.row]
        return [self.against] if isinstance(self.against, str) else self.against

    @property
    def exact(self) -> bool:
        """Whether the effect is a ratio of costs, which no seed changes."""
        return self.probe is None and self.metric in COSTS


class ClaimsFile(Section):
    """The file as written; `paper` and `sweeps` are folders relative to it."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    paper: str
    sweeps: str
    claims: Annotated[dict[str, Claim], Field(min_length=1)]


@dataclass(frozen=True)
class Claims:
    """A claims file with the paper's effects looked up."""

    file: ClaimsFile
    document: Document
    folder: Path
    paper: Mapping[str, tuple[float, str]]  # id -> effect, and how it comes about

    def wrong(self, place: list[str | int], said: str) -> ConfigError:
        """Return an error that stands at a place of the file."""
        return ConfigError(f"{self.document.where(place)}: {'.'.join(map(str, place))}: {said}")


def load_claims(path: Path) -> Claims:
    """Load and check the file; a `ConfigError` names file:line:column of every fault."""
    document = read_yaml(path)
    try:
        file = ClaimsFile.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, document, ClaimsFile))) from None
    claims = Claims(file, document, path.parent, {})
    for name, claim in file.claims.items():
        _check(claims, name, claim)
    tables: dict[str, dict[str, dict[str, str]]] = {}
    paper = {
        name: _paper_effect(claims, name, claim.paper, tables)
        for name, claim in file.claims.items()
        if claim.paper is not None
    }
    return Claims(file, document, path.parent, paper)


def _check(claims: Claims, name: str, claim: Claim) -> None:
    """What one key cannot see of another."""
    given = [k for k, v in claim.reproduced_if.model_dump().items() if v is not None]
    if len(given) != 1:
        raise claims.wrong(["claims", name, "reproduced_if"], "give one of above, below, within.")
    if (claim.against is None) == (claim.against_where is None):
        raise claims.wrong(
            ["claims", name], "give against (other rows), or with a probe against_where."
        )
    if claim.probe is None:
        for key in ("where", "against_where"):
            if getattr(claim, key):
                raise claims.wrong(["claims", name, key], "is for claims with a probe.")
    elif claim.probe not in PROBES:
        said = f"no probe {claim.probe!r}" + suggest(claim.probe, PROBES)
        raise claims.wrong(["claims", name, "probe"], said)
    elif claim.metric is not None:
        raise claims.wrong(["claims", name, "metric"], "a probe has its own value; name one only.")


def _paper_effect(
    claims: Claims,
    name: str,
    cells: PaperCells,
    tables: dict[str, dict[str, dict[str, str]]],
) -> tuple[float, str]:
    """The paper's effect and its terms, e.g. (9.92, "49.90 - 39.98 recall_acc_pct")."""
    place: list[str | int] = ["claims", name, "paper"]
    if cells.minus and cells.over:
        raise claims.wrong(place, "give minus or over, not both.")
    if cells.table not in tables:
        tables[cells.table] = _read_table(claims, [*place, "table"], cells.table)
    table = tables[cells.table]
    first = _cell(claims, [*place, "cell"], table, cells.cell)
    other = cells.minus or cells.over
    if other is None:
        return float(first), f"{first} {cells.cell[1]}"
    second = _cell(claims, [*place, "minus" if cells.minus else "over"], table, other)
    sign, effect = "-", float(first) - float(second)
    if cells.over:
        sign, effect = "/", float(first) / float(second)
    unit = cells.cell[1] if cells.cell[1] == other[1] else cells.cell[0]
    return effect, f"{first} {sign} {second}, {unit}"


def _read_table(claims: Claims, place: list[str | int], name: str) -> dict[str, dict[str, str]]:
    folder = claims.folder / claims.file.paper
    path = folder / f"{name}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        known = sorted(found.stem for found in folder.glob("*.csv"))
        raise claims.wrong(place, f"no table {name!r}" + suggest(name, known)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise claims.wrong(place, f"{path} cannot be read: {error}.") from None
    return {next(iter(line.values())): line for line in lines}


def _cell(
    claims: Claims,
    place: list[str | int],
    table: Mapping[str, Mapping[str, str]],
    cell: list[str],
) -> str:
    row, column = cell
    if row not in table:
        raise claims.wrong(place, f"no row {row!r}" + suggest(row, table))
    if column not in table[row]:
        raise claims.wrong(place, f"no column {column!r}" + suggest(column, table[row]))
    try:
        float(table[row][column])
    except ValueError:
        said = f"[{row}, {column}] holds {table[row][column]!r}, no number."
        raise claims.wrong(place, said) from None
    return table[row][column]
