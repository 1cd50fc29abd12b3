"""From the sides of a claim to what became of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hymba_lab.claims.file import Claims
from hymba_lab.claims.schema import Claim
from hymba_lab.claims.sides import Asked, Pair, Results
from hymba_lab.claims.timed import by_time, first_runs
from hymba_lab.claims.values import NotRun
from hymba_lab.stats import Goal, Looks, Placed, against, place
from hymba_lab.tables.solving import Task

Status = Literal[
    "reproduced", "contradicted", "undecided", "censored", "not learned", "not judged", "not run"
]
STATUSES: tuple[Status, ...] = get_args(Status)
_STATUS: dict[str, Status] = {
    "inside": "reproduced",
    "outside": "contradicted",
    "open": "undecided",
}


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim, of which `p_holm` is corrected over the whole page.

    `timed`: the effect is a ratio of times. `unfair` says why the rows may not be compared as they
    stand, of one that is not judged. `lucky`: one run a value tuned one of them. `evidence` is what
    it counts as, with others of the same name once. `answered` is how often each side answered a
    needle's question at all.
    """

    pair: Pair
    found: Placed
    status: Status
    evidence: str
    timed: bool = False
    answered: tuple[float, float] | None = None
    p_holm: float = math.nan
    unfair: str = ""
    lucky: bool = False

    @property
    def identities(self) -> tuple[str, ...]:
        """The runs of both sides, each once."""
        return tuple(dict.fromkeys([*self.pair.row.identities, *self.pair.against.identities]))


@dataclass(frozen=True)
class Answer:
    """What became of one claim; `missing` says what a claim that was not run lacks."""

    name: str
    claim: Claim
    claims: Claims
    folder: str
    metric: str
    comparisons: tuple[Compared, ...]
    missing: str = ""
    by_one_run: str = ""  # the sweep, and rows of it, whose values one run of each chose
    goal: Goal = "maximize"  # of the task that is learned in a jump

    @property
    def status(self) -> Status:
        """Of all its comparisons together."""
        if not self.comparisons:
            return "not run"
        return together([one.status for one in self.comparisons])


def judged(files: Sequence[Claims], results: Results) -> list[Answer]:
    """Judge every claim of every file, each comparison by itself at alpha."""
    return [
        _answer(name, claim, claims, results.of(claims))
        for claims in files
        for name, claim in claims.file.claims.items()
    ]


def _answer(name: str, claim: Claim, claims: Claims, asked: Asked) -> Answer:
    folder, metric = asked.folder(claim), asked.metric(claim)
    try:
        pairs = asked.pairs(name, claim)
    except NotRun as absent:
        return Answer(name, claim, claims, folder, metric, (), str(absent))
    task = None if claim.exact else asked.task(claim)
    if task is not None and claim.probe is None:
        metric = f"tokens to {task.metric} of {task.at:.3g}"
    alpha = claims.file.alpha
    compared = tuple(
        _fairly(_compared(claim, pair, alpha, asked, task), claim, asked) for pair in pairs
    )
    lucky = asked.by_one_run(claim)
    goal: Goal = task.goal if task is not None else "maximize"
    return Answer(name, claim, claims, folder, metric, compared, by_one_run=lucky, goal=goal)


def _fairly(one: Compared, claim: Claim, asked: Asked) -> Compared:
    """The comparison, not judged and without a test where its rows may not be compared."""
    one = replace(one, lucky=asked.is_lucky(claim, one.pair))
    said = "" if claim.exact else asked.unfair(claim, one.pair, one.timed)
    if not said:
        return one
    found = replace(one.found, p=math.nan)
    return replace(one, found=found, status="not judged", unfair=said)


def _compared(claim: Claim, pair: Pair, alpha: float, asked: Asked, task: Task | None) -> Compared:
    evidence = claim.evidence(pair.other)
    if claim.exact:
        found = _ratio(claim, pair)
        return Compared(pair, found, _STATUS[found.place], evidence)
    answered = asked.answered(claim, pair)
    looks = asked.looks(claim)
    if task is None:
        found = _difference(claim, pair, alpha, looks)
        return Compared(pair, found, _STATUS[found.place], evidence, answered=answered)
    unjudged = _unlearned(claim, pair, task, asked)
    if claim.probe is not None:
        found = _difference(claim, pair, alpha, looks)
        status = unjudged or _STATUS[found.place]
        if unjudged:  # no test: it takes no part in Holm's correction
            found = replace(found, p=math.nan)
        return Compared(pair, found, status, evidence, answered=answered)
    found, pair = _time(claim, pair, alpha, looks, task), pair._replace(at="")  # of whole runs
    return Compared(pair, found, unjudged or _STATUS[found.place], evidence, timed=True)


def _unlearned(claim: Claim, pair: Pair, task: Task, asked: Asked) -> Status | None:
    """Why a claim about recall cannot be judged: a side that did not solve, or nobody did."""
    rows = (pair.row.row, pair.against.row)
    runs = [run for row in rows for run in task.times.get(row, {}).values()]
    if runs and all(run.solved for run in runs):
        return None
    if asked.control_failed(claim, task):
        return "not learned"
    levels = asked.levels(claim, task.metric, rows)
    learned = any(run.solved for run in runs) or any(task.above(levels).values())
    return "censored" if learned else "not learned"


def _difference(claim: Claim, pair: Pair, alpha: float, looks: Looks | None) -> Placed:
    """Judge over the seeds that both have; with looks, at every one with its share of alpha.

    The other rows of the table say how noisy these two are.
    """
    sides = {"row": pair.row.values, "against": pair.against.values}
    named = (pair.row.row, pair.against.row)
    sides |= {f"other {row}": own for row, own in pair.table.items() if row not in named}
    everyone = {seed for own in sides.values() for seed in own}
    for seeds, share in looks or [(everyone, 1.0)]:
        seen = {
            name: {seed: value for seed, value in own.items() if seed in seeds}
            for name, own in sides.items()
        }
        evidence = against(seen, "against")[0]["row"]
        found = place(evidence, claim.reproduced_if.region, alpha=alpha * share)
        found = replace(found, p=min(found.p / share, 1.0))  # NaN stays
        if found.place != "open" or len(seen["row"]) == len(pair.row.values):
            break
    return found


def _time(claim: Claim, pair: Pair, alpha: float, looks: Looks | None, task: Task) -> Placed:
    """The same of times until the task was solved."""
    row, other = pair.row.row, pair.against.row
    everyone = {seed for own in task.times.values() for seed in own}
    for seeds, share in looks or [(everyone, 1.0)]:
        seen = first_runs(task.times, seeds)
        found, solved = by_time(seen, row, other, claim.reproduced_if, alpha, share, task.goal)
        decided = found.place != "open" if solved else found.p <= alpha
        if decided or len(seen.get(row, {})) == len(task.times.get(row, {})):
            break
    return found


def _ratio(claim: Claim, pair: Pair) -> Placed:
    """Costs follow from the configuration: their ratio is exact, its place certain."""
    mine, theirs = (next(iter(side.values.values())) for side in (pair.row, pair.against))
    effect = mine / theirs
    inside = effect in claim.reproduced_if.region
    nan = math.nan
    return Placed(len(pair.row.values), effect, nan, nan, nan, "inside" if inside else "outside")


def together(statuses: Sequence[Status]) -> Status:
    """A claim about several rows: contradicted by one, reproduced by all."""
    if "contradicted" in statuses:
        return "contradicted"
    for status in ("not learned", "censored", "not judged"):
        if status in statuses:
            return status
    if set(statuses) == {"reproduced"}:
        return "reproduced"
    return "undecided"
