"""The planner is a pure function: results in, jobs out, whatever the order they came in."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
from sweeping import SEARCH, SWEEP, Lab, finished

from hymba_lab.sweep.jobs import Job, Outcome, pareto_jobs, winner
from hymba_lab.sweep.pruning import make_pruning
from hymba_lab.sweep.question.file import Metric, Pruner
from hymba_lab.sweep.report import tuning_lines
from hymba_lab.sweep.session import Session

METRIC = Metric(name="val/recall_accuracy", goal="maximize")
LOSS = Metric(name="val/loss", goal="minimize")
CACHE = Metric(name="cost/cache_bytes", goal="minimize")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, SWEEP + SEARCH)


def score(job: Job) -> Outcome:
    """A result that depends on the job alone, as a training run's does."""
    luck = random.Random(job.identity).random()
    return finished(job, val__recall_accuracy=luck, val__loss=1 - luck)


def play(session: Session, order: random.Random, ended: Any = score) -> list[list[str]]:
    """Run the sweep with workers that end in any order; return the jobs after every result."""
    outcomes: dict[str, Outcome] = {}
    asked = []
    while True:
        jobs = session.planner.jobs(outcomes)
        asked.append([job.identity for job in jobs])
        waiting = [job for job in jobs if job.identity not in outcomes]
        if not waiting:
            return asked
        job = order.choice(waiting)
        outcomes[job.identity] = ended(job)


def by_cell(jobs: list[Job], stage: str) -> dict[str, list[Job]]:
    cells: dict[str, list[Job]] = {}
    for job in jobs:
        if job.stage == stage:
            cells.setdefault(job.cell.label, []).append(job)
    return cells


# --- purity


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_order_of_results_changes_nothing(lab: Lab, sampler: str) -> None:
    lab.edit(trials_per_cell=7, sampler={"name": sampler, "n_startup_trials": 2, "lag": 2})
    ends = {tuple(play(lab.session(), random.Random(order))[-1]) for order in range(6)}
    assert len(ends) == 1
    assert len(next(iter(ends))) == 2 * (7 + 2)


def test_a_new_process_derives_the_same_jobs_from_what_is_there(lab: Lab) -> None:
    lab.edit(trials_per_cell=6, sampler={"n_startup_trials": 2, "lag": 2})
    session = lab.session()
    outcomes: dict[str, Outcome] = {}
    for _ in range(10):
        jobs = session.planner.jobs(outcomes)
        job = next(job for job in jobs if job.identity not in outcomes)
        outcomes[job.identity] = score(job)
    again = lab.session().planner.jobs(outcomes)
    here = session.planner.jobs(outcomes)
    assert [(job.identity, job.params) for job in again] == [
        (job.identity, job.params) for job in here
    ]


def test_jobs_never_disappear_as_results_come_in(lab: Lab) -> None:
    lab.edit(trials_per_cell=5, sampler={"n_startup_trials": 1, "lag": 2})
    asked = play(lab.session(), random.Random(1))
    for before, after in itertools.pairwise(asked):
        assert set(before) <= set(after)


def test_tpe_learns_from_the_past_and_only_from_it(lab: Lab) -> None:
    lab.edit(trials_per_cell=8, sampler={"n_startup_trials": 2, "lag": 1, "multivariate": False})

    def best_at(target: float) -> list[float]:
        def ended(job: Job) -> Outcome:
            distance = abs(math.log(job.params["optimizer.lr"] / target))
            return finished(job, val__recall_accuracy=-distance)

        session, outcomes = lab.session(), dict[str, Outcome]()
        while True:
            jobs = session.planner.jobs(outcomes)
            waiting = [job for job in jobs if job.identity not in outcomes]
            if not waiting:
                break
            outcomes |= {job.identity: ended(job) for job in waiting}
        return [job.params["optimizer.lr"] for job in by_cell(jobs, "tune")["mean"]]

    low, again, high = best_at(1.0e-3), best_at(1.0e-3), best_at(1.0e-2)
    assert low == again
    assert low[:2] == high[:2]  # these looked at no result
    assert low != high
    assert sum(low[2:]) < sum(high[2:])


# --- fairness


def test_every_cell_starts_from_the_same_values(lab: Lab) -> None:
    lab.edit(trials_per_cell=6, sampler={"n_startup_trials": 4})
    tuned = by_cell(lab.session().planner.jobs({}), "tune")
    mean, gate = ([job.params for job in tuned[label]] for label in ("mean", "gate"))
    assert mean == gate
    assert len(mean) == 4  # the fifth looks at the first
    assert len({values["optimizer.lr"] for values in mean}) == 4
    assert all(1e-3 <= values["optimizer.lr"] <= 1e-2 for values in mean)


def test_tuning_never_sees_a_seed_that_judges(lab: Lab) -> None:
    session = lab.session()
    outcomes = {job.identity: score(job) for job in session.planner.jobs({})}
    jobs = session.planner.jobs(outcomes)
    assert {job.seed for job in jobs if job.stage == "tune"} == {session.sweep.file.tune_seed}
    assert [job.seed for job in jobs if job.stage == "seed"] == [0, 1, 0, 1]
    assert len({job.identity for job in jobs}) == 8


def test_a_row_repeats_its_own_best_trial(lab: Lab) -> None:
    session = lab.session()
    tuned = by_cell(session.planner.jobs({}), "tune")
    values = {"mean": [0.2, 0.9], "gate": [0.8, 0.1]}
    outcomes = {
        job.identity: finished(job, val__recall_accuracy=values[label][job.index])
        for label, jobs in tuned.items()
        for job in jobs
    }
    repeated = by_cell(session.planner.jobs(outcomes), "seed")
    assert {job.params["optimizer.lr"] for job in repeated["mean"]} == {
        tuned["mean"][1].params["optimizer.lr"]
    }
    assert {job.params["optimizer.lr"] for job in repeated["gate"]} == {
        tuned["gate"][0].params["optimizer.lr"]
    }


def test_without_search_the_seeds_start_at_once(tmp_path: Path) -> None:
    session = Lab(tmp_path).session("seeds=[3, 4, 5]")
    assert [job.name for job in session.planner.jobs({})] == [
        "mean, seed 3", "mean, seed 4", "mean, seed 5",
        "gate, seed 3", "gate, seed 4", "gate, seed 5",
    ]  # fmt: skip


def test_a_grid_tries_every_combination_once(lab: Lab) -> None:
    lab.edit(
        search={
            "optimizer.lr": {"choices": [1e-3, 1e-2]},
            "optimizer.eps": {"choices": [1e-8, 1e-6]},
        },
        sampler={"name": "grid"},
        trials_per_cell=4,
    )
    tuned = by_cell(lab.session().planner.jobs({}), "tune")["gate"]
    assert sorted(tuple(job.params.values()) for job in tuned) == [
        (1e-3, 1e-8), (1e-3, 1e-6), (1e-2, 1e-8), (1e-2, 1e-6),
    ]  # fmt: skip


# --- what may win


def trials(lab: Lab) -> list[Job]:
    lab.edit(trials_per_cell=4)
    return by_cell(lab.session().planner.jobs({}), "tune")["mean"]


def test_pruned_and_failed_trials_never_win(lab: Lab) -> None:
    first, second, third, fourth = trials(lab)
    best = {"val/recall_accuracy": 1.0}
    done = [
        (first, Outcome("pruned", {"metrics": best})),
        (second, Outcome("failed", {"metrics": best}, "nan")),
        (third, finished(third, val__recall_accuracy=math.nan)),
        (fourth, finished(fourth, val__recall_accuracy=0.1)),
    ]
    assert winner(done, METRIC) is fourth
    assert winner(done[:3], METRIC) is None


def test_the_earlier_of_equals_wins_and_the_goal_counts(lab: Lab) -> None:
    first, second, third, _ = trials(lab)
    done = [
        (third, finished(third, val__recall_accuracy=0.5, val__loss=1.0)),
        (second, finished(second, val__recall_accuracy=0.5, val__loss=2.0)),
        (first, finished(first, val__recall_accuracy=0.4, val__loss=3.0)),
    ]
    assert winner(done, METRIC) is second
    assert winner(done, LOSS) is third


def test_a_row_without_a_finished_trial_is_not_repeated(lab: Lab) -> None:
    session = lab.session()
    outcomes = {
        job.identity: Outcome("failed", {}, "nan") if job.cell.label == "gate" else score(job)
        for job in session.planner.jobs({})
    }
    assert set(by_cell(session.planner.jobs(outcomes), "seed")) == {"mean"}


# --- design: search


def searched(lab: Lab, **keys: Any) -> Session:
    lab.edit(
        design="search", n_trials=6, trials_per_cell=0, sampler={"n_startup_trials": 3, "lag": 2},
        axes={
            "placement": {
                "full": {"model.placement": {"name": "all_full"}},
                "window": {"model.placement": {"name": "all_window", "window": 4}},
            }
        },
        objectives=[METRIC.model_dump(), CACHE.model_dump()], **keys,
    )  # fmt: skip
    return lab.session()


def test_a_search_chooses_labels_and_values_purely(lab: Lab) -> None:
    ends = {tuple(play(searched(lab), random.Random(order))[-1]) for order in range(5)}
    assert len(ends) == 1


def test_a_search_repeats_the_pareto_front_over_the_seeds(lab: Lab) -> None:
    session = searched(lab)

    def ended(job: Job) -> Outcome:
        better = job.cell.label == "full"
        return finished(job, val__recall_accuracy=better + 0.01 * job.index)

    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes |= {job.identity: ended(job) for job in waiting}
    jobs = session.planner.jobs(outcomes)
    tried, kept = by_cell(jobs, "tune"), by_cell(jobs, "seed")
    assert set(tried) == {"full", "window"}  # both were tried among six
    for label, repeated in kept.items():  # of each cost only the best accuracy is kept
        best = max(tried[label], key=lambda job: job.index)
        assert [job.seed for job in repeated] == [0, 1]
        assert {repr(job.params) for job in repeated} == {repr(best.params)}
    assert set(kept) == {"full", "window"}


def test_the_pareto_front_is_what_no_other_trial_beats(lab: Lab) -> None:
    jobs = trials(lab)
    accuracy, loss = [0.9, 0.8, 0.7, 0.95], [2.0, 1.0, 1.5, math.nan]
    done = [
        (job, finished(job, val__recall_accuracy=a, val__loss=b))
        for job, a, b in zip(jobs, accuracy, loss, strict=True)
    ]
    assert pareto_jobs(done, [METRIC, LOSS]) == [jobs[0], jobs[1]]
    assert pareto_jobs(done[::-1], [METRIC, LOSS]) == [jobs[1], jobs[0]]
    assert pareto_jobs(done, [METRIC]) == [jobs[3]]


# --- pruning


def curve(*values: float, pruned: bool = False) -> dict[str, Any]:
    history = [[10 * n, {METRIC.name: value}] for n, value in enumerate(values, start=1)]
    return {"history": history, "stopped_by": "a rule" if pruned else None}


def test_the_median_pruner_gives_up_below_the_median() -> None:
    records = [curve(0.5, 0.9), curve(0.6, 0.8), curve(0.1, 0.7)]
    pruning = make_pruning(Pruner(name="median", n_startup_trials=3), METRIC, records)
    assert pruning is not None
    stop = pruning.watcher()
    assert not stop(10, {METRIC.name: 0.55})
    assert stop(20, {METRIC.name: 0.6})
    assert not pruning.watcher()(10, {METRIC.name: 0.5})
    assert pruning.watcher()(10, {METRIC.name: 0.4})


def test_a_trial_before_the_startup_is_never_pruned() -> None:
    pruning = make_pruning(Pruner(name="median", n_startup_trials=3), METRIC, [curve(0.5)] * 2)
    assert pruning is not None
    assert not pruning.watcher()(10, {METRIC.name: 0.0})


def test_halving_keeps_the_best_third_at_a_rung() -> None:
    """The rungs stand at 10, 30, ... steps; who was given up there still counts."""
    pruner = Pruner(name="successive_halving", min_resource=10, reduction_factor=3)
    records = [curve(0.5, 0.5, 0.5), curve(0.6, 0.6, 0.6), curve(0.4, pruned=True)]
    pruning = make_pruning(pruner, METRIC, records)
    assert pruning is not None
    assert pruning.watcher()(10, {METRIC.name: 0.55})
    stop = pruning.watcher()
    assert not stop(10, {METRIC.name: 0.7})
    assert not stop(20, {METRIC.name: 0.1})  # between rungs
    assert stop(30, {METRIC.name: 0.1})


def test_an_area_under_the_curve_can_be_pruned_by() -> None:
    area = Metric(name="val/recall_accuracy_auc", goal="maximize")
    pruning = make_pruning(Pruner(name="median", n_startup_trials=1), area, [curve(0.2, 0.8)])
    assert pruning is not None
    assert pruning.past == (({10: 0.2, 20: 0.5}, True),)
    stop = pruning.watcher()
    assert not stop(10, {METRIC.name: 0.4})
    assert not stop(20, {METRIC.name: 0.6})  # area 0.5
    assert pruning.watcher()(10, {METRIC.name: 0.1})


def test_the_key_holds_all_that_a_decision_depends_on() -> None:
    options = Pruner(name="median", n_startup_trials=1)
    keys = {
        pruning.key
        for pruning in (
            make_pruning(options, METRIC, [curve(0.5)]),
            make_pruning(options, METRIC, [curve(0.6)]),
            make_pruning(options, METRIC, [curve(0.5), curve(0.5)]),
            make_pruning(options, LOSS.model_copy(update={"name": METRIC.name}), [curve(0.5)]),
            make_pruning(Pruner(name="median"), METRIC, [curve(0.5)]),
        )
        if pruning is not None
    }
    assert len(keys) == 5
    assert make_pruning(Pruner(), METRIC, [curve(0.5)]) is None
    assert make_pruning(options, CACHE, [curve(0.5)]) is None


def test_values_suggested_again_are_one_run(lab: Lab) -> None:
    """A sampler may repeat itself: the sweep was never done, and its hours counted twice."""
    lab.edit(search={"optimizer.lr": {"choices": [1e-3, 2e-3]}}, trials_per_cell=4)
    session, outcomes = lab.session(), dict[str, Outcome]()
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes[waiting[0].identity] = score(waiting[0])
    jobs = session.planner.jobs(outcomes)
    tuned = {job.identity for job in jobs if job.stage == "tune"}
    assert len(tuned) == 4 < len([job for job in jobs if job.stage == "tune"])
    assert session.planner.total() == len({job.identity for job in jobs}) == len(outcomes)
    lines = list(tuning_lines(session, None, jobs, outcomes))
    assert sorted(line["identity"] for line in lines) == sorted(tuned)
