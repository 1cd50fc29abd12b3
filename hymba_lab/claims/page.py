"""The claims as a page and as a CSV: the same results give the same bytes."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from hymba_lab.claims.file import Claims, Condition, Word
from hymba_lab.claims.judge import STATUSES, Answer, Compared
from hymba_lab.tables.render import MISSING, estimate, markdown_text, metric_heading

_COLUMNS = (
    "id", "status", "claim", "source", "sweep", "row", "against", "metric", "reproduced_if",
    "paper_effect", "paper_cells", "seeds", "effect", "low", "high", "p", "p_holm",
    "comparison_status", "missing", "runs",
)  # fmt: skip
_RUN = 20  # characters of an identity that name its folder under runs/


def to_csv(claims: Claims, found: Sequence[Answer]) -> str:
    """A line per comparison; a claim that was not run has one, without numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for answer in found:
        for one in answer.comparisons or (None,):
            writer.writerow(_line(claims, answer, one))
    return text.getvalue()


def _line(claims: Claims, answer: Answer, one: Compared | None) -> dict[str, object]:
    claim = answer.claim
    effect, cells = claims.paper.get(answer.name, (math.nan, ""))
    line: dict[str, object] = {
        "id": answer.name, "status": answer.status, "claim": claim.claim, "source": claim.source,
        "sweep": answer.folder, "row": claim.row, "against": " | ".join(claim.others),
        "metric": answer.metric, "reproduced_if": str(claim.reproduced_if),
        "paper_effect": "" if math.isnan(effect) else f"{effect:.10g}", "paper_cells": cells,
        "missing": answer.missing,
    }  # fmt: skip
    if one is None:
        return line
    numbers = {
        "effect": one.found.effect, "low": one.found.low, "high": one.found.high,
        "p": one.found.p, "p_holm": one.p_holm,
    }  # fmt: skip
    return {
        **line,
        **{name: "" if math.isnan(value) else repr(value) for name, value in numbers.items()},
        "row": one.row.row, "against": one.against.row, "seeds": one.found.n,
        "comparison_status": one.status, "runs": " ".join(run[:_RUN] for run in one.identities),
    }  # fmt: skip


def to_markdown(claims: Claims, found: Sequence[Answer], scale: str) -> str:
    """The page: how many of each kind, how they were judged, a table of all claims."""
    counts = Counter(answer.status for answer in found)
    told = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    lines = [
        f"# The paper's claims at scale {scale}",
        "",
        f"{len(found)} claims of arXiv:2411.13676: {told} at this scale.",
        "",
        *(f"- {note}" for note in _notes(claims, found, scale)),
        "",
        "| claim | paper | effect here | counts as reproduced | result | runs |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(claims, answer) for answer in found),
    ]
    return "\n".join(lines) + "\n"


def _notes(claims: Claims, found: Sequence[Answer], scale: str) -> list[str]:
    alpha = claims.file.alpha
    level = f"{100 * (1 - alpha):g} %"
    tested = [one for answer in found for one in answer.comparisons if not answer.claim.exact]
    decided = [one for one in tested if one.status in ("reproduced", "contradicted")]
    sure = sum(one.p_holm <= alpha for one in decided)
    return [
        "What follows is about models of this scale, trained on this scale's data and budget. "
        "The paper's effects are of other models, metrics and tasks: compare signs, not sizes.",
        f"Effect: row minus the other row (or condition), with its {level} "
        "t-interval (over all looks, where seeds were added until decided); costs follow from the "
        "configuration and are compared as a ratio, exactly.",
        "Reproduced: the interval lies where the claim says. Contradicted: it lies outside. "
        "Undecided: neither. Censored: a side ended before it had solved the task: its level says "
        "when it was stopped. Not learned: neither side solved it or ended above a guess from "
        "position alone.",
        f"Every claim is judged by itself at alpha = {alpha:g}: of {len(tested)} comparisons "
        f"without any effect, {alpha * len(tested):.1f} would be decided by luck. {sure} of the "
        f"{len(decided)} decided ones hold over the whole page, too (Holm; marked *).",
        f"Written by `python -m hymba_lab.claims --scale {scale}` from `analysis/claims.yaml` and "
        f"the exports beside this file; `claims-{scale}.csv` has every number and every run.",
    ]


def _row(claims: Claims, answer: Answer) -> str:
    claim = answer.claim
    effect, cells = claims.paper.get(answer.name, (math.nan, ""))
    paper = MISSING if math.isnan(effect) else f"{effect:+.4g} ({cells})"
    if math.isfinite(effect) and claim.paper is not None and claim.paper.over:
        paper = f"{ratio(effect)} times ({cells})"
    shown = "<br>".join(_effect(claims, answer, one) for one in answer.comparisons)
    condition = f"{_words(answer.metric)} {claim.reproduced_if}"
    runs = markdown_text(answer.missing)
    if answer.comparisons:
        n_runs = len({run for one in answer.comparisons for run in one.identities})
        runs = f"[{answer.folder}]({answer.folder}/table.md), {n_runs} runs"
    cells_of_row = [
        f"{markdown_text(claim.claim)} ({markdown_text(claim.source)})",
        markdown_text(paper),
        shown or MISSING,
        markdown_text(condition),
        answer.status,
        runs,
    ]
    return f"| {' | '.join(cells_of_row)} |"


def ratio(value: float) -> str:
    """Three digits; near 1 as many as show on which side of it the value lies."""
    gap = abs(value - 1)
    if gap == 0 or gap >= 0.01:
        return f"{value:.3g}"
    return f"{value:.{1 - math.floor(math.log10(gap))}f}"


def _effect(claims: Claims, answer: Answer, one: Compared) -> str:
    claim, found = answer.claim, one.found
    if claim.exact:
        names = markdown_text(f"{one.row.row} vs {one.against.row}")
        return f"{ratio(found.effect)} times, {names}, exact"
    number = estimate(found.effect, found.low, found.high, signed=True)
    mark = " *" if one.p_holm <= claims.file.alpha else ""
    names = f"{one.row.row} vs {one.against.row}"
    if claim.against_where is not None:
        names = f"{_apart(claim.where, claim.against_where)} in {one.row.row}"
    return f"{number}{mark}, {markdown_text(names)}, {found.n} seeds"


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
        return metric_heading(metric).split(" [")[0].rstrip(" ↑↓")
    return metric.replace("_", " ")
