"""Importance of axes in a search: against shares of variance that are known."""

import random
from pathlib import Path

import pytest
from sweeping import SWEEP, Lab, finished

from hymba_lab.sweep.importance import importance_notes, importances
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.notes import axis_notes
from hymba_lab.sweep.question.file import Metric
from hymba_lab.sweep.report import write_report
from hymba_lab.sweep.session import Session

METRIC = Metric(name="val/recall_accuracy", goal="maximize")
AXES = {
    "fusion": {name: {"model.fusion": {"name": name}} for name in ("mean", "gate", "sum")},
    "head": {"8": {"model.heads.d_head": 8}, "16": {"model.heads.d_head": 16}},
}
LR = {"optimizer.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
PLACES = {"mean": 0.0, "gate": 1.0, "sum": -1.0, "8": -1.0, "16": 1.0}
Done = list[tuple[Job, Outcome]]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    lab = Lab(tmp_path, SWEEP)
    lab.edit(
        design="search", axes=AXES, search=LR, n_trials=60, seeds=[0, 1, 2],
        sampler={"name": "random", "n_startup_trials": 60},
    )  # fmt: skip
    return lab.session()


def tried(session: Session, fusion: float, head: float, noise: float = 0.0) -> Done:
    """Every trial with a result that is the sum of what its labels do."""
    luck = random.Random(0)
    found = []
    for job in session.planner.jobs({}):
        choice = job.cell.choice
        value = fusion * PLACES[choice["fusion"]] + head * PLACES[choice["head"]]
        value += noise * luck.gauss(0, 1)
        found.append((job, finished(job, val__recall_accuracy=value)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "head"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.8), (0.5, 1.0)])
def test_shares_are_those_of_the_variance(session: Session, fusion: float, head: float) -> None:
    done = tried(session, fusion, head)
    assert len(done) == 60
    found = importances(session.sweep.file, done, METRIC)
    by_axis = {"fusion": fusion**2 * 2 / 3, "head": head**2, "optimizer.lr": 0.0}
    total = sum(by_axis.values())
    assert found == pytest.approx({name: v / total for name, v in by_axis.items()}, abs=0.15)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_same_trials_give_the_same_words_in_any_process(session: Session) -> None:
    done = tried(session, 1.0, 0.5, noise=0.2)
    (note,) = importance_notes(session.sweep.file, done)
    assert importance_notes(session.sweep.file, list(done)) == [note]
    assert note.startswith("Importance for val/recall_accuracy ")
    assert "from 60 trials on seed 1000" in note
    names = [part.split()[0] for part in note.split("): ")[1].split(", ")]
    assert names == ["fusion", "head", "optimizer.lr"]


def test_failed_trials_do_not_count_and_few_say_nothing(session: Session) -> None:
    done = tried(session, 1.0, 0.5)
    failed = [(job, Outcome("failed", {}, "nan")) for job, _ in done]
    mixed = [a if n % 2 else b for n, (a, b) in enumerate(zip(done, failed, strict=True))]
    assert importances(session.sweep.file, mixed, METRIC)
    assert importances(session.sweep.file, [*done[:7], *failed[7:]], METRIC) == {}
    assert importances(session.sweep.file, tried(session, 0.0, 0.0), METRIC) == {}


def test_the_table_of_a_search_tells_it(session: Session) -> None:
    outcomes: dict[str, Outcome] = {job.identity: end for job, end in tried(session, 1.0, 0.5)}
    for job in session.planner.jobs(outcomes):
        outcomes.setdefault(job.identity, finished(job, val__recall_accuracy=0.1 * job.seed))
    answer = write_report(session, outcomes, "command", None).answer
    assert "- Importance for val/recall_accuracy (share of its variance" in answer


def test_other_designs_say_nothing_of_it(tmp_path: Path) -> None:
    session = Lab(tmp_path, SWEEP).session()
    outcomes = {
        job.identity: finished(job, val__recall_accuracy=float(job.seed))
        for job in session.planner.jobs({})
    }
    assert axis_notes(session, session.planner.jobs(outcomes), outcomes) == []
