"""The claims as a page: the same results give the same bytes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

from hymba_lab.claims.counted import Count
from hymba_lab.claims.judge import Answer, Compared
from hymba_lab.claims.schema import Condition, Word
from hymba_lab.claims.timed import words_of_times
from hymba_lab.tables.display import plain_heading
from hymba_lab.tables.numbers import MISSING, estimate, ratio_estimate
from hymba_lab.tables.render import markdown_text


def to_markdown(answers: Sequence[Answer], count: Count, scale: str) -> str:
    """The page: what holds, how it was judged, a table for each paper, costs, what was not run."""
    judged = [one for one in answers if one.comparisons and not one.claim.exact]
    exact = [one for one in answers if one.comparisons and one.claim.exact]
    absent = [one for one in answers if not one.comparisons]
    parts = [
        f"# What the papers claim, and what was found at scale {scale}",
        headline(count, scale),
        "\n".join(f"- {note}" for note in _notes(answers, count, scale)),
    ]
    for title, own in groupby(judged, lambda one: one.claims.file.title):
        parts += [f"## {title}", _table(_HEAD, [line for one in own for line in _lines(one)])]
    if exact:
        lines = [line for one in exact for line in _cost_lines(one)]
        parts += ["## Costs", _COSTS, _table(_COST_HEAD, lines)]
    if absent:
        told = [
            f"- {markdown_text(one.claim.claim)} ({one.claims.file.title}): "
            f"{markdown_text(one.missing)}"
            for one in absent
        ]
        parts += [f"## Not run at scale {scale}", "\n".join(told)]
    return "\n\n".join(parts) + "\n"


def headline(count: Count, scale: str) -> str:
    """How many independent comparisons hold, and what became of the others."""
    rest = [
        (count.sooner, "says", "say", "which row learned the task sooner, while some run did not"),
        (count.alone, "is", "are", "decided each by itself, not over the page"),
        (count.undecided, "is", "are", "undecided"),
        (count.censored, "is", "are", "censored"),
        (count.not_learned, "is", "are", "of tasks that were not learned"),
        (count.not_judged, "is", "are",
         "not judged, since their rows may not be compared as they stand"),
    ]  # fmt: skip
    others = "; ".join(
        f"{n} {one if n == 1 else several} {words}" for n, one, several, words in rest if n
    )
    return (
        f"**{count.holds} of {count.independent} independent comparisons hold at scale {scale} "
        f"after correction for all of them: {count.reproduced} as claimed, {count.contradicted} "
        f"against the claim.**" + (f" Of the others, {others}." if others else "") + _caution(count)
    )


def _caution(count: Count) -> str:
    said = []
    if count.lucky:
        rest = "rests" if count.lucky == 1 else "rest"
        said += [
            f"{count.lucky} {rest} on rows that one run a value tuned, and may be the luck of that"
        ]
    if count.barely:
        said += [
            f"{count.barely} would not be so with one more test on this page that decides nothing"
        ]
    sooner = " or was sooner" if count.sooner else ""
    return f" Of what holds{sooner}, {'; '.join(said)}." if said else ""


def _notes(answers: Sequence[Answer], count: Count, scale: str) -> list[str]:
    alpha = min((answer.claims.file.alpha for answer in answers), default=0.05)
    return [
        *_luck_note(answers),
        "What follows is about models of this scale, trained on this scale's data and budget. "
        "The papers' effects are of other models, metrics and tasks: compare signs, not sizes.",
        "Recall is learned in a jump, so its level at the end says when a run was stopped. Where "
        "every run of both rows solved the task, the effect is the ratio of training tokens until "
        "then (below 1: sooner). Censored: a side ended before it had solved. Not learned: neither "
        "side solved it or ended above a guess from position alone, or the sweep's positive "
        "control did not solve it.",
        f"Other effects: row minus the other row (or condition), with its {100 * (1 - alpha):g} % "
        "t-interval, noise taken from all rows of the sweep (over all looks, where seeds were "
        "added until decided).",
        "Reproduced: the interval lies where the claim says. Contradicted: it lies outside. "
        "Undecided: neither. A claim of a margin (almost as much) is one-sided: what is far better "
        "is within it, and counts as reproduced.",
        "Not judged: a row stands at a searched value that lost a race in another table here, or "
        "the metric is not what values were chosen by and the two rows' values differ. Where they "
        "are equal the metric was not tuned for, either; rows are then compared as one recipe.",
        "Comparisons of the same runs and metric, or of one named evidence, count once. Over the "
        f"{count.tests} that have a test, p-values are corrected by Holm at {alpha:g}; * marks "
        "what holds.",
        f"Written by `python -m hymba_lab.claims --scale {scale}{_asked(answers)}` and the "
        f"exports beside this file; `claims-{scale}.csv` has every number and every run.",
    ]


def _asked(answers: Sequence[Answer]) -> str:
    """Where the claims stand, and the option that names the place where it is not the usual one."""
    folders = dict.fromkeys(answer.claims.folder for answer in answers)
    named = [str(folder) for folder in folders if folder.parts[-2:] != ("analysis", "claims")]
    return f" --claims {named[0]}` from `{named[0]}/" if named else "` from `analysis/claims/"


def _luck_note(answers: Sequence[Answer]) -> list[str]:
    """In which sweeps, and rows of them, one run of each value tuned."""
    names = list(dict.fromkeys(one.by_one_run for one in answers if one.by_one_run))
    if not names:
        return []
    return [
        f"Values were tuned by one run of each in {'; '.join(map(markdown_text, names))}. That "
        "choice's luck is in no interval, and by simulation tells rows of one architecture apart "
        "in up to a third of comparisons: what is decided there awaits runs with `tuning: race`, "
        "or a longer budget where no value of a row solved the first seed of its race."
    ]


_HEAD = ("claim", "paper", "compared", "effect here", "counts as reproduced", "result", "runs")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in rows)


def _lines(answer: Answer) -> Iterator[list[str]]:
    """A line for each comparison; the claim stands in the first."""
    claim = answer.claim
    said = f"{markdown_text(claim.claim)} ({markdown_text(claim.source)})"
    if claim.note:
        said += f" *{markdown_text(claim.note)}*"
    effect, cells = answer.claims.paper.get(answer.name, (math.nan, ""))
    paper = MISSING if math.isnan(effect) else markdown_text(f"{effect:+.4g} ({cells})")
    for place, one in enumerate(answer.comparisons):
        condition = f"{_words(answer.metric)} {claim.reproduced_if}"
        if one.timed:
            condition = words_of_times(claim.reproduced_if, answer.goal)
        yield [
            "" if place else said,
            "" if place else paper,
            markdown_text(_names(answer, one)),
            markdown_text(_effect(answer, one)),
            markdown_text(condition),
            _result(answer, one),
            f"[{answer.folder}]({answer.folder}/table.md), {len(one.identities)} runs",
        ]


def _names(answer: Answer, one: Compared) -> str:
    claim = answer.claim
    names, at = f"{one.pair.row.row} vs {one.pair.against.row}", one.pair.at
    if claim.per is not None and claim.per in claim.where:
        return f"{claim.per} {_told(claim.where[claim.per])} vs {at} in {one.pair.row.row}"
    if claim.against_where is not None:
        names = f"{_apart(claim.where, claim.against_where)} in {one.pair.row.row}"
    return f"{names}, {at}" if at else names


def _effect(answer: Answer, one: Compared) -> str:
    found = one.found
    if one.timed:
        if found.low == 0 and math.isinf(found.high):
            return f"{MISSING}, {found.n} seeds"
        said = f"{ratio_estimate(found.effect, found.low, found.high)} times the tokens"
    else:
        said = estimate(found.effect, found.low, found.high, signed=True)
        if answer.claim.probe == "needle":
            said += f"; {_needle(one)}"
    return f"{said}, {found.n} seeds"


def _needle(one: Compared) -> str:
    """What each side found, and how often it named a value of the row at all."""
    sides = (one.pair.row.values, one.pair.against.values)
    correct = [math.fsum(own.values()) / len(own) for own in sides]
    told = "{:.2f} and {:.2f}".format(*one.answered) if one.answered else "not measured"
    return f"correct {correct[0]:.2f} and {correct[1]:.2f}, answered {told}"


def _result(answer: Answer, one: Compared) -> str:
    holds = one.p_holm <= answer.claims.file.alpha
    if one.status == "censored" and holds:
        return "censored; which was sooner holds *"
    if one.status in ("reproduced", "contradicted"):
        return f"{one.status} *" if holds else f"{one.status} alone, not over the page"
    return f"not judged: {markdown_text(one.unfair)}" if one.unfair else one.status


_COSTS = (
    "These follow from the configuration: exact ratios, no evidence of anything learned, counted "
    "nowhere above."
)
_COST_HEAD = ("claim", "paper", "here", "claimed", "holds", "configurations")


def _cost_lines(answer: Answer) -> Iterator[list[str]]:
    """A line for each comparison; the claim stands in the first."""
    claim = answer.claim
    effect, cells = answer.claims.paper.get(answer.name, (math.nan, ""))
    said = f"{markdown_text(claim.claim)} ({markdown_text(claim.source)})"
    if claim.note:
        said += f" *{markdown_text(claim.note)}*"
    over = claim.paper is not None and claim.paper.over is not None
    paper = f"{ratio(effect)} times ({cells})" if over else f"{effect:+.4g} ({cells})"
    for n, one in enumerate(answer.comparisons):
        yield [
            "" if n else said,
            MISSING if n or math.isnan(effect) else markdown_text(paper),
            f"{ratio(one.found.effect)} times",
            markdown_text(f"{_words(answer.metric)} {claim.reproduced_if} times"),
            "yes" if one.status == "reproduced" else "no",
            markdown_text(_names(answer, one)),
        ]


def ratio(value: float) -> str:
    """Three digits; near 1 as many as show on which side of it the value lies."""
    gap = abs(value - 1)
    if gap == 0 or gap >= 0.01:
        return f"{value:.3g}"
    return f"{value:.{1 - math.floor(math.log10(gap))}f}"


def _apart(where: Condition, other: Condition) -> str:
    """What sets two conditions apart: "layer 0 vs layer not 0"."""
    sides = [
        " ".join(f"{name} {_told(word)}" for name, word in mine.items() if theirs.get(name) != word)
        for mine, theirs in ((where, other), (other, where))
    ]
    return " vs ".join(sides)


def _told(word: Word | Mapping[Literal["not"], Word]) -> str:
    return str(word) if isinstance(word, str | int) else f"not {word['not']}"


def _words(metric: str) -> str:
    """A metric as a reader knows it; costs and probes are words already."""
    if metric.startswith("val/"):
        return plain_heading(metric)
    return metric.replace("_", " ")
