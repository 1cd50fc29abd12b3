"""What an entry of a claims file may say."""

from typing import Annotated, Literal

from pydantic import Field

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
    """One claim: the effect is row minus against, each of them a comparison of its own.

    Without `probe` a side is a metric or a cost of the runs, the sweep's own where none is named.
    With one it is the mean of `value` over the probe's lines that meet `where`; the other side is
    another row, or the same one under `against_where`. `relative_to` names a column by which
    `value` is divided, `apart_from` lines whose share is taken away from the whole before; `per` a
    column: a comparison for each of its entries. `$words` in rows are those of the scale.

    Comparisons of one `same_evidence` count once; it may be named for each other row.
    """

    claim: str
    source: str
    sweep: str
    row: str
    against: str | Annotated[list[str], Field(min_length=1)] | None = None
    metric: str | None = None
    probe: str | None = None
    value: str = "value"
    where: Condition = Field(default_factory=dict)
    against_where: Condition | None = None
    relative_to: str | None = None
    apart_from: Condition = Field(default_factory=dict)
    per: str | None = None
    reproduced_if: ReproducedIf
    same_evidence: str | dict[str, str] = ""
    note: str = ""
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

    def evidence(self, other: str) -> str:
        """What the comparison with a row counts as evidence of; "" where it stands alone."""
        named = self.same_evidence
        return named.get(other, "") if isinstance(named, dict) else named


class ClaimsFile(Section):
    """The file as written; `paper` and `sweeps` are folders relative to it."""

    title: str
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    paper: str
    sweeps: str
    claims: Annotated[dict[str, Claim], Field(min_length=1)]
