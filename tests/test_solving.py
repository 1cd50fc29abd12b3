"""Runs that end when their task is solved: identity, result, what a longer request finds."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeping import Lab

from hymba_lab.sweep.question.file import Range, Stop
from hymba_lab.sweep.solving import stands, step_of_solving
from hymba_lab.sweep.widening import at_edge, one_further, reachable

LEVEL = Stop(metric="val/recall_accuracy", at=0.5)
ANY_LOSS = {"metric": "val/loss", "at": 1000.0, "goal": "minimize"}  # solved at the first look


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path).with_store()
    made.edit(seeds=[0], metric={"name": "val/loss", "goal": "minimize"})
    return made


def records(lab: Lab) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in lab.folder.glob("runs/*/result.json")]


def curve(*values: float) -> list[tuple[int, dict[str, float]]]:
    return [(10 * n, {"val/recall_accuracy": value}) for n, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((0.1, 0.3, 0.7), 25.0),  # halfway between 0.3 at step 20 and 0.7 at step 30
        ((0.6, 0.1), 10.0),  # at the first look it was there already
        ((0.1, 0.5, 0.2), 20.0),  # the first time counts
        ((0.1, 0.2), math.nan),
        ((), math.nan),
    ],
)
def test_the_step_of_solving_lies_between_two_looks(values: tuple[float, ...], step: float) -> None:
    assert step_of_solving(curve(*values), LEVEL) == pytest.approx(step, nan_ok=True)


@pytest.mark.parametrize(
    ("ended_by", "asked", "answers"),
    [
        (None, LEVEL, True),
        (LEVEL.model_dump(), LEVEL, True),
        (LEVEL.model_dump(), None, False),
        ({**LEVEL.model_dump(), "at": 0.9}, LEVEL, True),  # went further than is asked
        ({**LEVEL.model_dump(), "at": 0.4}, LEVEL, False),
        ({**LEVEL.model_dump(), "metric": "val/loss"}, LEVEL, False),
    ],
)
def test_whose_result_stands(ended_by: Any, asked: Stop | None, answers: bool) -> None:
    assert stands({"ended_by": ended_by}, asked) is answers


def test_a_solved_run_is_finished_and_costs_what_it_took(lab: Lab) -> None:
    lab.edit(stop=ANY_LOSS)
    ended = lab.run()
    assert (ended.code, ended.err) == (0, "")
    assert [record["n_steps"] for record in records(lab)] == [5, 5]
    assert {record["stopped_by"] for record in records(lab)} == {None}
    runs = pd.read_csv(lab.folder / "runs/sweeps/sweep-tiny/runs.csv")
    assert list(runs["status"]) == ["finished", "finished"]
    assert list(runs["solved"]) == [1.0, 1.0]
    per_step = runs["tokens"][0] / 10
    assert list(runs["tokens_trained"]) == [5 * per_step] * 2
    assert list(runs["tokens_to_solve"]) == [5 * per_step] * 2
    assert runs["censored_at"].isna().all()
    before = lab.results()
    assert lab.run().code == 0
    assert lab.results() == before, "nothing runs twice"


def test_who_asks_for_the_whole_budget_trains_on_to_the_very_same_end(lab: Lab) -> None:
    lab.edit(stop=ANY_LOSS)
    assert lab.run().code == 0
    lab.edit(stop=None)
    assert lab.run().code == 0
    continued = {record["digest"]: record for record in records(lab)}
    assert len(continued) == 2, "the identity is the same with and without a stop"
    for path in lab.folder.glob("runs/*/result.json"):
        path.unlink()
    assert lab.run().code == 0
    for record in records(lab):
        assert record["metrics"] == continued[record["digest"]]["metrics"]
        assert record["n_steps"] == 10


def test_an_unsolved_run_is_censored_at_its_budget(lab: Lab) -> None:
    lab.edit(stop={"metric": "val/loss", "at": 0.0, "goal": "minimize"})
    assert lab.run().code == 0
    runs = pd.read_csv(lab.folder / "runs/sweeps/sweep-tiny/runs.csv")
    assert list(runs["solved"]) == [0.0, 0.0]
    assert list(runs["censored_at"]) == list(runs["tokens_trained"]) == list(runs["tokens"])


def test_a_level_of_an_area_is_refused(lab: Lab) -> None:
    lab.edit(stop={"metric": "val/recall_accuracy_auc", "at": 0.5})
    ended = lab.run()
    assert ended.code == 2
    assert "stop.metric" in ended.err


def test_the_soonest_to_solve_wins_whatever_it_reached(lab: Lab) -> None:
    """Both rates solve at the first look: the metric, better for the second, does not decide."""
    lab.edit(
        stop=ANY_LOSS,
        search={"optimizer.lr": {"choices": [1.0e-5, 1.0e-2]}},
        sampler={"name": "grid"},
        trials_per_cell=2,
    )
    assert lab.run().code == 0
    runs = pd.read_csv(lab.folder / "runs/sweeps/sweep-tiny/runs.csv")
    assert set(runs["optimizer.lr"]) == {1e-5}
    assert "At an edge of what was tried" in lab.report("table.md")


def test_widening_goes_on_until_the_winner_is_inside_or_three_were_tried(lab: Lab) -> None:
    """The lowest loss after ten steps lies at a rate above the two choices."""
    lab.edit(
        search={"optimizer.lr": {"choices": [1.0e-5, 1.0e-4]}},
        sampler={"name": "grid"},
        trials_per_cell=2,
        widen=True,
    )
    assert lab.run().code == 0
    won = set(pd.read_csv(lab.folder / "runs/sweeps/sweep-tiny/runs.csv")["optimizer.lr"])
    assert won <= {1e-3, 1e-2, 1e-1}
    assert len(records(lab)) == 2 * (2 + 3) + 2 or won < {1e-3, 1e-2}


def test_a_step_past_an_edge_keeps_the_ratio() -> None:
    rates = [1e-3, 2e-3, 4e-3]
    assert one_further({"lr": 4e-3}, {"lr": rates}) == {"lr": 8e-3}
    assert one_further({"lr": 1e-3}, {"lr": rates}) == {"lr": 5e-4}
    assert one_further({"lr": 2e-3}, {"lr": rates}) is None
    assert one_further({"n": 8}, {"n": [2, 4, 8]}) == {"n": 16}
    assert one_further({"x": 0}, {"x": [0, 1, 2]}) == {"x": -1}
    assert one_further({"name": "b"}, {"name": ["a", "b"]}) is None
    assert reachable(Range(choices=[1, 2])).choices == [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]
    assert not at_edge([True, False], True)


@pytest.mark.parametrize(
    "keys",
    [
        {"search": {"model.fusion.scale": {"choices": [True, False]}}},
        {"search": {}},
        {"search": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, "sampler": {"name": "tpe"}},
    ],
)
def test_widening_what_has_no_edges_is_refused(lab: Lab, keys: dict[str, Any]) -> None:
    lab.edit(**{"widen": True, "trials_per_cell": 2, "sampler": {"name": "grid"}, **keys})
    ended = lab.run()
    assert (ended.code, ended.out) == (2, "")


def test_a_control_that_is_no_row_is_refused(lab: Lab) -> None:
    lab.edit(control="men")
    ended = lab.run()
    assert ended.code == 2
    assert "no row 'men'; choose one of mean, gate. Did you mean 'mean'?" in ended.err
