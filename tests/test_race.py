"""Tuning by a race over the compared seeds: what it decides, and how often it decides wrongly."""

import io
import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import optuna
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import t as student
from sweeping import SWEEP, Lab

from hymba_lab.report.mlflow_runs import export_texts
from hymba_lab.runs.tracking import Store, default_uri
from hymba_lab.stats import Comparison, Looks, Run, compare_times
from hymba_lab.sweep import planner
from hymba_lab.sweep.estimate import plan_notes
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.observers.view import View
from hymba_lab.sweep.pruning import make_pruning
from hymba_lab.sweep.question.file import Metric, Stop
from hymba_lab.sweep.race import BEHIND, GIVEN_UP_AT, UNBEGUN, Standing, race_of, still_racing
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.tuning_notes import edge_notes, tuning_notes
from hymba_lab.sweep.widening import MOST

METRIC = Metric(name="val/recall_accuracy", goal="maximize")
STOP = Stop(metric=METRIC.name, at=0.9)
LAST = 4000  # steps of a whole run
RATES = [4e-3, 2e-3, 8e-3, 1e-3]
RACE = {
    "tuning": "race",
    "stop": {"metric": METRIC.name, "at": 0.9},
    "search": {"optimizer.lr": {"choices": RATES}},
    "sampler": {"name": "grid"},
    "trials_per_cell": 4,
    "seeds": [0, 1, 2, 3, 4, 5],
    "pruner": {"name": "overtaken"},
}
LOSS = {  # no task: what is reached in the end decides
    "metric": {"name": "val/loss", "goal": "minimize"},
    "stop": None,
    "pruner": {"name": "none"},
}
Beyond = Literal["told", "blind", "never"]
Steps = Mapping[tuple[str, float, int], float]  # row, rate, seed -> step of solving


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, SWEEP)


def ended(session: Session, job: Job, step: float, unsolved: float = 0.89) -> Outcome:
    """A run that solves its task at `step`, given up or at its budget's end before that."""
    records = [past.record for past in job.history if past.record]
    file = session.sweep.file
    slack = GIVEN_UP_AT if job.stage == "race" else 1.0
    rule = make_pruning(file.pruner, METRIC, records, file.stop, slack)
    given_up = getattr(rule, "step", math.inf) if job.stage != "seed" else math.inf
    end = min(step, given_up, LAST)
    value = 0.95 if end == step else unsolved
    metrics = {METRIC.name: value}
    record = {"history": [[end, metrics]], "n_steps": end, "metrics": metrics}
    pruned = end == given_up and end < step
    return Outcome("pruned" if pruned else "finished", record)


def play(
    session: Session, steps: Steps, order: random.Random, at_once: int = 1
) -> dict[str, Outcome]:
    """Run the sweep with `at_once` workers that end in any order."""
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        for job in order.sample(waiting, min(at_once, len(waiting))):
            key = job.cell.label, job.params["optimizer.lr"], job.seed
            outcomes[job.identity] = ended(session, job, steps[key])
    return outcomes


def drawn(session: Session, luck: random.Random, noise: float = 0.2) -> dict[Any, float]:
    """Every row has a best rate of its own; 1e-3 never solves."""
    steps = {}
    for cell in session.cells:
        best = luck.uniform(-8.5, -7)
        for rate in [*RATES, 1.6e-2, 3.2e-2, 6.4e-2, 5e-4, 2.5e-4, 1.25e-4]:
            for seed in range(6):
                far = (math.log2(rate) - best) ** 2
                time = 300 * math.exp(0.3 * far + luck.gauss(0, noise))
                steps[cell.label, rate, seed] = math.inf if rate < 1.5e-3 else time
    return steps


def compared(session: Session, outcomes: Mapping[str, Outcome]) -> dict[str, list[Job]]:
    own: dict[str, list[Job]] = {}
    for job in session.planner.jobs(outcomes):
        if job.stage == "seed":
            own.setdefault(job.cell.label, []).append(job)
    return own


@pytest.mark.parametrize(
    "luck", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))]
)
def test_the_same_winner_in_whatever_order_and_by_its_own_rule(lab: Lab, luck: int) -> None:
    """Against the rule written out: a table of times, cut after every seed."""
    lab.edit(**RACE)
    session = lab.session()
    steps = drawn(session, random.Random(luck))
    outcomes = play(session, steps, random.Random(luck))
    again = play(lab.session(), steps, random.Random(luck + 100), at_once=5)
    assert {k: v.record for k, v in outcomes.items()} == {k: v.record for k, v in again.items()}
    for cell in session.cells:
        own = {(rate, s): step for (row, rate, s), step in steps.items() if row == cell.label}
        winner, _ = chosen_by_rule(own, 6)
        jobs = compared(session, outcomes)[cell.label]
        assert [job.params["optimizer.lr"] for job in jobs] == [winner] * 6
        assert [job.seed for job in jobs] == [0, 1, 2, 3, 4, 5]
        assert all(outcomes[job.identity].status == "finished" for job in jobs)


def test_a_race_takes_far_fewer_runs_than_every_rate_on_every_seed(lab: Lab) -> None:
    lab.edit(**RACE)
    session = lab.session()
    outcomes = play(session, drawn(session, random.Random(1)), random.Random(1))
    assert 2 * 9 <= len(outcomes) <= 2 * 18 and session.planner.total() == len(outcomes)


def test_a_winner_at_an_edge_is_told_as_soon_as_it_has_won(lab: Lab) -> None:
    """In the plan and while the sweep runs, not only under the table."""
    lab.edit(**RACE)
    session = lab.session()
    best = dict(zip([cell.label for cell in session.cells], (8e-3, 4e-3), strict=True))
    steps = {
        (row, rate, seed): 200.0 * (1 + abs(math.log2(rate / best[row])))
        for row in best for rate in RATES for seed in range(6)
    }  # fmt: skip
    outcomes = play(session, steps, random.Random(0))
    (row, _), _ = best.items()
    said = f"Warning: {row} (optimizer.lr 0.008) was tuned to an edge of its values"
    told = [f"{said} (`widen: true` goes on)."]
    assert edge_notes(session.sweep, session.planner.jobs(outcomes)) == told
    assert [note for note in plan_notes(session, outcomes, {}, 1) if "edge" in note] == told
    assert not any("edge" in note for note in plan_notes(session, {}, {}, 1))
    shown = io.StringIO()
    view = View(session, Console(file=shown))
    for job in session.planner.jobs(outcomes):
        view.ended(job, outcomes[job.identity], trained=True)
    assert shown.getvalue().count("Warning") == 1 and told[0] in shown.getvalue()


def test_who_leads_at_an_edge_brings_one_more_into_the_race(lab: Lab) -> None:
    """The higher the rate, the sooner: each step past the edge starts at the first seed."""
    lab.edit(**RACE, widen=True)
    session = lab.session()
    rates = [*RATES, 1.6e-2, 3.2e-2, 6.4e-2]
    steps = {
        (cell.label, rate, seed): 1 / rate
        for cell in session.cells
        for rate in rates
        for seed in range(6)
    }
    outcomes = play(session, steps, random.Random(0))
    for jobs in compared(session, outcomes).values():
        assert {job.params["optimizer.lr"] for job in jobs} == {8e-3 * 2**MOST}
    (note, edge) = tuning_notes(session.sweep, session.planner.jobs(outcomes), outcomes)
    assert "No value solved" not in note
    assert "mean to 0.064" in note and "At an edge" in edge


def chosen_by_rule(times: Mapping[tuple[float, int], float], n_seeds: int) -> tuple[float, int]:
    """The race written out: who wins over so many seeds, and how many runs that takes."""
    racing, n_runs = list(RATES), 0
    mean: dict[float, float] = {}
    for k in range(1, n_seeds + 1):
        n_runs += len(racing)
        for rate in racing:
            mean[rate] = np.mean([math.log(min(LAST, times[rate, s])) for s in range(k)]).item()
        best = min(mean[rate] for rate in racing)
        racing = [rate for rate in racing if mean[rate] <= best + 0.6 / math.sqrt(k)]
        if len(racing) == 1:
            n_runs += n_seeds - k
            break
    return min(racing, key=lambda rate: mean[rate]), n_runs


@pytest.mark.parametrize(
    "luck", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in range(6, 12))]
)
def test_the_race_goes_on_over_further_seeds(lab: Lab, luck: int) -> None:
    """Rows that cannot be told apart go on until the last look, and so do all rates in reach."""
    lab.edit(**{**RACE, "seeds": [0, 1, 2]}, until_decided=6, margin=1.001)
    session = lab.session()
    draw = random.Random(luck)
    times = {
        (rate, seed): 300 * math.exp(draw.gauss(0, 0.2)) for rate in RATES for seed in range(6)
    }
    steps = {(cell.label, *at): time for cell in session.cells for at, time in times.items()}
    outcomes = play(session, steps, random.Random(luck))
    again = play(lab.session(), steps, random.Random(luck + 100), at_once=3)
    assert outcomes.keys() == again.keys()
    winner, n_runs = chosen_by_rule(times, 6)
    assert session.planner.total() == len(outcomes) == 2 * n_runs
    for jobs in compared(session, outcomes).values():
        assert sorted(job.seed for job in jobs) == [0, 1, 2, 3, 4, 5]
        assert {job.params["optimizer.lr"] for job in jobs} == {winner}


def test_a_row_is_planned_anew_only_when_a_run_of_it_has_ended(lab: Lab) -> None:
    """A coordinator of thousands of runs asks after each of them."""
    lab.edit(**RACE)
    session = lab.session()
    steps = drawn(session, random.Random(2))
    with patch.object(planner, "race_jobs", wraps=planner.race_jobs) as planned:
        outcomes = play(session, steps, random.Random(2))
    assert len(session.cells) <= planned.call_count <= len(session.cells) + len(outcomes)


def test_until_a_further_race_is_over_the_table_of_fewer_seeds_stands(lab: Lab) -> None:
    lab.edit(**{**RACE, "seeds": [0, 1, 2]}, until_decided=6, margin=1.001)
    session = lab.session()
    luck = random.Random(5)
    steps = {
        (cell.label, rate, seed): 300 * math.exp(luck.gauss(0, 0.2))
        for cell in session.cells
        for rate in RATES
        for seed in range(6)
    }
    outcomes = play(session, steps, random.Random(0))
    late = [run for run, one in outcomes.items() if one.record and run in _of_seeds(session, 4, 5)]
    early = {run: one for run, one in outcomes.items() if run not in late}
    jobs = session.planner.jobs(early)
    waiting = {job.identity for job in jobs if job.identity not in early}
    assert waiting and waiting <= set(late)
    found = compared(session, early)
    assert len(found) == 2
    first, *_ = tuning_notes(session.sweep, session.planner.jobs({}), {})
    assert "No value solved" not in first  # nothing has ended yet
    assert all(sorted(job.seed for job in own)[:3] == [0, 1, 2] for own in found.values())


def _of_seeds(session: Session, *seeds: int) -> set[str]:
    return {job.identity for job in session.planner._jobs.values() if job.seed in seeds}


def test_where_no_rate_solves_the_task_the_metric_decides_on_the_first_seed(lab: Lab) -> None:
    """Nothing is known of when; five further seeds of every rate would not tell."""
    lab.edit(**RACE)
    session = lab.session()

    def never(job: Job) -> Outcome:
        metrics = {METRIC.name: job.params["optimizer.lr"]}
        record = {"history": [[LAST, metrics]], "n_steps": LAST, "metrics": metrics}
        return Outcome("finished", record)

    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes |= {job.identity: never(job) for job in waiting}
    assert len(outcomes) == 2 * (4 + 5)
    for jobs in compared(session, outcomes).values():
        assert {job.params["optimizer.lr"] for job in jobs} == {8e-3}
    (note, *_) = tuning_notes(session.sweep, session.planner.jobs(outcomes), outcomes)
    assert note.endswith("No value solved the first seed in mean, gate: what had come furthest "
                         "there was taken, by one run.")  # fmt: skip


def ends(session: Session, of: Any) -> tuple[dict[str, Outcome], dict[str, set[float]]]:
    """Play a sweep of runs that use up their budget, `of(rate, seed)` a record; and who won."""
    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        for job in waiting:
            record = {"n_steps": LAST, **of(job.params["optimizer.lr"], job.seed)}
            outcomes[job.identity] = Outcome("finished", record)
    found = compared(session, outcomes)
    return outcomes, {row: {j.params["optimizer.lr"] for j in own} for row, own in found.items()}


def test_without_a_task_the_metric_races_within_its_own_bound(lab: Lab) -> None:
    """Against its table: 2e-3 leads on the first seed, 4e-3 over all; 8e-3 is out after one."""
    lab.edit(**{**RACE, **LOSS}, behind=0.01)
    session = lab.session()
    loss = {
        4e-3: [2.005, 1.990, 1.990, 1.990, 1.990, 1.990],
        2e-3: [2.000, 1.993, 1.993, 1.993, 1.993, 1.993],
        8e-3: [2.011, 1.000, 1.000, 1.000, 1.000, 1.000],
        1e-3: [2.008, 2.000, 2.000, 2.000, 2.000, 2.000],
    }

    def record(rate: float, seed: int) -> dict[str, Any]:
        metrics = {"val/loss": loss[rate][seed]}
        return {"history": [[LAST, metrics]], "metrics": metrics}

    outcomes, won = ends(session, record)
    assert set(map(frozenset, won.values())) == {frozenset({4e-3})} and len(won) == 2
    assert len(outcomes) == 2 * (6 + 6 + 1 + 2)  # 1e-3: 0.0075 behind after two, 0.007 allowed
    (note, *_) = tuning_notes(session.sweep, session.planner.jobs(outcomes), outcomes)
    assert "whose mean val/loss is over 0.01 / sqrt(k) behind the best" in note
    assert "mean: 0.004 (next 0.002, 0.00167 behind)" in note


def test_a_recall_task_without_a_stop_is_raced_by_when_it_was_learned(lab: Lab) -> None:
    """The table judges such rows by tokens to a level: 4e-3 ends lower here, but learned sooner."""
    lab.edit(**{**RACE, "stop": None, "pruner": {"name": "none"}})
    session = lab.session()

    def record(rate: float, seed: int) -> dict[str, Any]:
        step = {4e-3: 1000, 2e-3: 1200}.get(rate, LAST)
        high, low = {METRIC.name: 0.9 if rate == 4e-3 else 0.99}, {METRIC.name: 0.1}
        history = [[100, low], [step - 1, low], [step, high], [LAST + 1, high]]
        return {"history": history if step < LAST else [[LAST, low]], "metrics": high}

    _, won = ends(session, record)
    assert set(map(frozenset, won.values())) == {frozenset({4e-3})} and len(won) == 2


def test_a_rate_that_fails_is_out_and_a_lone_one_that_fails_is_told(lab: Lab) -> None:
    lab.edit(**RACE)
    session = lab.session()
    steps = drawn(session, random.Random(3))
    failed = Outcome("failed", {}, "nan", "loss is nan")

    def outcome(job: Job) -> Outcome:
        rate, row = job.params["optimizer.lr"], job.cell.label
        if row == "gate" or (rate == 4e-3 and job.seed == 1):
            return failed
        return ended(session, job, steps[row, rate, job.seed])

    outcomes: dict[str, Outcome] = {}
    while waiting := [j for j in session.planner.jobs(outcomes) if j.identity not in outcomes]:
        outcomes |= {job.identity: outcome(job) for job in waiting[:1]}
    left = compared(session, outcomes)
    assert set(left) == {"mean"}  # of the other row nothing finished, and nothing more is asked
    assert len([job for job in session.planner.jobs(outcomes) if job.cell.label == "gate"]) == 4
    assert {job.params["optimizer.lr"] for job in left["mean"]} != {4e-3}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sampler": {"name": "random"}}, "tuning: race needs search"),
        ({"search": {}}, "search"),
        ({"behind": 0.1}, "behind: is for tuning: race without a task"),
        ({"tuning": "one_seed", "behind": 0.1}, "behind: is for tuning: race"),
        (LOSS, "say with behind: how far behind the best, in its unit"),
    ],
)
def test_a_race_needs_named_values_and_a_task_or_a_bound(
    lab: Lab, wrong: dict[str, Any], said: str
) -> None:
    lab.edit(**{**RACE, **wrong})
    ended = lab.run("--plan")
    assert ended.code == 2
    assert said in " ".join(ended.err.split())


# --- how often it is wrong


def one_seed(landscape: Sequence[float], sd: float, luck: np.random.Generator) -> list[Run]:
    """A row's times on six seeds, at the rate that was the soonest on a seed of its own."""
    best = int(np.argmin(luck.normal(landscape, sd)))
    return ended_by(luck.normal(landscape[best], sd, 6))


def raced(
    landscape: Sequence[float], sd: float, luck: np.random.Generator, n_seeds: int = 6
) -> list[Run]:
    """The same at the rate that a race over those seeds leaves."""
    return race_to(math.inf, landscape, sd, luck, n_seeds)[0]


def race_to(
    end: float,
    landscape: Sequence[float],
    sd: float,
    luck: np.random.Generator,
    n_seeds: int = 6,
    beyond: Beyond = "told",
) -> tuple[list[Run], int]:
    """The runs that a race leaves where none goes on after `end`, and how many it took.

    `beyond` its end an unsolved run counts as its metric tells, as if all stood at the guess
    ("blind"), or not at all ("never", the rule before).
    """
    times = luck.normal(np.array(landscape)[:, None], sd, (len(landscape), n_seeds))
    if times[:, 0].min() > end:  # who is the nearest has the best metric, and no second look
        return ended_by(times[int(times[:, 0].argmin())], end), len(landscape) + n_seeds - 1
    late = {"told": np.minimum(times - end, UNBEGUN), "blind": UNBEGUN, "never": 0.0}[beyond]
    marks = np.where(times > end, end + late, times) if math.isfinite(end) else times
    racing, n_runs = list(range(len(landscape))), 0
    for k in range(1, n_seeds + 1):
        n_runs += len(racing)
        standings = [
            Standing(int((times[rate, :k] > end).sum()), float(marks[rate, :k].mean()))
            for rate in racing
        ]
        racing = [racing[n] for n in still_racing(standings, k)]
    return ended_by(times[racing[0]], end), n_runs


def ended_by(log_times: np.ndarray, end: float = math.inf) -> list[Run]:
    """The runs whose log times to a solution these are, where all end at `end`."""
    return [Run(math.exp(min(time, end)), bool(time <= end)) for time in log_times]


def table_of(rows: Sequence[Sequence[Run]], looks: Looks | None = None) -> list[Comparison]:
    """The comparisons of a table of these rows, whose runs are in the order of their seeds."""
    runs = {str(n): dict(enumerate(row)) for n, row in enumerate(rows)}
    return [one.comparison for one in compare_times(runs, "0", looks=looks)]


def told_apart(tuned: Any, landscape: Sequence[float], sd: float, n: int) -> float:
    """How often two equal rows are told apart at 5 %; variance from them and 30 degrees more."""
    luck = np.random.default_rng(0)
    found = 0
    for _ in range(n):
        a, b = (np.log([run.time for run in tuned(landscape, sd, luck)]) for _ in range(2))
        variance = (5 * a.var(ddof=1) + 5 * b.var(ddof=1) + 30 * sd**2) / 40
        found += abs(a.mean() - b.mean()) / math.sqrt(variance / 3) > CRITICAL
    return found / n


CRITICAL = float(student.ppf(0.975, 40))
LANDSCAPES: list[list[float]] = [  # log times of four rates over the best's; 9: never solves
    [0, 9, 9, 9],
    [0, 0, 9, 9],
    [0, 0.3, 0.3, 9],
    [0, 0.15, 0.25, 0.7],
    [0, 0.4, 0.4, 0.4],
]
UNLIKE: list[list[float]] = [[0, 9, 9, 9], [0, 0, 0, 9], [0, 0.15, 0.25, 0.7], [0, 0.3, 0.3, 9]]


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.15, 0.28])  # least and most of a row that solves, at nano
@pytest.mark.parametrize("landscape", LANDSCAPES[2:4])
def test_equal_rows_are_rarely_told_apart_after_a_race(landscape: list[float], sd: float) -> None:
    """At most 5.5 %, known to 0.8 points by 800 pairs; the campaign below tries all landscapes."""
    assert told_apart(raced, landscape, sd, 800) <= 0.055 + 2.3 * math.sqrt(0.055 * 0.945 / 800)


def test_equal_rows_are_often_told_apart_where_one_run_chose_their_rates() -> None:
    """What the race is for: a fifth of the pairs and more, where a twentieth was promised."""
    assert told_apart(one_seed, [0, 0.15, 0.25, 0.7], 0.15, 800) > 0.18
    assert told_apart(one_seed, [0, 0.4, 0.4, 0.4], 0.28, 800) > 0.25


@pytest.mark.campaign
@pytest.mark.slow
def test_every_rate_of_error() -> None:
    """The figures of docs/how_a_verdict_is_made.md; -s prints them."""
    for landscape, sd in product(LANDSCAPES, (0.15, 0.28)):
        once, race = (told_apart(row, landscape, sd, 4000) for row in (one_seed, raced))
        print(
            f"{landscape}, sd {sd}: two rows told apart after one run {once:.3f}, a race {race:.3f}"
        )
        assert race <= 0.055 + 2.3 * math.sqrt(0.055 * 0.945 / 4000)
    later = [*[LANDSCAPES[3]] * 3, [time + math.log(1.3) for time in LANDSCAPES[3]]]
    for tuned, sd in product((one_seed, raced), (0.15, 0.28)):
        luck, n = np.random.default_rng(1), 500
        tables = [table_of([tuned(row, sd, luck) for row in UNLIKE]) for _ in range(n)]
        wrong = sum(any(one.kind in ("better", "worse") for one in found) for found in tables)
        held = sum(all(one.low <= 1 <= one.high for one in found) for found in tables)
        found = sum(
            table_of([tuned(row, sd, luck) for row in later])[2].kind == "worse" for _ in range(n)
        )
        print(f"{tuned.__name__}, sd {sd}, tables of four rows: rows of unlike landscapes told ")
        print(f"  apart {wrong / n:.3f}, intervals hold {held / n:.3f}; 1.3 times {found / n:.3f}")
        if tuned is raced:
            assert wrong / n <= 0.055 + 2.3 * math.sqrt(0.055 * 0.945 / n)
            assert held / n >= 0.94 - 2.3 * math.sqrt(0.06 * 0.94 / n)


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.28, 0.45])  # at the budget's end rows spread more
@pytest.mark.parametrize("end", [0.5, 0.25, 0.1, 0.0, -0.25])
@pytest.mark.parametrize("beyond", ["told", "blind", "never"])
def test_rows_that_often_end_unsolved_are_rarely_told_apart_after_a_race(
    beyond: Beyond, end: float, sd: float
) -> None:
    """Whole tables of four equal rows whose budget ends near where their best rates solve."""
    luck, n = np.random.default_rng(2), 1500
    rows = [[race_to(end, row, sd, luck, beyond=beyond) for row in UNLIKE] for _ in range(n)]
    found = [table_of([runs for runs, _ in table]) for table in rows]
    wrong = sum(any(one.kind in ("better", "worse") for one in table) for table in found) / n
    solved = np.mean([run.solved for table in rows for runs, _ in table for run in runs])
    n_runs = np.mean([took for table in rows for _, took in table])
    said = f"budget {math.exp(end):.2f} of the best rate's time, sd {sd}, beyond it {beyond}"
    print(f"{said}: told apart {wrong:.3f}, solved {solved:.2f}, runs a row {n_runs:.1f}")
    assert wrong <= 0.055 + 2.3 * math.sqrt(0.055 * 0.945 / n)


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(6, 12), (6, 12, 24)])
@pytest.mark.parametrize("sd", [0.15, 0.28])
def test_looks_after_a_race_that_goes_on_hold_their_level(
    sd: float, sizes: tuple[int, ...]
) -> None:
    """Whole tables of four equal rows with unlike landscapes, looked at two and three times."""
    luck, n, looks = np.random.default_rng(1), 1000, Looks(tuple(range(24)), sizes)
    tables = [
        table_of([raced(row, sd, luck, sizes[-1]) for row in UNLIKE], looks) for _ in range(n)
    ]
    wrong = sum(any(one.kind in ("better", "worse") for one in found) for found in tables) / n
    held = sum(all(one.low <= 1 <= one.high for one in found) for found in tables) / n
    print(f"sd {sd}, looks at {sizes}: told apart {wrong:.3f}, intervals hold {held:.3f}")
    assert wrong <= 0.055 + 2.3 * math.sqrt(0.055 * 0.945 / n)


def test_the_bound_of_the_first_seed_is_what_gives_a_run_up() -> None:
    def standing(*means: float) -> list[Standing]:
        return [Standing(0, mean) for mean in means]

    assert still_racing(standing(0, BEHIND - 1e-9, BEHIND + 1e-9), 1) == [0, 1]
    assert still_racing(standing(BEHIND / 2 + 1e-9, BEHIND / 2 - 1e-9, 0), 4) == [2, 1]
    assert still_racing(standing(math.inf, math.inf), 1) == []


def test_who_has_solved_two_seeds_fewer_is_given_up(lab: Lab) -> None:
    """Where solving takes most of the budget means are close: an end counts as solved there."""
    lab.edit(**RACE)
    session = lab.session()
    steps = {
        (cell.label, rate, seed): 0.9 * LAST if rate == RATES[0] else math.inf
        for cell in session.cells for rate in RATES for seed in range(6)
    }  # fmt: skip
    steps |= {(cell.label, RATES[1], 0): 0.9 * LAST for cell in session.cells}
    outcomes = play(session, steps, random.Random(0))
    jobs = session.planner.jobs(outcomes)
    for cell in session.cells:
        seeds = {
            rate: sum(job.cell is cell and job.params["optimizer.lr"] == rate for job in jobs)
            for rate in RATES
        }
        assert seeds == {RATES[0]: 6, RATES[1]: 3, RATES[2]: 2, RATES[3]: 2}


def test_who_has_learned_nothing_is_behind_who_was_nearly_there(lab: Lab) -> None:
    """At the end of its budget: where another one has solved it is out after the first seed."""
    lab.edit(**RACE)
    session = lab.session()
    race, job = race_of(session.sweep), session.planner.jobs({})[0]
    marks = [
        race.standing([(job, ended(session, job, math.inf, value))]).mean
        for value in (0.8999, (0.9 + race.guess) / 2, race.guess, 0.0, math.nan)
    ]
    end = marks[-1]  # a metric that is not there tells nothing
    assert marks[0] == pytest.approx(end, abs=1e-3)
    assert marks[1] == pytest.approx(end + UNBEGUN / 2)
    assert marks[2] == marks[3] == pytest.approx(end + UNBEGUN)
    others = [Standing(0, end - 1e-3), Standing(1, marks[1]), Standing(1, marks[2])]
    assert still_racing(others, 1) == [0, 1]


def test_who_solves_oftener_is_not_given_up_for_an_early_end(lab: Lab) -> None:
    """A run that ended unsolved counts as solved at its end: its mean may be the smaller one."""
    lab.edit(**RACE)
    session = lab.session()
    label = session.cells[0].label
    steps = {
        (cell.label, rate, seed): math.inf
        for cell in session.cells for rate in RATES for seed in range(6)
    }  # fmt: skip
    steps |= {(cell.label, RATES[-1], s): 100.0 for cell in session.cells for s in range(6)}
    steady, moody = RATES[0], RATES[1]
    steps |= {(label, steady, seed): 0.9 * LAST for seed in range(6)}
    steps |= {(label, moody, seed): 0.55 * LAST for seed in range(6)}
    steps |= {(label, moody, 1): math.inf} | {(label, RATES[-1], s): math.inf for s in range(6)}
    outcomes = play(session, steps, random.Random(0))
    jobs = compared(session, outcomes)[label]
    assert {job.params["optimizer.lr"] for job in jobs} == {steady}
    assert pytest.approx(math.exp(BEHIND)) == GIVEN_UP_AT


# --- with real training


@pytest.mark.slow
def test_the_command_races_and_tells_its_winners_apart_in_the_store(lab: Lab) -> None:
    """Two rates, two seeds; whatever they do, one run a seed is compared and the table stands."""
    lab.edit(
        **{
            **RACE,
            "stop": {"metric": METRIC.name, "at": 0.02},
            "search": {"optimizer.lr": {"choices": [1e-3, 2e-3]}},
            "trials_per_cell": 2,
            "seeds": [0, 1],
        }
    )
    done = lab.run("--out", str(lab.folder / "results"))
    assert done.code == 0, done.err
    kept = lab.folder / "results" / "sweep-tiny"
    assert "Tuned alike, by a race: 2 values of optimizer.lr" in (kept / "table.md").read_text()
    own = pd.read_csv(kept / "runs.csv")
    assert own.groupby("row")["seed"].apply(list).to_dict() == {"gate": [0, 1], "mean": [0, 1]}
    store = Store(default_uri(lab.folder), lab.folder)
    found = export_texts(store, store.sweeps()["sweep-tiny"], "sweep-tiny")
    assert set(pd.read_csv(io.StringIO(found["runs.csv"]))["identity"]) == set(own["identity"])
    (study,) = optuna.get_all_study_names(
        f"sqlite:///{lab.folder}/runs/sweeps/sweep-tiny/optuna.db"
    )
    assert study == "sweep-tiny"  # every run is a trial of one study
    assert lab.run().code == 0  # again: nothing is trained, nothing told otherwise


def test_a_value_past_the_edge_meets_every_seed_once(lab: Lab) -> None:
    """The trial that asked whether its field takes it was once handed out for another seed's."""
    lab.edit(**RACE, widen=True)
    session = lab.session()
    time = dict.fromkeys(RATES, 4000) | {8e-3: 400, 1.6e-2: 440}
    steps = {
        (cell.label, rate, seed): float(step)
        for cell, (rate, step), seed in product(session.cells, time.items(), range(6))
    }
    jobs = session.planner.jobs(play(session, steps, random.Random(0)))
    for cell in session.cells:
        own = [job for job in jobs if job.cell.label == cell.label]
        further = [job.seed for job in own if job.params["optimizer.lr"] == 1.6e-2]
        assert sorted(further) == [0, 1, 2, 3, 4, 5]
        assert {job.params["optimizer.lr"] for job in own if job.stage == "seed"} == {8e-3}
    assert len({job.identity for job in jobs}) == len(jobs)
