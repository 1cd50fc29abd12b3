"""From the sides of a claim to what became of it."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from hymba_lab.claims.file import Claim, Claims
from hymba_lab.claims.sides import NotRun, Results, Side
from hymba_lab.stats import Looks, Placed, against, holm_p, place

Status = Literal["reproduced", "contradicted", "undecided", "censored", "not learned", "not run"]
STATUSES: tuple[Status, ...] = (
    "reproduced", "contradicted", "undecided", "censored", "not learned", "not run",
)  # fmt: skip
_STATUS: dict[str, Status] = {
    "inside": "reproduced",
    "outside": "contradicted",
    "open": "undecided",
}


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim; `p_holm` is corrected over the page's comparisons."""

    row: Side
    against: Side
    found: Placed
    status: Status
    p_holm: float = math.nan

    @property
    def identities(self) -> tuple[str, ...]:
        """The runs of both sides, each once."""
        return tuple(dict.fromkeys([*self.row.identities, *self.against.identities]))


@dataclass(frozen=True)
class Answer:
    """What became of one claim; `missing` says what a claim that was not run lacks."""

    name: str
    claim: Claim
    folder: str
    metric: str
    status: Status
    comparisons: tuple[Compared, ...]
    missing: str = ""


def answers(claims: Claims, results: Results) -> list[Answer]:
    """Judge every claim, each by itself at alpha, and correct the p-values over all (Holm)."""
    alone = [_answer(name, claim, claims, results) for name, claim in claims.file.claims.items()]
    flat = [one.found.p for answer in alone for one in answer.comparisons]
    corrected = iter(holm_p(flat))
    return [
        replace(
            answer,
            comparisons=tuple(replace(one, p_holm=next(corrected)) for one in answer.comparisons),
        )
        for answer in alone
    ]


def _answer(name: str, claim: Claim, claims: Claims, results: Results) -> Answer:
    folder, metric = results.folder(claim), results.metric(claim)
    try:
        sides = results.sides(name, claim)
    except NotRun as absent:
        return Answer(name, claim, folder, metric, "not run", (), str(absent))
    alpha, looks = claims.file.alpha, results.looks(claim)
    compared = tuple(
        _ratio(claim, *pair)
        if claim.exact
        else _gated(_difference(claim, *pair, alpha, looks), claim, results)
        for pair in sides
    )
    status = together([one.status for one in compared])
    return Answer(name, claim, folder, metric, status, compared)


def _difference(
    claim: Claim, row: Side, other: Side, alpha: float, looks: Looks | None
) -> Compared:
    """Judge over the seeds that both have; with looks, at every one with its share of alpha."""
    for seeds, share in looks or [({*row.values, *other.values}, 1.0)]:
        seen = {
            name: {seed: value for seed, value in side.values.items() if seed in seeds}
            for name, side in (("row", row), ("against", other))
        }
        evidence = against(seen, "against")[0]["row"]
        found = place(evidence, claim.reproduced_if.region, alpha=alpha * share)
        found = replace(found, p=min(found.p / share, 1.0))  # NaN stays
        if found.place in ("inside", "outside") or len(seen["row"]) == len(row.values):
            break
    return Compared(row, other, found, _STATUS[found.place])


def _gated(one: Compared, claim: Claim, results: Results) -> Compared:
    """No judgement of a level that only says when a run was stopped, or that nobody learned."""
    task = results.task(claim)
    if task is None:
        return one
    runs = [task.times.get(side.row, {}) for side in (one.row, one.against)]
    if all(run.solved for own in runs for run in own.values()):
        return one
    levels = results.levels(claim, task.metric, [one.row.row, one.against.row])
    learned = any(run.solved for own in runs for run in own.values())
    status: Status = "censored" if learned or any(task.above(levels).values()) else "not learned"
    nothing = replace(one.found, p=math.nan)  # no test: it takes no part in Holm's correction
    return replace(one, status=status, found=nothing)


def _ratio(claim: Claim, row: Side, against: Side) -> Compared:
    """Costs follow from the configuration: their ratio is exact, its place certain."""
    effect = next(iter(row.values.values())) / next(iter(against.values.values()))
    inside = effect in claim.reproduced_if.region
    where: Literal["inside", "outside"] = "inside" if inside else "outside"
    found = Placed(len(row.values), effect, math.nan, math.nan, math.nan, where)
    return Compared(row, against, found, _STATUS[where])


def together(statuses: list[Status]) -> Status:
    """A claim about several rows: contradicted by one, reproduced by all."""
    if "contradicted" in statuses:
        return "contradicted"
    for status in ("not learned", "censored"):
        if status in statuses:
            return status
    if set(statuses) == {"reproduced"}:
        return "reproduced"
    return "undecided"
