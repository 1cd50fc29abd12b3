"""Result tables: what is refused, what is in them, and what a reader gets to see."""

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hymba_lab.errors import UserError
from hymba_lab.stats import compare
from hymba_lab.tables import (
    Asked,
    Table,
    display,
    guard,
    provenance,
    result_table,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from hymba_lab.tables.display import metric_heading
from hymba_lab.tables.numbers import estimate, number

METRIC = "val/recall_accuracy"


def run(row: str, seed: int, value: float, **changes: Any) -> dict[str, Any]:
    facts = {
        "row": row,
        "meta tokens": row,
        "seed": seed,
        "status": "finished",
        "reason": "",
        METRIC: value,
        "val/text_loss": 2.0 + seed / 10,
        "params": 156_224,
        "flops_per_token": 1.25e6,
        "cache_bytes": 45_000,
        "ssm_to_attention": math.nan,
        "tokens_per_second": 9000.0 + seed**3,
        "identity": f"{row}/{seed}",
        "data_fingerprint": "ab" * 32,
        "tokens": 100_000,
        "code_version": 1,
        "scale": "nano",
        "commit": "c0ffee" * 6,
        "dirty": False,
    }
    return {**facts, **changes}


def frame(rows: Mapping[str, Sequence[float]], **changes: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [run(r, seed, x, **changes) for r, values in rows.items() for seed, x in enumerate(values)]
    )


ROWS = {"none": [0.61, 0.62, 0.60], "8": [0.81, 0.83, 0.80], "64": [0.60, 0.63, 0.61]}


def make(runs: pd.DataFrame, **changes: Any) -> Table:
    given = {"metric": METRIC, "goal": "maximize", "baseline": "none", **changes}
    return result_table(runs, Asked(**given))


def cells(table: Table, heading: str) -> list[str]:
    (found,) = [c.cells for c in display(table) if c.heading == heading]
    return found


def row(table: Table, label: str) -> dict[str, Any]:
    return {str(name): value for name, (value,) in table.frame[table.frame["row"] == label].items()}


def change(runs: pd.DataFrame, where: Any, **facts: Any) -> None:
    for name, value in facts.items():
        runs.loc[where, name] = value


@pytest.mark.parametrize(
    ("column", "value"),
    [("data_fingerprint", "cd" * 32), ("tokens", 200_000), ("code_version", 2), ("scale", "small")],
)
def test_runs_that_do_not_belong_together_are_refused(column: str, value: object) -> None:
    runs = pd.concat([frame({"none": [0.1], "8": [0.2]}), frame({"64": [0.3]}, **{column: value})])
    with pytest.raises(UserError, match=rf"different {column}.*none, 8; {value}: 64"):
        guard(runs)
    with pytest.raises(UserError, match=column):
        make(runs)


def test_a_run_that_never_started_is_not_of_different_data() -> None:
    unknown = {"data_fingerprint": "", "tokens": math.nan, "scale": None, "code_version": None}
    runs = pd.concat([frame(ROWS), frame({"128": [math.nan]}, status="missing", **unknown)])
    guard(runs)
    assert make(runs).frame["scale"].unique().tolist() == ["nano"]


def test_duplicates_empty_frames_and_unknown_states_are_refused() -> None:
    with pytest.raises(UserError, match="'8' seed 1"):
        guard(pd.concat([frame(ROWS), frame(ROWS).iloc[[4]]]))
    with pytest.raises(UserError, match="no runs"):
        guard(frame(ROWS).iloc[:0])
    with pytest.raises(UserError, match="'done'"):
        guard(frame(ROWS, status="done"))
    with pytest.raises(UserError, match="no column commit"):
        guard(frame(ROWS).drop(columns="commit"))


def test_an_interval_ends_where_its_metric_does() -> None:
    made = make(
        frame({"none": [0.6, 1.0, 0.95], "8": [0.9, 0.9, 0.9], "64": [0.0, 0.3, 0.0]})
    ).frame
    assert made["mean_high"].max() == 1.0
    assert made["mean_low"].min() == 0.0
    assert (made["mean_low"] <= made["mean"]).all() and (made["mean"] <= made["mean_high"]).all()


def test_seeds_of_one_row_must_be_one_model() -> None:
    runs = frame(ROWS)
    runs.loc[1, "params"] = 999
    with pytest.raises(UserError, match="'none' differ in params"):
        make(runs)


def test_unknown_metric_or_baseline_names_what_there_is() -> None:
    with pytest.raises(UserError, match=r"'val/f1'.*val/recall_accuracy, val/text_loss"):
        make(frame(ROWS), metric="val/f1")
    with pytest.raises(UserError, match=r"'off'.*'none', '8', '64'"):
        make(frame(ROWS), baseline="off")


def test_rows_keep_their_order_and_carry_the_verdicts_of_stats() -> None:
    table = make(frame(ROWS), also=["val/text_loss", METRIC])
    values = {label: dict(enumerate(row)) for label, row in ROWS.items()}
    found = compare(values, "none", goal="maximize")
    assert table.frame["row"].tolist() == ["none", "8", "64"]
    assert table.frame["verdict"].tolist() == ["baseline", *(c.verdict for c in found)]
    assert table.frame["effect_low"].tolist()[1:] == [c.low for c in found]
    assert math.isnan(row(table, "none")["effect"])
    assert row(table, "8")["mean"] == pytest.approx(np.mean(ROWS["8"]))
    assert row(table, "8")["tokens_per_second"] == 9001
    assert row(table, "8")["val/text_loss"] == pytest.approx(2.1)
    assert table.also == ("val/text_loss",)
    assert table.axes == ("meta tokens",)


@pytest.mark.parametrize("order", [[2, 0, 1, 3, 5, 4, 6, 7, 8], [0, 3, 6, 1, 4, 7, 8, 5, 2]])
def test_order_of_the_seeds_does_not_matter(order: list[int]) -> None:
    runs = frame(ROWS)
    assert to_csv(make(runs.iloc[order])) == to_csv(make(runs))


def test_a_table_of_the_baseline_alone() -> None:
    table = make(frame({"none": [0.5, 0.6]}))
    assert cells(table, "effect vs none") == ["—"]
    assert cells(table, "verdict") == ["baseline"]


@pytest.mark.parametrize("status", ["failed", "pruned", "missing"])
def test_what_did_not_finish_is_missing_and_told(status: str) -> None:
    runs = frame(ROWS)
    change(runs, 5, status=status, reason="out_of_memory")  # row "8", seed 2; has a value
    table = make(runs)
    assert row(table, "8")["seeds"] == 2
    assert row(table, "8")["mean"] == pytest.approx(0.82)
    assert f"Not measured, 8: 1 of 3 seeds (seed 2 {status}: out_of_memory)." in table.notes


def test_a_finished_run_without_a_finite_metric_and_a_run_never_made_are_told() -> None:
    runs = frame({**ROWS, "8": [0.81, math.inf]})
    notes = make(runs).notes
    told = f"seed 1 finished without a finite {METRIC}; seed 2 never run"
    assert f"Not measured, 8: 2 of 3 seeds ({told})." in notes


@pytest.mark.parametrize("dead", ["8", "none"])
def test_a_row_with_only_failed_seeds_stays(dead: str) -> None:
    runs = frame(ROWS)
    change(runs, runs["row"] == dead, status="failed", reason="nan", **{METRIC: math.nan})
    table = make(runs)
    assert table.frame["row"].tolist() == ["none", "8", "64"]
    assert row(table, dead)["seeds"] == 0
    assert row(table, dead)["params"] == 156_224
    assert row(table, "8")["verdict"] == "too few seeds"
    shown = dict(zip(ROWS, cells(table, "recall accuracy [fraction] ↑"), strict=True))
    assert shown[dead] == "—"


def test_nothing_measured_at_all_is_a_table_of_dashes() -> None:
    runs = frame(ROWS, status="failed", reason="nan").drop(columns=METRIC)
    table = make(runs)
    assert cells(table, "recall accuracy [fraction] ↑") == ["—"] * 3
    assert cells(table, "tokens/s ↑") == ["—"] * 3


def test_parameters_off_by_more_than_two_percent_are_flagged() -> None:
    runs = frame(ROWS)
    runs.loc[runs["row"] == "8", "params"] = 159_350  # + 2.001 %
    runs.loc[runs["row"] == "64", "params"] = 153_100  # - 1.9997 %
    table = make(runs)
    assert cells(table, "params") == ["156,224", "159,350", "153,100"]
    assert cells(table, "params vs baseline [%]") == ["0.0", "+2.0 (!)", "-2.0"]
    assert "(!) Parameters more than 2 % off the baseline's: 8." in table.notes


def test_speeds_of_an_uneven_machine_are_called_so() -> None:
    runs = frame(ROWS)
    told = [note for note in make(runs).notes if note.startswith("tokens/s")]
    runs.loc[(runs["row"] == "8") & (runs["seed"] == 1), "tokens_per_second"] = 3000.0
    assert told == []
    assert "seeds of one row differ by up to 3.0 times. Rows" in "\n".join(make(runs).notes)
    runs.loc[0, "commit"] = "another"
    assert "3.0 times and the runs are of 2 commits. Rows" in "\n".join(make(runs).notes)


def test_notes_tell_scale_budget_and_method() -> None:
    notes = make(frame(ROWS), alpha=0.1).notes
    assert notes[0].startswith("Results at scale 'nano', 100,000 training tokens")
    assert re.search(r"alpha = 0\.1 over the table's 2 comparisons \(Holm\).*90 %", notes[1])


def test_rows_without_a_test_are_not_counted_as_comparisons() -> None:
    runs = frame({**ROWS, "8": [0.8]})
    assert "1 comparisons" in make(runs).notes[1]


def test_the_papers_number_has_its_own_column() -> None:
    paper = pd.DataFrame(
        {"row": ["8", "256"], "value": [51.79, 1.0], "note": ["table 1, row H", None]}
    )
    table = make(frame(ROWS), reference=paper)
    assert cells(table, "paper") == ["—", "51.79", "—"]
    assert "Paper, 8: table 1, row H" in table.notes
    assert "Rows of the paper without runs here: 256." in table.notes
    alike = make(frame(ROWS), reference=paper.assign(row=["8", "64"], note="table 1"))
    assert [note for note in alike.notes if note.startswith("Paper")] == ["Paper: table 1"]
    assert "paper" not in make(frame(ROWS)).frame
    for wrong in (paper.drop(columns="note"), pd.concat([paper, paper])):
        with pytest.raises(UserError, match="each row once"):
            make(frame(ROWS), reference=wrong)


def test_csv_gives_back_every_number() -> None:
    runs = frame({**ROWS, "dead": [math.nan]})
    change(runs, runs["row"] == "dead", status="failed", params=math.nan)
    paper = pd.DataFrame({"row": ["8"], "value": [51.79], "note": ['a, "b"\nc']})
    table = make(runs, also=["val/text_loss"], reference=paper)
    read = pd.read_csv(io.StringIO(to_csv(table)), dtype={"row": str}, keep_default_na=False)
    assert read.columns.tolist() == table.frame.columns.tolist()
    for name in table.frame:
        for text, value in zip(read[name].astype(str), table.frame[name], strict=True):
            if pd.isna(value):
                assert text == "", name
            elif isinstance(value, float):
                assert float(text) == value, name
            else:
                assert text == str(value), name
    assert "156224," in to_csv(table)


def test_markdown_is_a_table_whatever_the_labels() -> None:
    rows = {"none": ROWS["none"], "a|b\nc": ROWS["8"]}
    text = to_markdown(make(frame(rows)))
    lines = list(itertools.takewhile(str.strip, text.splitlines()))
    assert len(lines) == 4
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {12}
    assert r"a\|b c" in lines[3]
    assert "- Results at scale 'nano'" in text


def test_latex_is_escaped() -> None:
    rows = {
        "none": ROWS["none"],
        "[50%_a&b] #1 ~$x^2\\": ROWS["64"],
        "*": [0.1, math.nan, math.nan],
    }
    text = to_latex(make(frame(rows)))
    assert r"{[}50\%\_a\&b] \#1 \textasciitilde{}\$x\textasciicircum{}2\textbackslash{} &" in text
    assert "\n{*} & " in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:-1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert all(line.endswith(r" \\") for line in body)
    assert " & --- & baseline & 3 & " in body[0]
    assert "—" not in text
    assert "↑" not in text
    assert "$-$" in body[1]


def test_text_keeps_markup_like_labels_and_its_width() -> None:
    text = to_text(make(frame({"none": ROWS["none"], "[red]x[/red]": ROWS["8"]})), width=150)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 150


@pytest.mark.parametrize("width", [80, 50])
def test_in_a_narrow_terminal_no_word_and_no_number_is_cut(width: int) -> None:
    """What does not fit beside the labels goes on in a table below."""
    table = make(frame(ROWS))
    text = to_text(table, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    words = set(text.split())
    for column in display(table):
        assert set(column.heading.split()) <= words
        for cell in column.cells:
            assert cell in text if column.numeric else set(cell.split()) <= words


@pytest.mark.parametrize("render", [to_csv, to_markdown, to_latex, to_text])
def test_same_input_same_bytes(render: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = render(make(frame(ROWS)))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert render(make(frame(ROWS))) == first


def test_axes_are_shown_unless_the_label_tells_them() -> None:
    runs = frame(ROWS).assign(fusion="mean")
    assert [c.heading for c in display(make(runs))][:3] == ["row", "fusion", "effect vs none"]
    told = runs.assign(row=runs["meta tokens"] + ", mean")
    assert [c.heading for c in display(make(told, baseline="none, mean"))][:2] == [
        "row", "effect vs none, mean",
    ]  # fmt: skip
    assert display(make(frame(ROWS)))[0].heading == "meta tokens"


def test_the_parameter_ratio_is_shown_where_there_is_one() -> None:
    runs = frame(ROWS)
    runs.loc[runs["row"] == "8", "ssm_to_attention"] = 0.2358
    assert cells(make(runs), "SSM : attention params") == ["—", "0.24", "—"]
    assert all("attention/SSM" not in c.heading for c in display(make(frame(ROWS))))


def test_costs_share_one_unit_per_column() -> None:
    runs = frame(ROWS)
    runs.loc[runs["row"] == "8", "cache_bytes"] = 394_000_000
    table = make(runs)
    assert cells(table, "cache [MB] ↓") == ["0.0450", "394", "0.0450"]
    assert cells(table, "FLOPs/token [M] ↓") == ["1.25"] * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.5123, 0.4971, 0.5275), "0.512 [0.497, 0.527]"),
        ((0.5, 0.1, 0.9), "0.50 [0.10, 0.90]"),
        ((28.534, 28.3, 28.768), "28.53 [28.30, 28.77]"),
        ((1234.5, 1000.0, 1469.0), "1,234 [1,000, 1,469]"),
        ((1.0, 1.0, 1.0), "1.000 [1.000, 1.000]"),
        ((0.75, math.nan, math.nan), "0.750"),
        ((math.nan, math.nan, math.nan), "—"),
    ],
)
def test_numbers_carry_the_digits_their_interval_supports(
    arguments: tuple[float, float, float], text: str
) -> None:
    assert estimate(*arguments) == text


def test_signed_intervals_show_which_side_of_zero_they_are_on() -> None:
    assert estimate(0.5, 0.0004, 0.9996, signed=True) == "+0.5000 [+0.0004, +0.9996]"
    assert estimate(0.5, 1e-9, 1.0, signed=True) == "+5.0e-01 [+1.0e-09, +1.0e+00]"
    assert estimate(0.0, -0.25, 0.25, signed=True) == "0.00 [-0.25, +0.25]"
    assert number(-0.0001, 2) == "0.00"


ends = st.floats(-100, 100).filter(lambda x: x == 0 or abs(x) > 1e-12)


@settings(deadline=None)  # a shared machine may stall any single example
@given(ends, ends)
def test_the_printed_interval_agrees_with_the_sign_of_the_real_one(a: float, b: float) -> None:
    low, high = sorted((a, b))
    inside = estimate((low + high) / 2, low, high, signed=True)
    first, second = re.findall(r"[-+]?[\d.]+(?:e[-+]\d+)?", inside.split("[")[1])
    assert np.sign(float(first)) == np.sign(low)
    assert np.sign(float(second)) == np.sign(high)


def test_headings_give_unit_and_direction() -> None:
    assert metric_heading("val/text_loss") == "text loss [nats/token] ↓"
    assert metric_heading("val/text_bits_per_byte") == "text bits per byte ↓"
    assert metric_heading("speed_of_light") == "speed_of_light"
    assert metric_heading("speed_of_light", "maximize") == "speed_of_light ↑"


def test_provenance_tells_where_the_numbers_come_from() -> None:
    runs = frame(ROWS)
    change(runs, 0, dirty=True, status="failed")
    lines = provenance(runs, "python -m x", "2 cores")
    assert lines == [
        "Command: python -m x",
        "Commit: c0ffeec0ff with uncommitted changes",
        "Runs: 8 of 9 finished, 9 identities",
        "Data: abababababab",
        "Hardware: 2 cores",
    ]
    bare = provenance(runs.assign(commit=None, dirty=None, data_fingerprint=""), "c", "h")
    assert bare[1] == "Commit: unknown"
    assert bare[3] == "Data: unknown"
    table = make(runs)
    noted = dataclasses.replace(table, notes=[*table.notes, *lines])
    assert "- Hardware: 2 cores" in to_markdown(noted)
