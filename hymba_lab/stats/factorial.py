"""Factorial designs: does the effect of one axis depend on the level of another?

For a level a of axis A and b of B, against their reference levels a0 and b0, every seed gives

    I = [y(a, b) - y(a0, b)] - [y(a, b0) - y(a0, b0)],

y averaged over the levels of all further axes. Its mean over seeds is the interaction contrast; a
one-sample t-test, Holm over all contrasts of the table.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hymba_lab.stats.evidence import Evidence, Interval, mean_interval
from hymba_lab.stats.holm import step_down
from hymba_lab.stats.paired import paired
from hymba_lab.stats.power import measured
from hymba_lab.stats.rounding import round_up
from hymba_lab.stats.verdicts import Goal, verdict

Cells = Mapping[tuple[str, ...], Mapping[int, float]]  # labels, in the axes' order -> seed -> value


@dataclass(frozen=True)
class Interaction:
    """How much more the step from `reference` to `level` of `axis` does at one level of another.

    `there` is the step's effect at `other_reference` of the axis `other`, `here` at `other_level`,
    each with an interval of its own at 1 - alpha; `effect`, `low`, `high` is here minus there, its
    interval simultaneous over the table. `verdict` is of that difference: better means that the
    step is worth more here. All in the metric's unit.
    """

    axis: str
    reference: str
    level: str
    other: str
    other_reference: str
    other_level: str
    there: Interval
    here: Interval
    n: int
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class _Contrast:
    """One pair of steps, with the seeds' differences."""

    first: tuple[str, str, str]  # axis, reference, level
    second: tuple[str, str, str]
    there: list[float]
    here: list[float]
    found: Evidence


def interactions(
    cells: Cells, reference: Mapping[str, str], *, goal: Goal, alpha: float = 0.05
) -> list[Interaction]:
    """The interactions of every two axes; `reference` is axis -> its level in the baseline.

    A seed counts for a contrast where all of its cells were measured.
    """
    contrasts = list(_contrasts(cells, reference))
    decisions = step_down([one.found for one in contrasts], alpha)
    made = []
    for one, decision in zip(contrasts, decisions, strict=True):
        found = one.found
        effect = Interval(found.effect, *decision.interval(found.effect), found.n)
        _, said, bound = verdict(found, decision, effect, goal)
        if bound > 0:
            said += f" (up to {round_up(bound)} could have been missed)"
        there, here = (mean_interval(steps, alpha=alpha) for steps in (one.there, one.here))
        made.append(
            Interaction(
                *one.first, *one.second, there, here, found.n, *effect[:3], found.p,
                decision.p_holm, said,
            )
        )  # fmt: skip
    return made


def _contrasts(cells: Cells, reference: Mapping[str, str]) -> Iterator[_Contrast]:
    axes = list(reference)
    levels = [
        [reference[axis], *dict.fromkeys(key[i] for key in cells if key[i] != reference[axis])]
        for i, axis in enumerate(axes)
    ]
    for i, j in combinations(range(len(axes)), 2):
        for a in levels[i][1:]:
            for b in levels[j][1:]:
                corners = [
                    _average(cells, {i: x, j: y}, levels)
                    for x, y in ((a, b), (levels[i][0], b), (a, levels[j][0]))
                ]
                corners.append(_average(cells, {i: levels[i][0], j: levels[j][0]}, levels))
                first = (axes[i], levels[i][0], a)
                second = (axes[j], levels[j][0], b)
                yield _contrast(first, second, corners)


def _contrast(
    first: tuple[str, str, str], second: tuple[str, str, str], corners: list[dict[int, float]]
) -> _Contrast:
    ab, b, a, neither = corners
    seeds = [seed for seed in ab if all(seed in corner for corner in corners)]
    here = [ab[seed] - b[seed] for seed in seeds]
    there = [a[seed] - neither[seed] for seed in seeds]
    largest = max((abs(corner[s]) for corner in corners for s in seeds), default=math.nan)
    return _Contrast(first, second, there, here, paired(np.array(here) - np.array(there), largest))


def _average(
    cells: Cells, fixed: Mapping[int, str], levels: Sequence[Sequence[str]]
) -> dict[int, float]:
    """{seed: mean over the cells with the fixed labels}, where all of them were measured."""
    chosen = [
        measured(row)
        for key, row in cells.items()
        if all(key[place] == label for place, label in fixed.items())
    ]
    expected = math.prod(len(names) for i, names in enumerate(levels) if i not in fixed)
    if len(chosen) != expected:
        return {}
    shared = set(chosen[0]).intersection(*chosen[1:])
    return {seed: math.fsum(row[seed] for row in chosen) / expected for seed in sorted(shared)}
