"""Large sweeps: what a plan, an event or a table costs does not grow with the sweep's square."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweeping import SMALL, Lab, finished

from hymba_lab.cost import many
from hymba_lab.errors import StoreError
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.tracking import Store
from hymba_lab.sweep import planner as planners
from hymba_lab.sweep.estimate import finished_so_far
from hymba_lab.sweep.jobs import Outcome
from hymba_lab.sweep.notes import ending_notes
from hymba_lab.sweep.observers.mirror import Mirror
from hymba_lab.sweep.observers.view import View
from hymba_lab.sweep.report import write_report

N_ROWS = 40


def rates(n_rows: int) -> dict[str, Any]:
    return {str(n): {"optimizer.lr": round(1e-3 * (1 + n / 100), 8)} for n in range(n_rows)}


def many_rows(n_rows: int) -> str:
    sweep = {
        "question": "Which of many?", "base": "tiny.yaml", "seeds": [0],
        "metric": {"name": "val/recall_accuracy", "goal": "maximize"},
        "axes": {"rate": rates(n_rows)},
    }  # fmt: skip
    return json.dumps(sweep)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, many_rows(N_ROWS), SMALL)


def test_rows_of_one_model_are_measured_as_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    n_built, build = [0], many.meta_model

    def counted(*words: Any) -> Any:
        n_built[0] += 1
        return build(*words)

    monkeypatch.setattr(many, "meta_model", counted)
    session = lab.session()
    assert len(session.cells) == N_ROWS
    assert len({cell.costs for cell in session.cells}) == 1
    assert n_built == [2]  # without layers, and with the one kind that all have


def test_an_event_plans_the_row_that_it_is_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows whose seeds are planned nothing is derived again, and the jobs stay the same."""
    lab.edit(axes={"fusion": {name: {"model.fusion": {"name": name}} for name in ("mean", "gate")}})
    lab.write(
        "sweep.yaml",
        (lab.folder / "sweep.yaml").read_text()[:-1] + ', "trials_per_cell": 2,'
        ' "search": {"optimizer.lr": {"choices": [0.001, 0.002]}}, "sampler": {"name": "grid"}}',
    )
    session = lab.session()
    planner = session.planner
    outcomes: dict[str, Any] = {}
    while new := [job for job in planner.jobs(outcomes) if job.identity not in outcomes]:
        outcomes |= {job.identity: finished(job, val__recall_accuracy=0.5) for job in new}
    names = [job.name for job in planner.jobs(outcomes)]
    n_derived = [0]
    derive = planners.Planner._cell_jobs

    def counted(self: Any, *words: Any) -> Any:
        n_derived[0] += 1
        return derive(self, *words)

    monkeypatch.setattr(planners.Planner, "_cell_jobs", counted)
    assert [job.name for job in planner.jobs(outcomes)] == names
    assert n_derived == [0]
    fewer = {k: v for k, v in outcomes.items() if k != planner.jobs(outcomes)[0].identity}
    assert [job.name for job in planner.jobs(fewer)] == [
        job.name for job in lab.session().planner.jobs(fewer)
    ]
    other = dict(outcomes)  # what won decides what the seeds train with
    for job in planner.jobs(outcomes)[:2]:
        other[job.identity] = finished(job, val__recall_accuracy=job.index)
    assert planner.jobs(other)[2].params == {"optimizer.lr": 0.002}


def test_a_line_of_the_view_reads_no_file_of_every_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = lab.session()
    jobs = session.planner.jobs({})
    read: Counter[str] = Counter()
    progress = RunFolder.progress.fget
    assert progress is not None

    def counted(folder: RunFolder) -> Mapping[str, Any] | None:
        read[folder.identity] += 1
        return progress(folder)

    monkeypatch.setattr(RunFolder, "progress", property(counted))
    view = View(session, Console(file=io.StringIO(), width=100))
    running = {job.identity: job for job in jobs}
    for job in jobs:
        view.started(job)
    view.waiting(running)
    for job in jobs[:20]:
        view.ended(job, finished(job, val__recall_accuracy=0.5), trained=True)
    assert max(read.values()) <= 2, "once at its start, once for all the lines of some seconds"


def test_a_table_says_how_often_attempts_ended_and_why(lab: Lab) -> None:
    session = lab.session()
    jobs = session.planner.jobs({})
    assert ending_notes(session, jobs) == []
    for n, job in enumerate(jobs[:10]):
        folder = session.run_folder(job.identity)
        folder.path.mkdir(parents=True)
        folder.count_ending("preempted")
        if n == 0:
            folder.count_ending("node_lost")
            folder.fail("timeout", "said")
    (note,) = ending_notes(session, jobs)
    assert note.startswith(
        "Attempts that ended before their time: 1 node lost, 10 preempted, 1 timeout (0, seed 0: "
    )
    assert "; and 2 runs more" in note


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True], ids=["before", "now"])
def test_a_sweep_asks_its_store_as_often_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    """Runs that stand in the store are found by one search, not one by one."""
    n_calls, call = Counter[str](), Store.call

    def counted(self: Store, *words: Any, **named: Any) -> Any:
        n_calls[str(self.root)] += 1
        return call(self, *words, **named)

    for n_rows in (2, 5):
        lab = Lab(tmp_path / str(n_rows), many_rows(n_rows), SMALL).with_store()
        session = lab.session()
        jobs = session.planner.jobs({})
        first, ids = Mirror(session, None, 1), dict[str, str]()
        for job in jobs:
            tags = first.task(job, None).tags
            run = first.store.open_run(first.experiment, job.name, job.identity, tags)
            run.end()
            ids[job.identity] = run.id
        with monkeypatch.context() as patched:
            patched.setattr(Store, "call", counted)
            again = Mirror(session, None, 1)
            for job in jobs:
                outcome = finished(job, val__recall_accuracy=0.5)
                outcome.record["mlflow"] = {"run_id": ids[job.identity]}
                again.ended(job, outcome, trained)
            again.waiting({})
    assert len(n_calls) == 2 and len(set(n_calls.values())) == 1


@pytest.mark.slow
def test_a_store_that_is_away_is_not_asked_run_by_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call waited five minutes, and the coordinator asked for no trial meanwhile."""
    lab = Lab(tmp_path, many_rows(8), SMALL).with_store()
    session = lab.session()
    jobs, waited, told = session.planner.jobs({}), list[float](), list[str]()
    mirror = Mirror(session, None, 1, told.append)

    def away(self: Store, *words: Any, **named: Any) -> Any:
        waited.append(self.patience_s)
        raise StoreError("the server is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "call", away)
        for job in jobs:
            mirror.ended(job, Outcome("failed", {}, "nan", "the loss"), True)
            mirror.waiting({})
        n_asked = len(waited)
        assert n_asked < len(jobs) and max(waited) <= 5 and len(told) == 1
        mirror.waiting({})
        assert len(waited) == n_asked  # it is left alone for a while
    mirror.finish(write_report(session, {}, "", None))
    found = mirror.store.runs_by_identity(mirror.experiment)
    assert found.keys() == {job.identity for job in jobs}
    assert {run.info.status for run in found.values()} == {"FAILED"}


def test_a_finished_run_is_read_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = lab.session()
    read: Counter[str] = Counter()
    result = RunFolder.result.fget
    assert result is not None

    def counted(folder: RunFolder) -> Any:
        read[folder.identity] += 1
        return result(folder)

    monkeypatch.setattr(RunFolder, "result", property(counted))
    finished_so_far(session)
    assert read == {job.identity: 1 for job in session.planner.jobs({})}
