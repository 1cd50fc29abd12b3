"""How many independent comparisons hold: equal evidence counts once, Holm over all of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hymba_lab.claims.judge import Answer, Compared, Status, together
from hymba_lab.stats import holm_p

Key = tuple[object, ...]


@dataclass(frozen=True)
class Count:
    """Independent comparisons (of costs none), how many have a test, and what became of them.

    `reproduced`, `contradicted` hold after Holm's correction; `sooner` does for the time of rows of
    which one did not solve its task. `alone` are decided each by itself and not over the page. Of
    those that hold or are sooner, `lucky` rest on rows whose values one run of each chose, and
    `barely` would not be so with one more test on the page that decides nothing.
    """

    independent: int
    tests: int
    reproduced: int
    contradicted: int
    sooner: int
    alone: int
    undecided: int
    censored: int
    not_learned: int
    not_judged: int
    lucky: int
    barely: int

    @property
    def holds(self) -> int:
        """How many were judged and hold."""
        return self.reproduced + self.contradicted


def counted(answers: Sequence[Answer]) -> tuple[list[Answer], Count]:
    """Correct the p-values over all independent evidence (Holm), and count it.

    A group is held against alpha by the largest of its p-values: all of it has to hold.
    """
    groups: dict[Key, list[Compared]] = {}
    for answer in answers:
        if not answer.claim.exact:
            for one in answer.comparisons:
                groups.setdefault(key_of(answer, one), []).append(one)
    largest = [_largest([one.found.p for one in own]) for own in groups.values()]
    corrected = dict(zip(groups, holm_p(largest), strict=True))
    lucky = {
        key_of(answer, one)
        for answer in answers
        for one in answer.comparisons
        if one.lucky and not one.unfair
    }
    alpha = min((answer.claims.file.alpha for answer in answers), default=0.05)
    kinds = [_kind(own, corrected[key] <= alpha) for key, own in groups.items()]
    decided = [kind in ("reproduced", "contradicted", "sooner") for kind in kinds]
    beside_another = holm_p([*largest, 1.0])[:-1]
    told = [
        replace(
            answer, comparisons=tuple(_with_p(answer, one, corrected) for one in answer.comparisons)
        )
        for answer in answers
    ]
    names = (
        "reproduced", "contradicted", "sooner", "alone",
        "undecided", "censored", "not learned", "not judged",
    )  # fmt: skip
    return told, Count(
        independent=len(groups),
        tests=sum(not math.isnan(p) for p in largest),
        lucky=sum(key in lucky for key, one in zip(groups, decided, strict=True) if one),
        barely=sum(p > alpha for p, one in zip(beside_another, decided, strict=True) if one),
        **{name.replace(" ", "_"): kinds.count(name) for name in names},
    )


def key_of(answer: Answer, one: Compared) -> Key:
    """What two comparisons share that are of equal evidence: their name, or runs and metric."""
    if one.evidence:
        return ("named", one.evidence)
    claim, sides = answer.claim, (one.pair.row, one.pair.against)
    conditions = (claim.where, claim.against_where, claim.relative_to, claim.apart_from)
    runs = frozenset(frozenset(side.identities) for side in sides)
    return (runs, answer.metric, one.pair.at, repr(conditions))


def _with_p(answer: Answer, one: Compared, corrected: dict[Key, float]) -> Compared:
    return replace(one, p_holm=corrected.get(key_of(answer, one), math.nan))


def _largest(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known, default=math.nan)


def _kind(own: Sequence[Compared], holds: bool) -> str:
    """One word for a group, of what of it was judged: a status, or decided by itself only."""
    own = [one for one in own if not one.unfair] or own
    status: Status = together([one.status for one in own])
    if {one.status for one in own} >= {"reproduced", "contradicted"}:
        status = "undecided"  # equal evidence for and against
    if status == "censored":
        return "sooner" if holds else status
    if status in ("reproduced", "contradicted"):
        return status if holds else "alone"
    return status
