"""What MLflow is told of a sweep: every verdict as numbers and words, the answer, the way in."""

import math
from dataclasses import replace

import pytest
from conftest import ROOT

from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import read_export
from hymba_lab.sweep.observers.told import (
    answer_note,
    cut,
    experiment_note,
    question_note,
    verdict_metrics,
    verdict_tags,
)
from hymba_lab.tables import Table
from hymba_lab.tables.sentence import sentence

EXPORT = read_export(ROOT / "results" / "head_ratio-nano")


@pytest.fixture(scope="module")
def table() -> Table:
    return documents(EXPORT)[0]


def test_every_compared_row_has_its_numbers_and_its_verdict(table: Table) -> None:
    metrics, tags = verdict_metrics(table), verdict_tags(table)
    compared = table.frame[table.frame["row"] != table.baseline]
    for line in compared.to_dict("records"):
        name = (
            str(line["row"]).replace(" ", "_").replace("(", "_").replace(")", "_").replace(",", "_")
        )
        assert tags[f"verdict.{name}"] == line["verdict"]
        for number in ("effect", "effect_low", "effect_high", "p_holm", "solved", "seeds"):
            key, value = f"verdict/{name}/{number}", float(line[number])
            if math.isfinite(value):
                assert metrics[key] == value
            else:
                assert key not in metrics  # unknown, or an open end
    kinds = [n for key, n in metrics.items() if key.startswith("verdicts/")]
    assert sum(kinds) == len(compared)
    assert tags["verdict.baseline"] == table.baseline
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(len(key) <= 250 for key in (*metrics, *tags))


def test_rows_that_mlflow_would_write_alike_stay_apart(table: Table) -> None:
    frame = table.frame.copy()
    others = frame["row"] != table.baseline
    frame.loc[others, "row"] = [f"a{'(-['[k % 3]}{k // 3}" for k in range(others.sum())]
    tags = verdict_tags(replace(table, frame=frame))
    assert len(tags) == 1 + others.sum()


def test_the_note_says_question_answer_and_verdicts(table: Table) -> None:
    note = answer_note(EXPORT.sweep, table)
    assert note.startswith(f"**{EXPORT.sweep.question}**")
    assert f"**Answer.** {sentence(table)}" in note
    for row in table.frame["row"]:
        assert f"| {row} |" in note
    assert "params vs baseline" not in note  # the whole table is an artifact
    assert len(note) <= 5000 and question_note(EXPORT.sweep) in note


def test_the_experiment_says_what_is_asked_and_where_to_look() -> None:
    note = experiment_note(EXPORT.sweep, "head_ratio-nano")
    assert EXPORT.sweep.question in note and "`head_ratio-nano` holds the answer" in note
    assert "tags.`hymba_lab.stage` = 'seed'" in note


def test_a_tag_is_cut_where_stores_would_refuse_it() -> None:
    assert cut("a" * 5000) == "a" * 5000
    assert len(cut("a" * 9000)) == 5000 and cut("a" * 9000).endswith("…")
