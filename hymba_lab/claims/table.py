"""The claims as CSV: a line per comparison, every number, every run."""

import csv
import io
import math
from collections.abc import Sequence

from hymba_lab.claims.judge import Answer, Compared

_COLUMNS = (
    "paper", "id", "status", "claim", "source", "sweep", "row", "against", "at", "metric",
    "reproduced_if", "paper_effect", "paper_cells", "seeds", "effect", "low", "high", "p", "p_holm",
    "comparison_status", "effect_is", "evidence", "answered_row", "answered_against", "missing",
    "not_judged", "runs",
)  # fmt: skip
_RUN = 20  # characters of an identity that name its folder under runs/


def to_csv(found: Sequence[Answer]) -> str:
    """A line per comparison; a claim that was not run has one, without numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for answer in found:
        writer.writerows(_compared(answer, one) for one in answer.comparisons)
        if not answer.comparisons:
            writer.writerow(_claimed(answer))
    return text.getvalue()


def _claimed(answer: Answer) -> dict[str, object]:
    claim = answer.claim
    effect, cells = answer.claims.paper.get(answer.name, (math.nan, ""))
    return {
        "paper": answer.claims.file.title, "id": answer.name, "status": answer.status,
        "claim": claim.claim, "source": claim.source, "sweep": answer.folder, "row": claim.row,
        "against": " | ".join(claim.others), "metric": answer.metric,
        "reproduced_if": str(claim.reproduced_if),
        "paper_effect": "" if math.isnan(effect) else f"{effect:.10g}", "paper_cells": cells,
        "missing": answer.missing,
    }  # fmt: skip


def _compared(answer: Answer, one: Compared) -> dict[str, object]:
    numbers = {
        "effect": one.found.effect, "low": one.found.low, "high": one.found.high,
        "p": one.found.p, "p_holm": one.p_holm,
    }  # fmt: skip
    kind = "ratio of tokens" if one.timed else "ratio" if answer.claim.exact else "difference"
    mine, theirs = one.answered or (math.nan, math.nan)
    numbers |= {"answered_row": mine, "answered_against": theirs}
    return {
        **_claimed(answer),
        **{name: "" if math.isnan(value) else repr(value) for name, value in numbers.items()},
        "row": one.pair.row.row, "against": one.pair.against.row, "at": one.pair.at,
        "seeds": one.found.n, "comparison_status": one.status, "effect_is": kind,
        "evidence": one.evidence, "not_judged": one.unfair,
        "runs": " ".join(run[:_RUN] for run in one.identities),
    }  # fmt: skip
