"""Where one run of each value tuned rows, a table says so first, and beside what it decides."""

import re
from pathlib import Path

import pandas as pd

from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import Export, parse_export
from hymba_lab.tables.sentence import sentence

PARENTS = Path(__file__).parents[1] / "results/parents-nano"


def parents(change: tuple[str, str] = ("", ""), tuning: pd.DataFrame | None = None) -> Export:
    """The committed export, with words of its sweep changed, or the course of its race."""
    files = {path.name: path.read_text() for path in PARENTS.iterdir() if path.suffix != ".html"
             and path.is_file()}  # fmt: skip
    files["sweep.resolved.json"] = re.sub(*change, files["sweep.resolved.json"])
    if tuning is not None:
        files["tuning.csv"] = tuning.to_csv(index=False)
    return parse_export(PARENTS, files)


def first_note(export: Export) -> str:
    return str(documents(export)[0].notes[0])


def test_a_row_that_one_run_chose_is_told_first_and_where_it_is_decided() -> None:
    table = documents(parents())[0]
    assert table.notes[0].startswith("No optimizer.lr solved the first seed in SSM only: one run")
    said = "One run a value tuned SSM only: what is said of it may be the luck of that."
    assert sentence(table).endswith(said)


def test_a_row_that_raced_is_not_told() -> None:
    tuning = pd.read_csv(PARENTS / "tuning.csv")
    tuning.loc[(tuning["row"] == "SSM only") & (tuning["chosen"] == 1), "solved"] = 1
    assert "luck" not in first_note(parents(tuning=tuning))


def test_a_table_that_one_run_tuned_is_told_first() -> None:
    table = documents(parents(('"tuning": "race"', '"tuning": "one_seed"')))[0]
    assert table.notes[0].startswith("Each row's optimizer.lr was chosen by one run a value")
    assert sentence(table).endswith("One run a value tuned each row: this may be the luck of that.")
