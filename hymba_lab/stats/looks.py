"""Repeated looks: seeds are added to what is undecided, and the looking is paid for.

Look k = 1, 2, ... comes at n, 2n, 4n, ... seeds and may spend the share (1/3) (2/3)^(k-1) of alpha.
However many looks follow, the shares never add up to more than 1, so p = min over looks of
p_k / share_k is a p-value (Bonferroni) whenever one stops, also when the limit is raised later.
It can only fall as seeds come in, and so can Holm's correction of it: what is decided stays so.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

from hymba_lab.errors import UserError
from hymba_lab.stats.holm import Decision, holm_p, step_down
from hymba_lab.stats.paired import Evidence, paired

_FIRST, _RATIO = 1 / 3, 2 / 3  # shares of alpha; their endless sum is 1


@dataclass(frozen=True)
class Looks:
    """The planned looks: at the first `sizes[0]` of `seeds`, the first `sizes[1]`, ..."""

    seeds: tuple[int, ...]
    sizes: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[Collection[int], float]]:
        """The seeds of every look with the share of alpha that it may spend."""
        for number, size in enumerate(self.sizes):
            yield frozenset(self.seeds[:size]), _FIRST * _RATIO**number

    def first(self, n_looks: int) -> "Looks":
        """The first so many looks."""
        return Looks(self.seeds, self.sizes[:n_looks])


def plan_looks(seeds: Sequence[int], limit: int, *, reserved: Collection[int] = ()) -> Looks:
    """Looks at n, 2n, 4n, ... seeds, at most `limit`; n are the first seeds, then the next whole
    numbers that are neither among them nor `reserved`.

    The steps do not depend on the limit, so that a larger one continues what a smaller one began.
    Raises UserError for a limit that pays for no second look.
    """
    n = len(seeds)
    if limit < 2 * n:
        raise UserError(
            f"until decided, with at most {limit} seeds a row: there are {n} to begin with, and "
            f"the first look after them is at {2 * n}; allow at least {2 * n} seeds."
        )
    sizes = [n]
    while 2 * sizes[-1] <= limit:
        sizes.append(2 * sizes[-1])
    new = (seed for seed in count() if seed not in seeds and seed not in reserved)
    return Looks((*seeds, *islice(new, sizes[-1] - n)), tuple(sizes))


class Judged(NamedTuple):
    """One row after the last look at it: the interval is found.effect -+ decision.half_width."""

    found: Evidence
    decision: Decision
    p_within: float  # corrected as decision.p_holm is; NaN without a margin
    look: int  # number of the look that `found` is of, from 1
    decided: bool


def judge(
    rows: Mapping[str, Mapping[int, float]],
    base: Mapping[int, float],
    *,
    alpha: float,
    margin: float | None,
    looks: Looks | None,
) -> list[Judged]:
    """Judge every row against the base; a row that is decided is not looked at again.

    Decided is a row that differs (Holm at alpha) or lies within the margin (TOST, Holm at alpha of
    its own). Without looks there is one, at everything; with looks the family is all rows, so that
    its size cannot change between looks.
    """
    stages = list(looks) if looks else [({*base}.union(*rows.values()), 1.0)]
    n_tests = len(rows) if looks else None
    states = [_Row(row, base, margin) for row in rows.values()]
    decisions, p_within = list[Decision](), list[float]()
    for number, (seeds, share) in enumerate(stages, start=1):
        for state in states:
            if not state.decided:
                state.look_at(number, seeds, share)
        decisions = step_down([state.best for state in states], alpha, n_tests)
        p_within = holm_p([state.p_within for state in states], n_tests)
        for state, decision, p in zip(states, decisions, p_within, strict=True):
            state.decided |= decision.rejected or p <= alpha
    return [
        state.judged(decision, p, alpha / (n_tests or 1))
        for state, decision, p in zip(states, decisions, p_within, strict=True)
    ]


class _Row:
    """What the looks so far have seen of one row."""

    def __init__(
        self, row: Mapping[int, float], base: Mapping[int, float], margin: float | None
    ) -> None:
        self.row, self.base, self.margin = row, base, margin
        self.best = self.latest = paired({}, base)
        self.best_look = self.latest_look = 0
        self.p_within = math.nan
        self.decided = False

    def look_at(self, number: int, seeds: Collection[int], share: float) -> None:
        """Compare the row with the base over the seeds; keep what speaks loudest."""
        row = {seed: value for seed, value in self.row.items() if seed in seeds}
        self.latest, self.latest_look = paired(row, self.base, share), number
        if not self.best.p_spent <= self.latest.p_spent:  # also when the best is not a number yet
            self.best, self.best_look = self.latest, number
        if self.margin is not None:
            p = self.latest.p_within(self.margin) / share
            self.p_within = p if math.isnan(self.p_within) else min(p, self.p_within)

    def judged(self, decision: Decision, p_within: float, alpha_of_row: float) -> Judged:
        """Show the look that detected a difference, otherwise the last one."""
        if decision.rejected or self.best_look == self.latest_look:
            return Judged(self.best, decision, p_within, self.best_look, self.decided)
        width = max(self.latest.half_width(alpha_of_row), abs(self.latest.effect))
        shown = decision._replace(half_width=width)
        return Judged(self.latest, shown, p_within, self.latest_look, self.decided)
