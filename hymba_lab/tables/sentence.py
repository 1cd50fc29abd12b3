"""A table's verdict in one sentence."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from hymba_lab.stats import round_up
from hymba_lab.tables.display import Table, plain_heading
from hymba_lab.tables.numbers import estimate, ratio_estimate
from hymba_lab.tables.solving import UNTAUGHT


def sentence(table: Table) -> str:
    """Return what the table found, every row named once, effects with their intervals."""
    frame = table.frame[table.frame["row"] != table.baseline]
    if table.frame["mean"].isna().all():
        return f"No verdict: no run has measured {metric_words(table.metric)} yet."
    lines = [{str(key): value for key, value in line.items()} for line in frame.to_dict("records")]
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(kind(line), []).append(line)
    said = [_clause(name, groups[name], table.baseline) for name in _ORDER if name in groups]
    what = metric_words(table.metric)
    what = f"when {what} was learned" if "solved" in table.frame else what
    answer = f"By {what}, {'; '.join(said)}."
    decided = groups.keys() & set(ANSWERS)
    return f"{answer} {table.caution}" if decided and table.caution else answer


def kind(line: dict[str, Any]) -> str:
    """Return the verdict without its numbers: better, worse, equivalent, unseen, few, missing."""
    verdict = str(line["verdict"])
    for start, name in _KINDS.items():
        if verdict.startswith(start):
            return "missing" if name == "few" and pd.isna(line["mean"]) else name
    return "few"


def without_numbers(verdict: str) -> str:
    """Return what stands before a verdict's bounds: "no detectable difference"."""
    return verdict.partition(" (")[0].partition(":")[0]


_KINDS = {
    "baseline": "baseline",
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "no detectable difference": "unseen",
    "too few seeds": "few",
    "censored": "censored",
    "not learned": "unlearned",
}
ANSWERS = ("better", "worse", "equivalent")
_ORDER = ("better", "worse", "equivalent", "unseen", "censored", "unlearned", "few", "missing")


def metric_words(name: str) -> str:
    """Return a metric's name in words: `val/recall_accuracy_auc` -> its words, as an area."""
    words = plain_heading(name.removesuffix("_auc"))
    return f"the area under the curve of {words}" if name.endswith("_auc") else words


def listed(words: Iterable[str]) -> str:
    """Return "a, b and c"."""
    given = list(words)
    return " and ".join([", ".join(given[:-1]), given[-1]] if len(given) > 1 else given)


def _clause(name: str, lines: Sequence[dict[str, Any]], baseline: str) -> str:
    rows = [f"“{line['row']}”" for line in lines]
    are, than = ("are" if len(rows) > 1 else "is"), f"“{baseline}”"
    if name in ("better", "worse"):
        told = [f"{row} ({_effect(line)})" for row, line in zip(rows, lines, strict=True)]
        return f"{listed(told)} {are} {name} than {than}"
    if name == "censored":
        return (
            f"{listed(rows)} against {than} {are} not judged: a side ended before it had solved "
            "the task"
        )
    if name == "unlearned" and all(str(line["verdict"]) == UNTAUGHT for line in lines):
        return f"{listed(rows)} {are} not judged: the positive control did not solve the task"
    if name == "unlearned":
        return f"neither {listed(rows)} nor {than} learned the task"
    if name == "equivalent":
        margin = str(lines[0]["verdict"]).removeprefix("equivalent ")
        return f"{listed(rows)} {are} equivalent to {than} ({margin})"
    if name == "unseen":
        return f"{listed(rows)} cannot be told from {than} ({_unseen(lines)})"
    if name == "few":
        return f"{listed(rows)} {'have' if len(rows) > 1 else 'has'} too few seeds for a verdict"
    return f"{listed(rows)} {are} not measured"


def _effect(line: dict[str, Any]) -> str:
    if "solved" in line:
        return f"{ratio_estimate(line['effect'], line['effect_low'], line['effect_high'])} times"
    return estimate(line["effect"], line["effect_low"], line["effect_high"], signed=True)


def _unseen(lines: Sequence[dict[str, Any]]) -> str:
    """Say how large a difference could have been missed: the ends of the intervals."""
    if "solved" in lines[0]:
        largest = max(max(1 / line["effect_low"], line["effect_high"]) for line in lines)
        return f"up to {round_up(largest)} times could have been missed"
    bounds = [max(abs(line["effect_low"]), abs(line["effect_high"])) for line in lines]
    if max(bounds) == 0:
        return "equal on every seed"
    smallest, largest = round_up(min(bounds)), round_up(max(bounds))
    told = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"a difference of up to {told} could have been missed"
