"""Repeated looks: seeds are added to what is undecided, and the looking is paid for.

Look k = 1, 2, ... comes at n, 2n, 4n, ... seeds and may spend the share (1/3) (2/3)^(k-1) of alpha.
However many looks follow, the shares never add up to more than 1, so p = min over looks of
p_k / share_k is a p-value (Bonferroni) whenever one stops, also when the limit is raised later.
It can only fall as seeds come in, and so can Holm's correction of it: what is decided stays so.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from hymba_lab.errors import UserError
from hymba_lab.stats.holm import Decision, Effect, holm_p, step_down

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


class Bounded(Effect, Protocol):
    """An effect that may be shown to be small."""

    def p_within(self, margin: float) -> float:
        """The p-value of "the effect lies within -+ margin"; NaN where there is no such test."""


E = TypeVar("E", bound=Bounded)
SeedsOf = Callable[[str], Collection[int]]  # row -> its seeds that were looked at
Assess = Callable[[SeedsOf, float], Mapping[str, E]]  # and share of alpha -> evidence by row


class Judged(NamedTuple, Generic[E]):
    """One row after the last look at it: the interval is decision.interval(found.effect)."""

    found: E
    decision: Decision
    p_within: float  # corrected as decision.p_holm is; NaN without a margin
    look: int  # number of the look that `found` is of, from 1
    decided: bool


def judge(
    assess: Assess[E],
    labels: Sequence[str],
    seeds: Collection[int],
    *,
    alpha: float,
    margin: float | None,
    looks: Looks | None,
    n_intervals: int | None = None,
) -> dict[str, Judged[E]]:
    """Judge every row by what `assess` finds; a row that is decided is not looked at again.

    Nor do its later seeds, where there are any, say anything of the noise of others.
    Decided is a row that differs (Holm at alpha) or lies within the margin (TOST, Holm at alpha of
    its own). Without looks there is one, at all `seeds`; with looks the family is all rows, so that
    its size cannot change between looks. `n_intervals` counts intervals where some rows have one
    and no test.
    """
    stages = list(looks) if looks else [(seeds, 1.0)]
    n_tests = len(labels) if looks else None
    states: dict[str, _Row[E]] = {}
    decisions, p_within = list[Decision](), list[float]()
    for number, (own, share) in enumerate(stages, start=1):
        if states and all(state.decided for state in states.values()):
            break
        stopped = {label: state.seeds for label, state in states.items() if state.decided}
        found = assess(partial(_seeds_of, stopped, own), share)
        for label in labels:
            if label not in states:
                states[label] = _Row(found[label], number, margin)
            elif not states[label].decided:
                states[label].look_at(found[label], number)
            if not states[label].decided:
                states[label].seeds = own
        decisions = step_down(
            [state.best for state in states.values()], alpha, n_tests, n_intervals
        )
        p_within = holm_p([state.p_within for state in states.values()], n_tests)
        for state, decision, p in zip(states.values(), decisions, p_within, strict=True):
            state.decided |= decision.rejected or p <= alpha
    return {
        label: state.judged(decision, p, alpha / (n_tests or 1))
        for (label, state), decision, p in zip(states.items(), decisions, p_within, strict=True)
    }


def _seeds_of(
    stopped: Mapping[str, Collection[int]], now: Collection[int], label: str
) -> Collection[int]:
    return stopped.get(label, now)


class _Row(Generic[E]):
    """What the looks so far have seen of one row."""

    seeds: Collection[int] = ()

    def __init__(self, found: E, number: int, margin: float | None) -> None:
        self.margin = margin
        self.best = self.latest = found
        self.best_look = self.latest_look = number
        self.p_within = math.nan
        self.decided = False
        self._bound(found)

    def look_at(self, found: E, number: int) -> None:
        """Take in one more look; keep what speaks loudest."""
        self.latest, self.latest_look = found, number
        if not self.best.p_spent <= found.p_spent:  # also when the best is not a number yet
            self.best, self.best_look = found, number
        self._bound(found)

    def _bound(self, found: E) -> None:
        if self.margin is not None:
            p = found.p_within(self.margin)
            self.p_within = p if math.isnan(self.p_within) else min(p, self.p_within)

    def judged(self, decision: Decision, p_within: float, alpha_of_row: float) -> Judged[E]:
        """Show the look that detected a difference, otherwise the last one."""
        if decision.rejected or self.best_look == self.latest_look:
            return Judged(self.best, decision, p_within, self.best_look, self.decided)
        width = max(self.latest.half_width(alpha_of_row), abs(self.latest.effect))
        shown = decision._replace(half_width=width)
        return Judged(self.latest, shown, p_within, self.latest_look, self.decided)
