"""What a sweep's parent run and experiment say in MLflow: the verdicts, the answer, the way in."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hymba_lab.runs.tracking import param_name
from hymba_lab.tables.display import Table, display
from hymba_lab.tables.render import markdown_table
from hymba_lab.tables.sentence import kind, sentence

if TYPE_CHECKING:
    from hymba_lab.sweep.question.file import SweepFile

NOTE = "mlflow.note.content"
EXPERIMENT_KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"  # not one of agents and their traces
_MOST = 5000  # characters of a tag that every store takes
_NUMBERS = ("effect", "effect_low", "effect_high", "p_holm", "solved", "seeds")
_KINDS = (
    "better", "worse", "equivalent", "unseen", "censored", "unlearned", "few", "missing",
)  # fmt: skip


def verdict_metrics(table: Table) -> dict[str, float]:
    """Return `verdict/<row>/<number>` of every row, and `verdicts/<kind>`: how many rows are so.

    What is not known, and an open end, is left out.
    """
    lines = _lines(table)
    found = {f"verdicts/{name}": 0.0 for name in _KINDS}
    for name, line in lines.items():
        found[f"verdicts/{kind(line)}"] = found.get(f"verdicts/{kind(line)}", 0.0) + 1
        numbers = {key: line[key] for key in _NUMBERS if key in line}
        found |= {f"verdict/{name}/{key}": float(value) for key, value in numbers.items()}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def verdict_tags(table: Table) -> dict[str, str]:
    """Return `verdict.<row>`: the verdict in words, and `verdict.baseline`: which row that is."""
    tags = {f"verdict.{name}": str(line["verdict"])[:_MOST] for name, line in _lines(table).items()}
    return {"verdict.baseline": table.baseline, **tags}


def answer_note(file: "SweepFile", table: Table) -> str:
    """Return the parent run's note: question, answer in a sentence, effects and verdicts."""
    shown = [column for column in display(table) if column.part in ("label", "verdict")]
    parts = [question_note(file), f"**Answer.** {sentence(table)}", markdown_table(shown)]
    return cut("\n\n".join(parts))


def question_note(file: "SweepFile") -> str:
    """Return the note of a sweep that has no answer yet."""
    metric = f"Metric: {file.metric.name} ({file.metric.goal})"
    return cut(f"**{file.question}**\n\n{file.source}\n\n{metric}")


def experiment_note(file: "SweepFile", name: str) -> str:
    """Return the experiment's description: what is asked, and where to look."""
    return cut(
        f"{file.question}\n\n{file.source}\n\nThe run `{name}` holds the answer: its note, its "
        "metrics `verdict/...` and tags `verdict....`, and the table as artifacts. Its children "
        "are the trials: group them by the parameter `row`; ``tags.`hymba_lab.stage` = 'seed'`` "
        "filters those that are compared."
    )


def cut(text: str) -> str:
    """Return a text of a length that every store takes as a tag."""
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def _lines(table: Table) -> Mapping[str, dict[str, Any]]:
    """Return the compared rows by a name that MLflow takes; alike ones are numbered."""
    found: dict[str, dict[str, Any]] = {}
    for line in table.frame.to_dict("records"):
        row = str(line["row"])
        if row == table.baseline:
            continue
        name = param_name(row)
        while name in found:
            name += "_"
        found[name] = {str(key): value for key, value in line.items()}
    return found
