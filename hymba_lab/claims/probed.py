"""A probe's lines as sides of a comparison."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hymba_lab.claims.file import Claims
from hymba_lab.claims.schema import Claim, Condition, Word
from hymba_lab.claims.values import NotRun, by_seed
from hymba_lab.errors import StoreError, suggest
from hymba_lab.probes.columns import TEXT
from hymba_lab.tables.csv_frame import read_csv


class Probe:
    """The lines of one probe of one sweep."""

    def __init__(self, path: Path) -> None:
        try:
            self.lines = read_csv(path, path.read_text(encoding="utf-8"), TEXT)
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: cannot be read: {error}.") from None
        if not {"row", "seed"} <= set(self.lines):
            raise StoreError(f"{path}: has no columns row and seed; run hymba_lab.probes again.")
        self.path = path

    def require(self, claims: Claims, name: str, claim: Claim) -> None:
        """Refuse a claim that names a column which is not there."""
        further = [column for column in (claim.relative_to, claim.per) if column]
        conditions = (claim.where, claim.against_where or {}, claim.apart_from)
        asked = [claim.value, *further, *(column for one in conditions for column in one)]
        for column in asked:
            if column not in self.lines:
                said = f"{self.path} has no column {column!r}" + suggest(
                    column, map(str, self.lines)
                )
                raise claims.wrong(["claims", name], said)

    def conditions(
        self, claim: Claim, row: str, there: Condition
    ) -> Iterator[tuple[str, Condition, Condition]]:
        """Yield what sets a comparison apart, and the conditions of both sides.

        `per` a column: one for each of its entries on the other side; the first side has the same
        one unless the claim fixes it.
        """
        if claim.per is None:
            yield "", claim.where, there
            return
        own = self._meeting(row, there)
        for entry in sorted(own[claim.per].unique()):
            word: Word = entry if isinstance(entry, str) else int(entry)
            yield (
                f"{claim.per} {word}",
                {claim.per: word, **claim.where},
                {**there, claim.per: word},
            )

    def values(self, claim: Claim, row: str, where: Condition) -> dict[int, float]:
        """{seed: mean over the lines that meet `where`}."""
        lines = self._meeting(row, where)
        if claim.relative_to is not None:
            over = lines[claim.value] / lines[claim.relative_to]
            lines = lines.assign(**{claim.value: over})
        values = by_seed(lines, claim.value)
        if not claim.apart_from:
            return values
        away = by_seed(self._meeting(row, {**where, **claim.apart_from}), claim.value)
        return {seed: value / (1 - away[seed]) for seed, value in values.items()}

    def answered(self, row: str, where: Condition) -> float | None:
        """How often a needle's question was answered at all; None where it was not measured."""
        if "answered" not in self.lines:
            return None
        values = by_seed(self._meeting(row, where), "answered").values()
        return sum(values) / len(values) if values else None

    def _meeting(self, row: str, where: Condition) -> pd.DataFrame:
        lines = self.lines[self.lines["row"] == row]
        for column, wanted in where.items():
            wrong = isinstance(wanted, dict)
            word = wanted["not"] if isinstance(wanted, dict) else wanted
            lines = lines[(lines[column] == word) != wrong]
        if lines.empty:
            raise NotRun(f"probe {self.path.stem} of {self.path.parts[-3]} has no line for “{row}”")
        return lines
