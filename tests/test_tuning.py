"""Tuning by when a task is solved: past an edge of the choices, and no further than can win."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweeping import SWEEP, Inline, Lab

from hymba_lab.sweep.jobs import Job, Outcome, Outcomes, winner
from hymba_lab.sweep.pruning import make_pruning
from hymba_lab.sweep.question.designs import row_label
from hymba_lab.sweep.question.file import Metric, Pruner, Stop
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.tuning_notes import tuning_notes
from hymba_lab.sweep.widening import MOST, at_edge, never_widened, one_further, reachable

METRIC = Metric(name="val/recall_accuracy", goal="maximize")
STOP = Stop(metric=METRIC.name, at=0.9)
OVERTAKEN = Pruner(name="overtaken")
EVERY, LAST = 10, 200  # steps between validations, and of a whole run

TUNED = {
    "stop": {"metric": METRIC.name, "at": 0.9},
    "search": {"optimizer.lr": {"choices": [2e-3, 4e-3, 1e-3, 8e-3]}},
    "sampler": {"name": "grid"},
    "trials_per_cell": 4,
    "seeds": [0],
}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, SWEEP)


def trained(session: Session, job: Job) -> Outcome:
    """A run that jumps at a step that is its own, or never, and ends by the sweep's own rules."""
    luck = random.Random(job.identity)
    jump = luck.choice([luck.uniform(5, LAST - 5), LAST + 50])
    file = session.sweep.file
    records = [past.record for past in job.history if past.record]
    pruning = make_pruning(file.pruner, file.metric, records, file.stop)
    given_up = pruning.watcher() if pruning and job.stage == "tune" else None
    history: list[list[Any]] = []
    for step in range(EVERY, LAST + 1, EVERY):
        metrics = {METRIC.name: 0.2 if step < jump else 0.9 + 0.001 * (step % 70)}
        history.append([step, metrics])
        solved = metrics[METRIC.name] >= STOP.at
        if solved or (given_up and given_up(step, metrics)):
            break
    pruned = not solved and history[-1][0] < LAST
    status: Any = "pruned" if pruned else "finished"
    record = {"history": history, "n_steps": history[-1][0], "metrics": history[-1][1]}
    return Outcome(status, {**record, "stopped_by": pruning.key if pruning and pruned else None})


def play(session: Session, order: random.Random) -> dict[str, Outcome]:
    """Run the sweep with workers that end in any order."""
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        job = order.choice(waiting)
        outcomes[job.identity] = trained(session, job)
    return outcomes


def winners(session: Session, outcomes: Outcomes) -> Mapping[str, Any]:
    return {
        job.cell.label: job.params for job in session.planner.jobs(outcomes) if job.stage == "seed"
    }


def steps(session: Session, outcomes: Outcomes) -> int:
    jobs = [job for job in session.planner.jobs(outcomes) if job.stage == "tune"]
    return sum(outcomes[job.identity].record["n_steps"] for job in jobs)


@pytest.mark.slow
@pytest.mark.parametrize("widen", [False, True])
def test_who_is_overtaken_could_not_have_won(lab: Lab, widen: bool) -> None:
    """The same winner as with every trial trained to its end, for less, in whatever order."""
    saved = 0
    for seed in range(2):
        found = []
        for pruner in ("none", "overtaken"):
            lab.edit(**TUNED, pruner={"name": pruner}, widen=widen, tune_seed=1000 + seed)
            session = lab.session()
            outcomes = play(session, random.Random(seed))
            again = lab.session()
            assert play(again, random.Random(-seed)) == outcomes
            found.append((winners(session, outcomes), steps(session, outcomes)))
        (whole, all_steps), (cut, fewer) = found
        assert cut == whole
        assert fewer <= all_steps
        saved += all_steps - fewer
    assert saved > 0


def test_a_trial_is_compared_with_those_of_its_row_that_solved() -> None:
    def curve(*values: float) -> dict[str, Any]:
        history = [[10 * n, {METRIC.name: value}] for n, value in enumerate(values, start=1)]
        return {"history": history, "stopped_by": None}

    assert make_pruning(OVERTAKEN, METRIC, [], STOP) is None
    assert make_pruning(OVERTAKEN, METRIC, [curve(0.1, 0.89)], STOP) is None  # none has solved
    pruning = make_pruning(OVERTAKEN, METRIC, [curve(0.1), curve(0.8, 1.0), curve(0, 0, 1)], STOP)
    assert pruning is not None
    stop = pruning.watcher()  # solved between 10 and 20: at 15
    assert not stop(10, {METRIC.name: 0.1})
    assert stop(20, {METRIC.name: 0.1})
    lower = make_pruning(OVERTAKEN, METRIC, [curve(0.8, 1.0)], Stop(metric=METRIC.name, at=0.8))
    assert lower is not None
    assert lower.key != pruning.key


@pytest.mark.slow
def test_an_overtaken_trial_is_kept_and_goes_on_when_all_are_asked(lab: Lab) -> None:
    """Every model is at the level at its first validation but one that cannot move."""
    lab.edit(
        metric={"name": "val/loss", "goal": "minimize"},
        stop={"metric": "val/loss", "at": 2.74, "goal": "minimize"},
        seeds=[0],
        search={"optimizer.lr": {"choices": [1.0e-2, 1.0e-5]}},
        sampler={"name": "grid"},
        trials_per_cell=2,
        pruner={"name": "overtaken"},
    )
    ended = lab.run()
    assert (ended.code, ended.err) == (0, "")
    said = (
        "The soonest to solve the task wins, where any does. 2 that had not by then were given up."
    )
    assert said in lab.report("table.md")
    records = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
    assert sorted(record["n_steps"] for record in records) == [5, 5, 5, 5, 5, 5]
    assert sum(record["stopped_by"] is not None for record in records) == 2
    lab.edit(pruner={"name": "none"})
    launcher = Inline()
    assert lab.run(launcher=lambda *facts: launcher).code == 0
    assert launcher.n == 2  # those that were given up, from where they stood
    records = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
    assert sorted(record["n_steps"] for record in records) == [5, 5, 5, 5, 10, 10]


# --- past the edge


def test_an_edge_is_an_end_of_at_least_two_numbers() -> None:
    assert at_edge([4, 1, 2], 1) and at_edge([4, 1, 2], 4)
    assert not at_edge([4, 1, 2], 2)
    assert not at_edge([4], 4)
    assert not at_edge(["adamw", "muon"], "muon")
    assert not at_edge([False, True], True)


@pytest.mark.parametrize(
    ("tried", "best", "further"),
    [
        ([1e-3, 2e-3, 4e-3], 4e-3, 8e-3),
        ([4e-3, 1e-3, 2e-3], 1e-3, 5e-4),
        ([8, 16, 32], 32, 64),
        ([0.0, 0.1], 0.1, 0.2),
        ([0.0, 0.1], 0.0, -0.1),
    ],
)
def test_one_step_further_keeps_the_spacing(
    tried: list[float], best: float, further: float
) -> None:
    moved = one_further({"lr": best, "name": "adamw"}, {"lr": tried, "name": ["adamw", "muon"]})
    assert moved == {"lr": pytest.approx(further), "name": "adamw"}


def test_a_winner_inside_is_left_alone(lab: Lab) -> None:
    assert one_further({"lr": 2}, {"lr": [1, 2, 4]}) is None


def test_widening_goes_on_until_the_winner_is_inside_and_not_for_ever(lab: Lab) -> None:
    """The higher the rate, the sooner: each row tries every step past the edge, and stops there."""
    lab.edit(**TUNED, widen=True)
    session = lab.session()

    def sooner(job: Job) -> Outcome:
        step = round(0.1 / job.params["optimizer.lr"])
        metrics = {METRIC.name: 1.0}
        record = {"history": [[step, metrics]], "n_steps": step, "metrics": metrics}
        return Outcome("finished", record)

    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes |= {job.identity: sooner(job) for job in waiting}
    tried = [j.params["optimizer.lr"] for j in session.planner.jobs(outcomes) if j.stage == "tune"]
    assert sorted(set(tried)) == [1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3, 64e-3]
    assert {p["optimizer.lr"] for p in winners(session, outcomes).values()} == {8e-3 * 2**MOST}
    span = session.sweep.file.search["optimizer.lr"]
    assert set(tried) <= set(reachable(span).choices or [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widen", "span", "sides"),
    [
        (False, {"choices": [2e-3, 4e-3, 1e-3, 8e-3]}, ["table"]),
        (True, {"choices": [2e-3, 4e-3, 1e-3, 8e-3]}, ["sweep"]),
        (False, {"low": 1e-3, "high": 8e-3}, ["sweep"]),
    ],
)
def test_a_winner_at_an_edge_is_said_once(
    lab: Lab, widen: bool, span: Mapping[str, Any], sides: list[str]
) -> None:
    """By the table, of choices that its export names; by the sweep, of what only it knows."""
    sampler = {"name": "grid" if "choices" in span else "random"}
    lab.edit(**{**TUNED, "search": {"optimizer.lr": span}, "sampler": sampler, "widen": widen})
    session = lab.session()
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        for job in waiting:  # the lower the rate, the sooner
            step = 1 + round(10_000 * job.params["optimizer.lr"])
            metrics = {METRIC.name: 1.0}
            record = {"history": [[step, metrics]], "n_steps": step, "metrics": metrics}
            outcomes[job.identity] = Outcome("finished", record)
    notes = tuning_notes(session.sweep, list(session.planner.jobs(outcomes)), outcomes)
    by_sweep = ["sweep" for note in notes if note.startswith("At an edge of what was tried")]
    assert by_sweep + ["table" for _ in never_widened(session.sweep.file)] == sides


def test_the_soonest_wins_and_a_pruned_trial_is_nobodys_winner(lab: Lab) -> None:
    lab.edit(**TUNED, pruner={"name": "overtaken"})
    jobs = [job for job in lab.session().planner.jobs({}) if job.stage == "tune"]
    assert len(jobs) == 2  # one of each row: whoever solves the task bounds those after it
    metrics = {METRIC.name: 0.2}
    record = {"history": [[5, metrics]], "n_steps": 5, "metrics": metrics}
    done = [(jobs[0], Outcome("pruned", record)), (jobs[1], Outcome("finished", record))]
    assert winner(done, METRIC, STOP) is jobs[1]
    assert winner(done[:1], METRIC, STOP) is None


def test_widening_ends_where_the_field_does(lab: Lab) -> None:
    """Beyond [0, 0.1] lies -0.1: no weight decay, and no end of the sweep."""
    span = {"optimizer.weight_decay": {"choices": [0.0, 0.1]}}
    lab.edit(**{**TUNED, "search": span, "trials_per_cell": 2, "widen": True})
    session = lab.session()
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        for job in waiting:  # the less decay, the sooner
            step = 10 + round(100 * job.params["optimizer.weight_decay"])
            record = {"history": [[step, {METRIC.name: 1.0}]], "n_steps": step, "metrics": {}}
            outcomes[job.identity] = Outcome("finished", record)
    assert all(
        params["optimizer.weight_decay"] == 0 for params in winners(session, outcomes).values()
    )


@pytest.mark.parametrize("tuning", ["one_seed", "race"])
def test_a_row_whose_runs_all_failed_is_done_with_them(lab: Lab, tuning: str) -> None:
    lab.edit(**TUNED, tuning=tuning)
    session = lab.session()
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes |= {job.identity: Outcome("failed", {}, "nan", "the loss") for job in waiting}
    assert session.planner.total() == len(session.planner.jobs(outcomes))


def test_rows_of_a_search_are_told_apart() -> None:
    """Whole numbers of four digits, and rates that differ in the fourth."""
    values = [
        {"model.mlp.d_ff": n, "optimizer.lr": lr}
        for n in (1020, 1024)
        for lr in (0.0012344, 0.001234)
    ]
    labels = [row_label("search", "full", one) for one in values]
    assert len(set(labels)) == 4
    assert labels[0] == "full d_ff=1020, lr=0.0012344"
    assert row_label("one_factor", "full", values[0]) == "full"
