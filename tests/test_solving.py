"""When a task was solved: the guess from position, times from curves, the table's verdicts."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tracked

from hymba_lab.claims.counted import counted
from hymba_lab.claims.file import load_all
from hymba_lab.claims.judge import Answer, judged
from hymba_lab.claims.sides import Results
from hymba_lab.data.draws import choose_weighted, generator
from hymba_lab.stats import Run, crossing
from hymba_lab.stats.position_guess import guess_of, order_of_slots, position_guess
from hymba_lab.sweep.documents import documents, task_of_export
from hymba_lab.sweep.export import read_export
from hymba_lab.sweep.question.file import Metric, Stop, SweepFile
from hymba_lab.sweep.question.level import Level, level_of
from hymba_lab.sweep.solving import step_of_solving
from hymba_lab.tables.notes import stopped_notes, times_note
from hymba_lab.tables.numbers import ratio_estimate
from hymba_lab.tables.render import to_text
from hymba_lab.tables.solving import Task, control_note, edge_notes, task_of


def test_the_guess_from_position_is_what_drawn_rows_give() -> None:
    slots, n, power = 12, 4, 0.01
    weights = np.arange(1, slots + 1, dtype=np.float64) ** (power - 1)
    drawn = choose_weighted(generator("test", 0, 0), 40_000, weights, n)
    counts = np.array([np.bincount(drawn[:, i], minlength=slots) for i in range(n)])
    assert order_of_slots(weights, n) == pytest.approx(counts / 40_000, abs=0.01)
    assert guess_of(32, n, power) == pytest.approx(
        counts.max(axis=0).sum() / counts.sum(), abs=0.01
    )


def test_the_guess_is_one_of_n_where_slots_are_alike_and_more_where_order_leaks() -> None:
    assert position_guess(32, [1, 2, 4, 8], 1.0) == pytest.approx(4 / 15, rel=1e-9)
    assert position_guess(32, [1, 2, 4, 8], 1 + 1e-12) == pytest.approx(4 / 15, rel=1e-9)  # summed
    assert position_guess(1024, [16, 32, 64, 128], 1.0) == pytest.approx(4 / 240)  # of any length
    assert position_guess(32, [1, 2, 4, 8], 0.01) == pytest.approx(0.337, abs=5e-4)
    places = order_of_slots(np.arange(1.0, 9.0) ** -0.5, 8)
    assert places.sum(axis=0) == pytest.approx(np.ones(8))
    assert places.sum(axis=1) == pytest.approx(np.ones(8))
    assert math.isnan(position_guess(4096, [4], 0.01))


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    courses = {("a", 0): [0.1, 0.5, 0.9], ("a", 1): [0.1, 0.1, 0.4], ("b", 0): [0.1, 0.2, 0.2]}
    runs = pd.DataFrame(
        [{"row": row, "seed": seed, "status": "finished"} for row, seed in courses]
        + [{"row": "b", "seed": 1, "status": "failed"}]
    )
    curves = pd.DataFrame(
        [
            {"row": row, "seed": seed, "step": 10 * i, "tokens": 100 * i, "metric": "m", "value": v}
            for (row, seed), values in courses.items()
            for i, v in enumerate(values, start=1)
        ]
    )
    return runs, curves


def test_times_come_from_the_curves_and_rising_runs_are_named() -> None:
    task = task_of(*frames(), "m", 0.7, 0.3)
    assert task.times == {"a": {0: (250.0, True), 1: (300, False)}, "b": {0: (300, False)}}
    assert task.rising == ["a (seed 1)"]
    assert task.above({"a": {0: 0.9, 1: 0.2}, "b": {0: 0.2}}) == {"a": True, "b": False}
    assert task.above({"c": {0: 0.339, 1: 0.31}}) == {"c": False}, "a guess has luck, too"


def test_a_level_to_fall_to_is_a_task_too() -> None:
    """Losses that fall: every run ends near the level, so what differs is when it came there."""
    runs, curves = frames()
    up, down = (
        task_of(runs, courses, "m", at, math.nan, goal=goal)
        for courses, at, goal in (
            (curves, 0.7, "maximize"),
            (curves.assign(value=-curves["value"]), -0.7, "minimize"),
        )
    )
    assert (down.times, down.rising) == (up.times, up.rising)
    stop = Stop(metric="val/loss", at=3.0, goal="minimize")
    metric = Metric(name="val/loss", goal="minimize")
    sweep = SweepFile(question="?", base="x", metric=metric, stop=stop, seeds=[0], axes={})
    assert level_of(sweep, {}) == Level("val/loss", 3.0, math.nan, "minimize")


def test_the_record_of_a_run_that_was_stopped_comes_first() -> None:
    runs, curves = frames()
    own = runs.assign(tokens_to_solve=[220.0, math.nan, math.nan, math.nan],
                      censored_at=[math.nan, 500.0, math.nan, math.nan])  # fmt: skip
    task = task_of(own, curves, "m", 0.7, 0.3)
    assert task.times["a"] == {0: (220.0, True), 1: (500.0, False)}
    assert task.times["b"] == {0: (300, False)}


def test_a_validation_without_the_metric_is_none() -> None:
    """What a run records of itself and what its curve says are the same step."""
    seen = [(10, 0.2), (20, math.nan), (30, 1.0)]
    history = [(step, {} if math.isnan(v) else {"m": v}) for step, v in seen]
    stop = Stop(metric="m", at=0.6)
    steps, values = zip(*((step, v) for step, v in seen if v == v), strict=True)
    assert step_of_solving(history, stop) == crossing(list(steps), list(values), 0.6).time == 20.0
    assert step_of_solving([(1, {}), *history[2:]], stop) == 30.0


def test_a_control_that_fails_is_told_and_edges_are() -> None:
    task = Task("m", 0.7, 0.3, {"a": {0: Run(1.0, True)}, "b": {0: Run(1.0, False)}}, [])
    assert control_note(task, "a") == control_note(task, None) == []
    assert control_note(task, "b")[0].startswith("The positive control 'b' solved 0 of 1")
    runs = pd.DataFrame({"row": ["a", "b", "c"], "lr": [1e-3, 2e-3, 4e-3]})
    (note,) = edge_notes(runs, {"lr": [1e-3, 2e-3, 4e-3]})
    assert "0.001 to 0.004" in note
    assert note.endswith(": a, c.")


def test_open_ends_are_told_as_bounds() -> None:
    assert ratio_estimate(1.5, 1.2, math.inf) == "> 1.20"
    assert ratio_estimate(0.5, 0.0, 0.8) == "< 0.80"
    assert ratio_estimate(4.0, 3.4296, math.inf) == "> 3.42"  # what is printed is a bound, too
    assert ratio_estimate(0.5, 0.0, 0.8012) == "< 0.81"
    assert ratio_estimate(1.32, 1.1, 1.58) == "1.32 [1.10, 1.58]"
    assert ratio_estimate(math.nan, 0.0, math.inf) == "—"


@pytest.mark.slow
def test_no_committed_verdict_compares_a_level_with_a_run_that_was_stopped() -> None:
    for folder in sorted({path.parent for path in tracked("results/*-nano/export.json")}):
        export = read_export(folder)
        task, (table, _) = task_of_export(export), documents(export)
        assert task is not None
        for line in table.frame.to_dict("records"):
            verdict, row = str(line["verdict"]), task.times[line["row"]].values()
            if line["solved"] < line["seeds"] and line["seeds"] < 6:
                assert verdict.startswith(("censored", "not learned", "baseline"))
            if verdict.startswith("no detectable"):
                assert all(run.solved for run in row)
                assert "seeds would tell" in verdict


@pytest.mark.parametrize(("name", "told"), [("aa", 1), ("parents", 0)])
def test_where_times_are_called_equivalent_it_is_told_how(name: str, told: int) -> None:
    """The interval beside such a verdict may reach beyond the factor."""
    (table, _) = documents(read_export(ROOT / f"results/{name}-nano"))
    start = "Equivalent within 1.2 times: by two one-sided t-tests (TOST)"
    assert sum(note.startswith(start) for note in table.notes) == told
    assert (table.frame["verdict"] == "equivalent within 1.2 times").any() == bool(told)


@pytest.mark.slow
def test_claims_about_runs_that_were_stopped_or_learned_nothing_are_not_judged() -> None:
    files = load_all(ROOT / "analysis" / "claims")
    results = Results(ROOT / "results", "nano")
    answers, _ = counted(judged(files, results))
    seen = 0
    for answer in answers:
        unrun = answer.claim.exact or not answer.comparisons
        task = None if unrun else task_of_claim(answer, results)
        for one in (one for one in answer.comparisons if task and not one.unfair):
            assert task is not None
            rows = (one.pair.row.row, one.pair.against.row)
            solved = all(run.solved for row in rows for run in task.times[row].values())
            assert (one.status in ("censored", "not learned")) != solved, (answer.name, rows)
            seen += not solved
    assert seen


def task_of_claim(answer: Answer, results: Results) -> Task | None:
    return results.of(answer.claims).task(answer.claim)


def test_what_runs_that_stopped_had_seen_of_all_else_is_told() -> None:
    runs = pd.DataFrame({"status": ["finished"] * 2 + ["failed"], "tokens_trained": [600, 900, 10]})
    (said,) = stopped_notes(runs, ["val/text_bits_per_byte"])
    assert said.startswith(
        "val/text_bits_per_byte: at the end of each run, which came after 600 to"
    )
    assert stopped_notes(runs.assign(tokens_trained=900), ["val/text_bits_per_byte"]) == []
    assert stopped_notes(runs, []) == stopped_notes(runs[["status"]], ["m"]) == []


def test_the_terminal_shows_verdicts_whole_at_80_columns() -> None:
    table, _ = documents(read_export(ROOT / "results" / "head_ratio-nano"))
    text = to_text(table, 80)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for verdict in table.frame["verdict"]:
        assert all(word in words for word in verdict.split())


def test_a_table_without_a_test_says_so_and_names_no_number_of_tests() -> None:
    told = times_note("base", 0, 0.05)
    assert "No row is tested" in told and "needs six seeds" in told and "0 tests" not in told
    assert "over the table's 2 tests (Holm)" in times_note("base", 2, 0.05)
