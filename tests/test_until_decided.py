"""Seeds until decided, in a sweep: who gets more, and that nothing runs twice."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeping import SEARCH, SWEEP, Lab, finished

from hymba_lab.errors import ConfigError
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.judging import judged
from hymba_lab.sweep.report import write_report
from hymba_lab.sweep.session import Session

THREE = (SWEEP + "    sum: {model.fusion: {name: sum}}\n").replace(
    "metric: {name: val/recall_accuracy, goal: maximize}",
    "metric: {name: val/loss, goal: minimize}",
)
SOLVING = (
    THREE.replace("val/loss, goal: minimize", "val/recall_accuracy, goal: maximize")
    + "stop: {metric: val/recall_accuracy, at: 0.95}\n"
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, THREE)


def score(job: Job) -> Outcome:
    """`gate` is far better than the baseline, `sum` differs by noise only."""
    luck = random.Random(job.identity).random()
    gain = 50 if job.cell.label == "gate" else 0
    return finished(job, val__loss=100 - gain + luck)


def jump(job: Job, step: float) -> Outcome:
    """A run whose recall jumps at a step, all runs to the same level in the end."""
    history = [[at, {"val/recall_accuracy": 0.2 if at < step else 0.96}] for at in range(1, 101)]
    outcome = finished(job, val__recall_accuracy=0.96)
    return replace(outcome, record={**outcome.record, "history": history, "n_steps": 100})


def jumps(job: Job) -> Outcome:
    """`gate` solves in a third of the steps, `sum` as late as the baseline."""
    luck = random.Random(f"{job.cell.label} {job.seed}").random()
    return jump(job, 20 + 2 * luck if job.cell.label == "gate" else 60 + 20 * luck)


def play(session: Session, outcomes: dict[str, Outcome], ended: Any = score) -> list[Job]:
    """Run what the planner asks for, a job at a time, in an order that depends on the names."""
    while True:
        jobs = session.planner.jobs(outcomes)
        waiting = [job for job in jobs if job.identity not in outcomes]
        if not waiting:
            return jobs
        job = min(waiting, key=lambda job: job.identity)
        outcomes[job.identity] = ended(job)


def seeds(jobs: list[Job]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for job in jobs:
        if job.stage == "seed":
            found.setdefault(job.cell.label, []).append(job.seed)
    return found


def test_only_undecided_rows_and_the_baseline_get_more(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=12)
    session = lab.session()
    assert session.planner.total() == 9
    assert seeds(play(session, {})) == {
        "mean": list(range(12)), "gate": [0, 1, 2], "sum": list(range(12)),
    }  # fmt: skip
    assert session.planner.total() == 27


def test_nothing_is_added_once_all_is_decided(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=12, axes={"fusion": {
        "mean": {"model.fusion": {"name": "mean"}}, "gate": {"model.fusion": {"name": "gate"}},
    }})  # fmt: skip
    assert seeds(play(lab.session(), {})) == {"mean": [0, 1, 2], "gate": [0, 1, 2]}


def test_a_row_shown_to_be_equivalent_gets_no_more(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=12, margin=40.0)
    assert seeds(play(lab.session(), {}))["sum"] == [0, 1, 2]


def test_rows_with_a_level_to_stop_at_are_judged_by_when_they_reached_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SOLVING)
    lab.edit(seeds=[0, 1, 2], until_decided=6)
    assert seeds(play(lab.session(), {}, jumps)) == {
        "mean": list(range(6)), "gate": [0, 1, 2], "sum": list(range(6)),
    }  # fmt: skip


def test_the_planner_judges_as_the_table_does(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SOLVING)
    lab.edit(seeds=[0, 1, 2])
    session, outcomes = lab.session(), dict[str, Outcome]()
    jobs = play(session, outcomes, jumps)
    labels = [cell.label for cell in session.cells]
    found = {one.label: one for one in judged(session.sweep, labels, jobs, outcomes)}
    table = write_report(session, outcomes, "", None).table.frame.set_index("row")
    for label in ("gate", "sum"):
        shown = table.loc[label]
        assert shown["verdict"].startswith(found[label].verdict)
        assert found[label].effect == pytest.approx(shown["effect"], rel=1e-12)
        assert found[label].high == pytest.approx(shown["effect_high"], rel=1e-12)
    assert found["gate"].kind == "better" and found["sum"].kind == "undecided"


def test_new_seeds_are_neither_the_files_nor_the_tuning_one(lab: Lab) -> None:
    lab.edit(seeds=[5, 1], tune_seed=2, until_decided=4)
    assert seeds(play(lab.session(), {}))["sum"] == [5, 1, 0, 3]


def test_another_process_and_a_larger_limit_continue(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=6)
    outcomes: dict[str, Outcome] = {}
    first = play(lab.session(), outcomes)
    assert [job.identity for job in play(lab.session(), outcomes)] == [j.identity for j in first]
    n_before = len(outcomes)
    lab.edit(until_decided=12)
    more = play(lab.session(), outcomes)
    assert {job.identity for job in first} <= {job.identity for job in more}
    assert len(outcomes) - n_before == 2 * 6  # the baseline and "sum"
    assert len({job.identity for job in more}) == len(more)


def test_no_look_before_every_run_of_the_last_has_ended(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=6)
    session, outcomes = lab.session(), dict[str, Outcome]()
    jobs = session.planner.jobs(outcomes)
    for job in jobs[:-1]:
        outcomes[job.identity] = score(job)
        assert len(session.planner.jobs(outcomes)) == 9
    outcomes[jobs[-1].identity] = score(jobs[-1])
    assert len(session.planner.jobs(outcomes)) == 15


def test_a_row_that_never_finishes_is_given_up(lab: Lab) -> None:
    lab.edit(seeds=[0, 1, 2], until_decided=12)

    def ended(job: Job) -> Outcome:
        dead = job.cell.label == "sum"
        return Outcome("failed", {}, "nan") if dead else score(job)

    assert seeds(play(lab.session(), {}, ended)) == {
        "mean": [0, 1, 2], "gate": [0, 1, 2], "sum": [0, 1, 2],
    }  # fmt: skip


def test_added_seeds_train_with_the_rows_own_tuned_values(tmp_path: Path) -> None:
    lab = Lab(tmp_path, THREE + SEARCH)
    lab.edit(seeds=[0, 1, 2], until_decided=6)
    jobs = play(lab.session(), {})
    values = {(job.cell.label, repr(job.params)) for job in jobs if job.stage == "seed"}
    assert len(values) == 3
    assert Counter(job.stage for job in jobs) == {"tune": 6, "seed": 15}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"until_decided": 3}, "until_decided.*at least 4"),
        ({"until_decided": 8, "design": "search", "n_trials": 2}, "until_decided.*not for search"),
        ({"margin": 0.0}, "margin"),
    ],
)
def test_what_cannot_work_is_refused_at_its_place(
    lab: Lab, keys: dict[str, Any], said: str
) -> None:
    lab.edit(**keys)
    with pytest.raises(ConfigError, match=said):
        lab.session()


@pytest.mark.slow
def test_the_command_adds_seeds_tells_the_looks_and_runs_nothing_twice(lab: Lab) -> None:
    lab.with_store().edit(metric={"name": "val/loss", "goal": "minimize"})
    assert lab.run().code == 0
    before = lab.results()
    assert len(before) == 6
    ended = lab.run("--until-decided", "4", "--set", "margin=0.9")
    assert ended.code == 0, ended.err
    after = lab.results()
    assert len(after) > 6
    assert {name: after[name] for name in before} == before
    table = lab.report("table.md")
    assert "in at most 2 looks, at 2, 4 seeds; they may spend 0.0167, 0.0111 of alpha" in table
    assert "Equivalent within 0.9: " in table
    frame = pd.read_csv(lab.folder / "runs" / "sweeps" / "sweep-tiny" / "table.csv")
    assert set(frame["look"].dropna()) <= {1, 2}
    assert frame["p_within"].notna().sum() == 2
    assert "Not measured" not in table
    assert lab.run("--until-decided", "4", "--set", "margin=0.9").code == 0
    assert lab.results() == after
    assert lab.report("table.md") == table


def test_the_plan_tells_what_may_be_added(lab: Lab) -> None:
    lab.with_store()
    ended = lab.run("--plan", "--until-decided", "8")
    assert "undecided rows and the baseline go on to 4, 8 seeds" in " ".join(ended.out.split())


@pytest.mark.parametrize("tuning", ["one_seed", "race"])
def test_without_a_result_of_the_baseline_nothing_is_added_and_there_is_a_table(
    tmp_path: Path, tuning: str
) -> None:
    """The further seeds of the baseline were asked for by values that it does not have."""
    lab = Lab(tmp_path, THREE + SEARCH.replace("{low: 1.0e-3, high: 1.0e-2, log: true}",
                                               "{choices: [1.0e-3, 2.0e-3]}"))  # fmt: skip
    further = {"tuning": tuning, "behind": 1.0} if tuning == "race" else {}
    lab.edit(seeds=[0, 1, 2], until_decided=6, sampler={"name": "grid"}, **further)

    def diverged(job: Job) -> Outcome:
        if job.cell.label == "mean":
            return Outcome("failed", {}, "nan", "the loss is not a number")
        return score(job)

    session, outcomes = lab.session(), dict[str, Outcome]()
    assert set(seeds(play(session, outcomes, diverged))) == {"gate", "sum"}
    assert "no tuning trial finished: nan" in "".join(notes_of(session, outcomes))


def notes_of(session: Session, outcomes: dict[str, Outcome]) -> list[str]:
    return write_report(session, outcomes, "", None).table.notes
