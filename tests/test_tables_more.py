"""Second tables and what margins, looks and scales add to the first."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_tables import METRIC, ROWS, cells, frame, make, row, run

from hymba_lab.errors import UserError
from hymba_lab.report.slopes import write_slopes
from hymba_lab.stats import Run, compare, interactions, plan_looks, slopes
from hymba_lab.sweep.export import Export, Facts
from hymba_lab.sweep.question.file import Metric, SweepFile
from hymba_lab.tables import Asked, Table, result_table, to_csv, to_latex, to_markdown, to_text
from hymba_lab.tables.scaling import AtScale, slope_table
from hymba_lab.tables.solving import Task


def factorial(**changes: Any) -> pd.DataFrame:
    """gate helps in windows only."""
    rng = np.random.default_rng(0)
    lines = []
    for fusion, window in itertools.product(("mean", "gate"), ("full", "8")):
        gain = 0.3 if (fusion, window) == ("gate", "8") else 0.0
        for seed in range(4):
            value = 0.5 + gain + 0.01 * rng.normal()
            line = run(f"{fusion} / {window}", seed, value, **changes)
            lines.append({**line, "meta tokens": "none", "fusion": fusion, "window": window})
    return pd.DataFrame(lines)


def factorial_table(runs: pd.DataFrame) -> Table:
    asked = Asked(METRIC, "maximize", "mean / full", factorial=["fusion", "window"])
    return result_table(runs, asked)


def test_a_factorial_table_has_its_interactions_under_it() -> None:
    runs = factorial()
    (second,) = factorial_table(runs).more
    groups = runs.groupby(["fusion", "window"])
    values = {key: dict(zip(own["seed"], own[METRIC], strict=True)) for key, own in groups}
    (one,) = interactions(values, {"fusion": "mean", "window": "full"}, goal="maximize")
    (line,) = second.frame.to_dict("records")
    assert line["effect"] == one.effect == pytest.approx(0.3, abs=0.05)
    assert (line["low"], line["p_holm"]) == (one.low, one.p_holm)
    assert line["there_low"] == one.there.low
    assert line["verdict"] == "better"


def test_every_form_shows_both_tables_and_the_notes_once() -> None:
    table = factorial_table(factorial())
    text = to_markdown(table)
    assert "| fusion: mean → gate | window: full → 8 | " in text
    assert text.index("Interactions: ") < text.index("- Results at scale")
    assert text.count("- Results at scale") == 1
    assert r"fusion: mean $\rightarrow$ gate &" in to_latex(table)
    assert to_latex(table).count(r"\begin{tabular}") == 2
    assert "fusion: mean → gate" in to_text(table)
    assert "→" not in to_csv(table)


def test_other_designs_have_no_second_table() -> None:
    assert list(make(frame(ROWS)).more) == []
    asked = Asked(METRIC, "maximize", "mean / full", factorial=["fusion"])
    one_axis = result_table(factorial(), asked)
    assert list(one_axis.more) == []


def test_a_margin_adds_its_column_and_its_note() -> None:
    table = make(frame(ROWS), margin=0.05)
    values = {label: dict(enumerate(own)) for label, own in ROWS.items()}
    found = {c.label: c for c in compare(values, "none", goal="maximize", margin=0.05)}
    assert row(table, "64")["verdict"] == found["64"].verdict == "equivalent within 0.05"
    assert row(table, "64")["p_within"] == found["64"].p_within
    assert any(note.startswith("Equivalent within 0.05: ") for note in table.notes)
    plain = make(frame(ROWS))
    assert "p_within" not in plain.frame
    assert not any("quivalent" in note for note in plain.notes)


def test_looks_tell_who_was_decided_when_and_who_stopped_is_not_missing() -> None:
    rows = {
        "none": [0.60, 0.61, 0.59, 0.60, 0.62, 0.60],
        "8": [0.90, 0.92, 0.89],
        "64": [0.60, 0.63, 0.58, math.nan, 0.61, 0.60],
    }
    looks = plan_looks([0, 1, 2], 6)
    table = make(frame(rows), looks=looks)
    assert cells(table, "seeds") == ["6", "3", "5"]
    assert [row(table, label)["look"] for label in ("8", "64")] == [1, 2]
    (note,) = [note for note in table.notes if note.startswith("Seeds were added")]
    assert "at most 2 looks, at 3, 6 seeds; they may spend 0.0167, 0.0111 of alpha" in note
    assert "Decided: 8 at 3. Undecided after the last look: 64." in note
    missing = [note for note in table.notes if note.startswith("Not measured")]
    assert len(missing) == 1
    assert missing[0].startswith("Not measured, 64: 1 of 6 seeds (seed 3 ")
    assert any("the table's 2 comparisons (Holm)" in note for note in table.notes)
    assert "look" not in make(frame(ROWS)).frame


# --- several scales


def at(scale: str, params: int, gain: float, label: str = "window 8") -> AtScale:
    rng = np.random.default_rng(params)
    rows = {"full": 0.5 + 0.01 * rng.normal(size=4), label: 0.5 + gain + 0.01 * rng.normal(size=4)}
    facts = {"scale": scale, "params": params}
    runs = frame({name: list(own) for name, own in rows.items()}, **facts)
    return AtScale(scale, runs, "full")


def test_slopes_are_those_of_the_paired_differences() -> None:
    small, large = at("nano", 10**5, 0.1), at("125m", 10**8, 0.4, "window 256")
    second = slope_table([small, large], METRIC)
    differences = {}
    for size, one in ((1e5, small), (1e8, large)):
        own = one.runs[METRIC].to_numpy()
        differences[size] = (own[4:] - own[:4]).tolist()
    (expected,) = slopes({"window 8": differences})
    (line,) = second.frame.to_dict("records")
    assert (line["row"], line["scales"]) == ("window 8", "nano, 125m")
    assert (line["slope"], line["low"], line["p"]) == (expected.slope, expected.low, expected.p)
    assert line["slope"] == pytest.approx(0.1, abs=0.02)
    assert line["verdict"] == "rises with size"


def export(one: AtScale) -> Export:
    axes = {"window": {str(row): {"model.x": 1} for row in one.runs["row"].unique()}}
    metric = Metric(name=METRIC, goal="maximize")
    sweep = SweepFile(question="Windows?", base="x", metric=metric, seeds=[0], axes=axes)
    facts = Facts(command="c", baseline=one.baseline, hardware=[], hours={}, notes=[])
    name = f"windows-{one.scale}"
    return Export(name, sweep, {"scale": one.scale}, facts, one.runs, pd.DataFrame(), None, {})


def test_the_report_writes_slopes_where_there_are_two_scales(tmp_path: Path) -> None:
    small, large = export(at("nano", 10**5, 0.1)), export(at("125m", 10**8, 0.4))
    assert write_slopes([small], tmp_path) == []
    written = write_slopes([large, small], tmp_path)
    assert [path.name for path in written] == ["slopes-windows.md", "slopes-windows.csv"]
    text = written[0].read_text()
    assert "| window 8 | nano, 125m | +0." in text
    assert "- [windows-nano](windows-nano/table.md): 100,000 parameters in the baseline" in text
    again = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_slopes([small, large], tmp_path)] == again


def test_rows_of_one_scale_only_have_no_slope() -> None:
    second = slope_table([at("nano", 10**5, 0.1), at("125m", 10**8, 0.1, "another row")], METRIC)
    assert list(second.frame["verdict"]) == ["too few scales or seeds"] * 2
    with pytest.raises(UserError, match="two scales"):
        slope_table([at("nano", 10**5, 0.1)], METRIC)


def solving(one: AtScale, factor: float, *, unsolved: bool = False) -> AtScale:
    """Runs of one level that solved, those of the second row so many times later."""
    tokens = [1000.0 + seed for seed in range(4)]
    times = [*tokens, *(factor * time for time in tokens)]
    if unsolved:
        times[-1] = math.nan
    return AtScale(one.scale, one.runs.assign(**{METRIC: 0.95, "tokens_to_solve": times}), "full")


def test_slopes_of_a_task_are_of_when_it_was_solved() -> None:
    small, large = solving(at("nano", 10**5, 0.1), 2.0), solving(at("125m", 10**8, 0.4), 4.0)
    second = slope_table([small, large], METRIC, timed=True)
    (line,) = second.frame.to_dict("records")
    assert line["slope"] == pytest.approx(math.log(2) / 3)
    assert f"the log of the tokens until {METRIC} was solved" in second.title
    some = solving(at("125m", 10**8, 0.4), 4.0, unsolved=True)
    assert slope_table([small, some], METRIC, timed=True).frame["scales"].tolist() == ["nano"]


def test_interactions_of_a_task_are_of_when_it_was_solved() -> None:
    runs = factorial()
    times = {str(row): {} for row in runs["row"]}
    for n, line in enumerate(runs.to_dict("records")):
        times[line["row"]][line["seed"]] = Run(1000.0 + 7 * n, True)
    asked = Asked(
        METRIC, "maximize", "mean / full", factorial=["fusion", "window"],
        task=Task(METRIC, 0.9, math.nan, times, []),
    )  # fmt: skip
    (second,) = result_table(runs, asked).more
    assert second.title.startswith(
        "Interactions of the log of the tokens until the task was solved"
    )
    times["mean / full"][0] = Run(5000.0, False)
    table = result_table(runs, asked)
    assert table.more == []
    assert any(note.startswith("No interactions are given") for note in table.notes)
