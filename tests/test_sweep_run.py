"""A sweep from the file to the table: shared and finished runs, pruning, every way to fail."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import ROOT
from sweeping import N_JOBS, SEARCH, SWEEP, Ended, Inline, Lab

from hymba_lab.commands import status
from hymba_lab.errors import StoreError
from hymba_lab.ops.status import chosen
from hymba_lab.processes.calls import ProcessEnded
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lease import Lease, clear, take
from hymba_lab.runs.tracking import IDENTITY, ROLE, SHARED_FROM
from hymba_lab.sweep.trial import run_trial


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path).with_store()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Ended]:
    """A finished sweep; tests read it, or copy it first."""
    lab = Lab(tmp_path_factory.mktemp("done"), SWEEP + SEARCH).with_store()
    return lab, lab.run()


TUNE_SEED = 1000  # by default


def no_launcher(*facts: Any) -> Inline:
    raise AssertionError("nothing was to be trained")


def runs(lab: Lab, name: str = "sweep-tiny") -> list[Any]:
    """The trial runs of an experiment."""
    store = lab.store()
    found = store.client.search_runs([store.experiment(name)], f"tags.`{ROLE}` = 'trial'")
    return list(found)


def statuses(lab: Lab, name: str = "sweep-tiny") -> dict[str, list[str]]:
    """Status by run name; several where a run was logged twice."""
    found: dict[str, list[str]] = {}
    for run in runs(lab, name):
        found.setdefault(run.info.run_name, []).append(run.info.status)
    return found


def parent(lab: Lab, name: str = "sweep-tiny") -> Any:
    store = lab.store()
    (run,) = store.client.search_runs([store.experiment(name)], f"tags.`{ROLE}` = 'sweep'")
    return run


def table(lab: Lab, name: str = "sweep-tiny") -> dict[str, dict[str, str]]:
    """Row -> column -> text of table.csv."""
    return {
        line["row"]: line for line in csv.DictReader(lab.report("table.csv", name).splitlines())
    }


def trials(lab: Lab, name: str = "sweep-tiny") -> list[optuna.trial.FrozenTrial]:
    """Of both studies: what was tuned, and the compared seeds."""
    url = f"sqlite:///{lab.folder}/runs/sweeps/{name}/optuna.db"
    known = optuna.get_all_study_names(storage=url)
    assert set(known) <= {name, f"{name} seeds"}
    return [t for own in known for t in optuna.load_study(study_name=own, storage=url).trials]


# --- the whole way


def test_a_sweep_ends_with_its_table(done: tuple[Lab, Ended]) -> None:
    lab, ended = done
    assert (ended.code, ended.err) == (0, "")
    assert "Does a gate recall more than the mean?" in ended.out
    assert set(table(lab)) == {"mean", "gate"}
    frame = list(csv.DictReader(lab.report("runs.csv").splitlines()))
    assert [(run["row"], run["seed"]) for run in frame] == [
        ("mean", "0"), ("mean", "1"), ("gate", "0"), ("gate", "1"),
    ]  # fmt: skip
    accuracy = [float(run["val/recall_accuracy"]) for run in frame if run["row"] == "mean"]
    assert float(table(lab)["mean"]["mean"]) == pytest.approx(sum(accuracy) / 2)
    for text in (lab.report("table.md"), lab.report("table.tex")):
        assert "gate" in text
    assert "Tuned alike: 2 trials of optimizer.lr per row on seed 1000" in lab.report("table.md")
    assert json.loads(lab.report("sweep.resolved.json"))["sweep"]["trials_per_cell"] == 2


def test_mlflow_holds_one_closed_run_per_identity(done: tuple[Lab, Ended]) -> None:
    lab, _ = done
    found = runs(lab)
    results = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
    records = {record["identity"]: record for record in results}
    assert sorted(run.data.tags[IDENTITY] for run in found) == sorted(records)
    assert len(found) == N_JOBS
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        record = records[run.data.tags[IDENTITY]]
        assert run.data.metrics["val/loss"] == record["metrics"]["val/loss"]
        assert run.data.params["row"] == run.data.tags["hymba_lab.cell"]
        assert run.data.params["optimizer.lr"] == str(record["config"]["optimizer"]["lr"])
        assert run.data.tags["hymba_lab.digest"] == record["digest"]
        assert run.data.tags["hymba_lab.scan_backend"] == chosen()["scan_backend"]
        assert run.data.tags["hymba_lab.attention_backend"] == record["attention_backend"]
        assert run.data.tags["mlflow.parentRunId"] == parent(lab).info.run_id
        assert SHARED_FROM not in run.data.tags


def test_the_parent_run_holds_question_file_and_answer(done: tuple[Lab, Ended]) -> None:
    lab, _ = done
    run = parent(lab)
    assert run.info.status == "FINISHED"
    note = run.data.tags["mlflow.note.content"]
    assert "Does a gate recall more" in note and "**Answer.** By" in note and "| gate |" in note
    assert "| gate" in run.data.tags["hymba_lab.answer"]
    line = table(lab)["gate"]
    assert run.data.tags["verdict.gate"] == line["verdict"]
    assert run.data.tags["verdict.baseline"] == "mean"
    metrics = run.data.metrics
    assert metrics["verdict/gate/seeds"] == 2
    known = math.isfinite(float(line["effect"] or "nan"))
    assert ("verdict/gate/effect" in metrics) == known  # what is unknown is left out
    assert sum(n for key, n in metrics.items() if key.startswith("verdicts/")) == 1
    experiment = lab.store().client.get_experiment(run.info.experiment_id)
    assert "Does a gate recall more" in experiment.tags["mlflow.note.content"]
    assert "tags.`hymba_lab.stage` = 'seed'" in experiment.tags["mlflow.note.content"]
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    files = {file.path for file in lab.store().client.list_artifacts(run.info.run_id)}
    assert files >= {"table.md", "table.csv", "table.tex", "runs.csv", "sweep.resolved.json"}


def test_the_sweep_names_the_page_that_shows_its_runs(done: tuple[Lab, Ended]) -> None:
    lab, ended = done
    experiment = lab.store().experiment("sweep-tiny")
    assert f"http://127.0.0.1:5000/#/experiments/{experiment}/runs" in ended.out


def test_optuna_holds_every_cell_as_trials(done: tuple[Lab, Ended]) -> None:
    found = trials(done[0])
    assert len(found) == len({trial.user_attrs["run"]["identity"] for trial in found}) == N_JOBS
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    assert {trial.params["fusion"] for trial in found} == {"mean", "gate"}
    url = f"sqlite:///{done[0].folder}/runs/sweeps/sweep-tiny/optuna.db"
    for name, seeds in (("sweep-tiny", {TUNE_SEED}), ("sweep-tiny seeds", {0, 1})):
        own = optuna.load_study(study_name=name, storage=url).trials
        assert {trial.user_attrs["run"]["seed"] for trial in own} == seeds


def test_the_same_sweep_again_trains_nothing(done: tuple[Lab, Ended]) -> None:
    lab, _ = done
    before, answer = lab.results(), lab.report("table.csv")
    again = lab.run(launcher=no_launcher)
    assert (again.code, again.err) == (0, "")
    assert "all 8 runs are finished; nothing to train" in again.out
    assert lab.results() == before
    assert lab.report("table.csv") == answer
    assert len(runs(lab)) == len(trials(lab)) == N_JOBS


def test_the_plan_reads_finished_runs_and_trains_nothing(done: tuple[Lab, Ended]) -> None:
    lab, _ = done
    plan = lab.run("--plan", launcher=no_launcher)
    assert plan.code == 0
    assert "8 runs (2 rows x (2 tuning trials + 2 seeds)), 8 finished." in plan.out
    assert "Warning: 2 seeds give no verdict; plan at least 3." in plan.out


@pytest.mark.slow
def test_lost_stores_are_filled_from_the_folders(done: tuple[Lab, Ended]) -> None:
    lab, _ = done
    answer = lab.report("table.csv")
    (lab.folder / "runs" / "sweeps" / "sweep-tiny" / "optuna.db").unlink()
    lab.edit(seeds=[0, 1])  # the same in another spelling
    ended = lab.run("--tracking-uri", other_store(lab), "--out", str(lab.folder / "results"))
    assert (ended.code, ended.err) == (0, "")
    assert len(trials(lab)) == N_JOBS
    assert lab.report("table.csv") == answer
    assert (lab.folder / "results" / "sweep-tiny" / "table.csv").read_text() == answer


def other_store(lab: Lab) -> str:
    elsewhere = lab.folder / "elsewhere"
    elsewhere.mkdir()
    Lab(elsewhere).with_store()
    return f"sqlite:///{elsewhere}/mlflow.db"


# --- sharing


@pytest.mark.slow
def test_sweeps_that_share_cells_share_their_runs(lab: Lab) -> None:
    assert lab.run("--set", "seeds=[0]").code == 0
    before = lab.results()
    third = SWEEP.replace("    gate", "    sum: {model.fusion: {name: sum}}\n    gate")
    lab.write("other.yaml", third)
    ended = lab.run("--set", "seeds=[0]", name="other.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert "2 runs finished before, 1 to go" in ended.out
    after = lab.results()
    assert len(after) == 3
    assert before.items() <= after.items()
    shared = {run.info.run_name: run.data.tags.get(SHARED_FROM) for run in runs(lab, "other-tiny")}
    first = {run.info.run_name: run.info.run_id for run in runs(lab)}
    assert shared == {**first, "sum, seed 0": None}


@pytest.mark.slow
def test_a_sweep_whose_runs_others_have_trained_knows_that_it_is_done(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.run("--set", "seeds=[0]").code == 0
    lab.write("twin.yaml", SWEEP)
    twin = lab.run("--set", "seeds=[0]", name="twin.yaml", launcher=no_launcher)
    assert (twin.code, twin.err) == (0, "")
    assert status.main(["twin", "--root", str(lab.folder)]) == 0
    said = capsys.readouterr().out
    assert "twin-tiny: 2 of 2 runs done, 0 failed" in said
    assert "the same sweep command writes its table anew" in said


@pytest.mark.slow
def test_an_axis_may_grow(lab: Lab) -> None:
    """Optuna refuses other choices in one study; the study is a record and is made anew."""
    assert lab.run("--set", "seeds=[0]").code == 0
    lab.write("sweep.yaml", SWEEP + "    concat: {model.fusion: {name: concat}}\n")
    ended = lab.run("--set", "seeds=[0]")
    assert (ended.code, ended.err) == (0, "")
    assert "2 runs finished before, 1 to go" in ended.out
    assert [trial.params["fusion"] for trial in trials(lab)] == ["mean", "gate", "concat"]


@pytest.mark.parametrize("file", ["result.json", "failure.json"])
def test_a_worker_that_waited_takes_what_the_other_left(
    done: tuple[Lab, Ended], tmp_path: Path, file: str
) -> None:
    """The other process holds the run's lock; ours must not train it again, done or failed."""
    task = tasks(done[0])[0]
    task = type(task)(**{**vars(task), "root": str(tmp_path)})
    source = RunFolder(done[0].folder, task.identity)
    folder = RunFolder(tmp_path, task.identity)
    folder.path.mkdir(parents=True)
    ended: list[str] = []
    with folder.locked():
        worker = threading.Thread(target=lambda: ended.append(run_trial(task)))
        worker.start()
        worker.join(timeout=0.5)
        assert worker.is_alive()
        if file == "result.json":
            (folder.path / file).write_text((source.path / file).read_text())
        else:
            folder.fail("nan", "diverged")
    worker.join(timeout=60)
    assert ended == ["finished" if file == "result.json" else "failed"]
    left = {"result.json"} if file == "result.json" else {"failure.json", "endings.json"}
    assert {path.name for path in folder.path.iterdir()} == left
    assert sum(folder.endings.values()) == len(left) - 1  # the other's alone


def tasks(lab: Lab) -> list[Any]:
    """The tasks that a sweep would hand to its workers."""
    from hymba_lab.sweep.observers.mirror import Mirror

    session = lab.session()
    mirror = Mirror(session, None, 1)
    made = [mirror.task(job, None) for job in session.planner.jobs({})]
    mirror.parent.end()
    return made


# --- pruning


@pytest.mark.slow
def test_a_pruned_trial_is_marked_and_never_compared(lab: Lab) -> None:
    """The second learning rate stands still: worse than the first at the first validation."""
    lab.edit(
        metric={"name": "val/loss", "goal": "minimize"},
        seeds=[0],
        search={"optimizer.lr": {"choices": [1.0e-2, 1.0e-5]}},
        sampler={"name": "grid", "n_startup_trials": 1, "lag": 1},
        trials_per_cell=2,
        pruner={"name": "median", "n_startup_trials": 1},
    )
    ended = lab.run()
    assert (ended.code, ended.err) == (0, "")
    pruned = {"mean, trial 1", "gate, trial 1"}
    marked = {
        run.info.run_name for run in runs(lab) if run.data.tags.get("hymba_lab.status") == "pruned"
    }
    assert marked == pruned
    assert {run.info.status for run in runs(lab)} == {"FINISHED"}
    states = {(t.params["fusion"], t.user_attrs["run"]["seed"], t.state.name) for t in trials(lab)}
    assert {("mean", TUNE_SEED, "PRUNED"), ("mean", TUNE_SEED, "COMPLETE")} <= states
    records = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
    assert sorted(record["n_steps"] for record in records) == [5, 5, 10, 10, 10, 10]
    frame = list(csv.DictReader(lab.report("runs.csv").splitlines()))
    assert {run["optimizer.lr"] for run in frame} == {"0.01"}
    assert {run["status"] for run in frame} == {"finished"}
    assert "nothing to train" in lab.run(launcher=no_launcher).out

    lab.edit(pruner={"name": "none"})  # what was given up is now trained to its end
    before, launcher = lab.results(), Inline()
    assert lab.run(launcher=lambda *facts: launcher).code == 0
    assert launcher.n == 2
    records = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
    assert {(record["n_steps"], record["stopped_by"]) for record in records} == {(10, None)}
    changed = {name for name, when in lab.results().items() if before[name] != when}
    assert len(changed) == 2


# --- failures

LEARNING_RATES = {"calm": {"optimizer.lr": 3e-3}, "wild": {"optimizer.lr": 1e30}}


@pytest.mark.slow
def test_a_diverged_row_stays_in_the_table_and_is_not_tried_again(lab: Lab) -> None:
    lab.edit(axes={"rate": LEARNING_RATES}, seeds=[0])
    ended = lab.run()
    assert (ended.code, ended.err) == (1, "")
    assert "wild, seed 0: failed (nan): step " in ended.out
    assert statuses(lab) == {"calm, seed 0": ["FINISHED"], "wild, seed 0": ["FAILED"]}
    assert table(lab)["wild"]["mean"] == ""
    assert float(table(lab)["calm"]["mean"]) >= 0
    assert "Not measured, wild: 1 of 1 seeds (seed 0 failed: nan)" in lab.report("table.md")
    wild = [line for line in lab.report("table.md").splitlines() if line.startswith("| wild")]
    assert "—" in wild[0]
    failed = [run for run in runs(lab) if run.info.status == "FAILED"]
    assert all(run.data.tags["hymba_lab.failure"].startswith("nan: step ") for run in failed)

    again = lab.run(launcher=no_launcher)
    assert again.code == 1
    launcher = Inline()
    retried = lab.run("--retry-failed", launcher=lambda *facts: launcher)
    assert (retried.code, launcher.n) == (1, 1)
    assert sum(map(len, statuses(lab).values())) == 2


@pytest.mark.slow
def test_a_row_whose_tuning_failed_is_reported(lab: Lab) -> None:
    lab.edit(
        axes={"rate": {"calm": {"optimizer.eps": 1e-8}, "other": {"optimizer.eps": 1e-6}}},
        search={"optimizer.lr": {"choices": [1e30]}},
        sampler={"name": "grid"},
        trials_per_cell=1,
    )
    ended = lab.run()
    assert (ended.code, ended.err) == (1, "")
    assert table(lab)["calm"]["mean"] == table(lab)["other"]["mean"] == ""
    assert "missing: no tuning trial finished: nan" in lab.report("table.md")


def dying(times: int, error: Callable[[], Exception]) -> type[Inline]:
    """A launcher whose workers for the row gate end with `error` the first `times` times."""

    class Dying(Inline):
        asked = 0

        def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
            if task.tags["hymba_lab.cell"] != "gate" or Dying.asked >= times:
                return super().submit(function, task)
            Dying.asked += 1
            future: Future[str] = Future()
            future.set_exception(error())
            return future

    return Dying


def killed() -> Exception:
    return ProcessEnded(-signal.SIGKILL)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (killed, "crash"),
        pytest.param(TimeoutError, "timeout", marks=pytest.mark.slow),
        (MemoryError, "out_of_memory"),
    ],
)
def test_a_crash_is_retried_and_costs_one_trial(
    lab: Lab, error: Callable[[], Exception], reason: str
) -> None:
    always = dying(99, error)
    ended = lab.run("--set", "seeds=[0]", launcher=always)
    assert (ended.code, ended.err) == (1, "")
    assert always.asked == 2  # once, and one retry
    assert statuses(lab) == {"mean, seed 0": ["FINISHED"], "gate, seed 0": ["FAILED"]}
    assert f"seed 0 failed: {reason}" in lab.report("table.md")
    assert trials(lab)[-1].user_attrs["run"]["reason"] == reason
    (failure,) = lab.folder.glob("runs/*/failure.json")
    assert json.loads(failure.read_text())["attempts"] == 2

    mended = lab.run("--set", "seeds=[0]")  # the same command tries it again
    assert (mended.code, mended.err) == (0, "")
    assert statuses(lab) == {"mean, seed 0": ["FINISHED"], "gate, seed 0": ["FINISHED"]}
    assert not failure.exists()


@pytest.mark.slow
def test_one_crash_within_the_retries_leaves_no_trace(lab: Lab) -> None:
    ended = lab.run("--set", "seeds=[0]", launcher=dying(1, killed))
    assert (ended.code, ended.err) == (0, "")
    assert statuses(lab) == {"mean, seed 0": ["FINISHED"], "gate, seed 0": ["FINISHED"]}


@pytest.mark.slow
def test_retries_are_counted(lab: Lab) -> None:
    three = dying(99, killed)
    assert lab.run("--set", "seeds=[0]", "--set", "retries=3", launcher=three).code == 1
    assert three.asked == 4


@pytest.mark.slow
def test_a_run_that_another_process_has_taken_is_left_to_it_and_is_no_failure(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit passes while another process holds the run; when that ends, ours goes on."""
    monkeypatch.setattr("hymba_lab.sweep.coordinator._RELEASE_S", 0.05)
    monkeypatch.setattr("hymba_lab.sweep.coordinator._ELSEWHERE_S", 0.1)
    monkeypatch.setattr(  # asked after it was seen how the attempt ended
        "hymba_lab.sweep.coordinator.Coordinator._renew",
        lambda _: [lease.release() for lease in held],
    )

    held: list[Lease] = []

    class Taken(Inline):
        asked = 0

        def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
            if task.tags["hymba_lab.cell"] != "mean":
                return super().submit(function, task)
            Taken.asked += 1
            if Taken.asked > 1:
                return super().submit(function, task)
            clear(Path(task.folder), task.claim)
            other = take(Path(task.folder))
            assert other is not None
            held.append(other)
            future: Future[str] = Future()
            future.set_exception(TimeoutError())
            return future

    ended = lab.run("--set", "seeds=[0]", "--set", "retries=0", launcher=Taken)
    assert (ended.code, ended.err) == (0, "")
    assert Taken.asked == 2
    assert "failed" not in ended.out
    assert not list(lab.folder.glob("runs/*/failure.json"))


BROKEN = """\
import torch
from torch import nn
from hymba_lab.components.fusion import fusions

@fusions.register("greedy")
class Greedy(nn.Module):
    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()
        self.join = nn.Linear(d_attn, d_model)

    def forward(self, a, s):
        if not a.is_meta:
            raise MemoryError("512 GB wanted")
        return self.join(a + s)
"""


@pytest.mark.slow
def test_a_component_that_runs_out_of_memory_fails_its_row_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.folder)
    lab.write("greedy.py", BROKEN)
    lab.write("tiny.yaml", "plugins: [greedy.py]\n" + (lab.folder / "tiny.yaml").read_text())
    lab.write("sweep.yaml", SWEEP + "    greedy: {model.fusion: {name: greedy}}\n")
    ended = lab.run("--set", "seeds=[0]", "--out", "out")
    assert (ended.code, ended.err) == (1, "")
    (exported,) = Path("out").glob("*/sweep.resolved.json")
    assert json.loads(exported.read_text())["base"]["plugins"] == ["greedy.py"]
    assert statuses(lab) == {
        "mean, seed 0": ["FINISHED"], "gate, seed 0": ["FINISHED"], "greedy, seed 0": ["FAILED"],
    }  # fmt: skip
    assert "greedy, seed 0: failed (out_of_memory): 512 GB wanted; try fewer rows" in ended.out


@pytest.mark.slow
def test_data_that_vanished_is_a_reason_and_mending_it_is_enough(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(lab.folder / "cache"))
    text = lab.write("mine.txt", "to be or not to be, that is the question\n" * 50)
    base = (lab.folder / "tiny.yaml").read_text()
    recall = next(line for line in base.splitlines() if line.startswith("  recall:"))
    mine = f"  recall: {{name: files, rows: 4, paths: ['{text}'], n_val: 4}}"
    lab.write("tiny.yaml", base.replace(recall, mine))
    lab.edit(metric={"name": "val/loss", "goal": "minimize"}, seeds=[0])

    class Vanishing(Inline):
        def __init__(self, *facts: Any) -> None:
            super().__init__()
            text.rename(lab.folder / "gone.txt")

    ended = lab.run(launcher=Vanishing)
    assert (ended.code, ended.err) == (1, "")
    assert "mean, seed 0: failed (data): resolved configuration: files.paths[0]: " in ended.out
    (lab.folder / "gone.txt").rename(text)
    mended = lab.run()
    assert (mended.code, mended.err) == (0, "")


@pytest.mark.slow
def test_ctrl_c_closes_what_is_open_and_the_same_command_goes_on(lab: Lab) -> None:
    class Interrupted(Inline):
        def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
            if self.n == 1:
                raise KeyboardInterrupt
            return super().submit(function, task)

    ended = lab.run("--set", "seeds=[0]", launcher=Interrupted)
    assert (ended.code, ended.err) == (130, "stopped; the same command goes on from here.\n")
    assert parent(lab).info.status == "KILLED"
    before = lab.results()
    assert len(before) == 1
    assert lab.run("--set", "seeds=[0]").code == 0
    assert parent(lab).info.status == "FINISHED"
    assert before.items() <= lab.results().items()


# --- design: search


def searching(lab: Lab, rate: float) -> Ended:
    lab.edit(
        design="search", n_trials=3, seeds=[0], search={"optimizer.lr": {"choices": [rate]}},
        axes={
            "placement": {
                "full": {"model.placement": {"name": "all_full"}},
                "window": {"model.placement": {"name": "all_window", "window": 4}},
            }
        },
        objectives=[
            {"name": "val/loss", "goal": "minimize"},
            {"name": "cost/cache_bytes", "goal": "minimize"},
        ],
    )  # fmt: skip
    return lab.run()


@pytest.mark.slow
def test_a_search_ends_with_the_front_it_found(lab: Lab) -> None:
    ended = searching(lab, 3e-3)
    assert (ended.code, ended.err) == (0, "")
    found = {tuple(trial.values) for trial in trials(lab)}
    assert {len(values) for values in found} == {2}
    front = [one for one in found if not any(dominates(other, one) for other in found)]
    assert len(table(lab)) == len(front) > 0
    assert set(table(lab)) <= {"full lr=0.003", "window lr=0.003"}


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is better in something and in nothing worse; less is better in all of it."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_a_search_in_which_everything_failed_has_an_empty_table(lab: Lab) -> None:
    ended = searching(lab, 1e30)
    assert (ended.code, ended.err) == (1, "")
    assert [line["mean"] for line in table(lab).values()] == [""]


# --- what is imported, and what a store's failure costs


def imported(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends."""
    code = (
        "import sys\nfrom hymba_lab.sweep.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('imported', *sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("imported ")]
    return {name.partition(".")[0] for name in line.split()}


def test_help_needs_no_torch() -> None:
    heavy = {"torch", "lightning", "mlflow", "optuna", "pandas", "numpy", "pydantic"}
    assert not imported("--help") & heavy


@pytest.mark.slow
def test_a_plan_needs_neither_lightning_nor_mlflow(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP + SEARCH)
    found = imported(*lab.argv("--plan"))
    assert "torch" in found
    assert not found & {"lightning", "mlflow"}


@pytest.mark.slow
def test_a_store_that_fails_during_training_is_filled_afterwards(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: Any, **options: Any) -> Any:
        raise StoreError("the server is away")

    monkeypatch.setattr("hymba_lab.sweep.trial.Store", unreachable)
    ended = lab.run("--set", "seeds=[0]")
    assert (ended.code, ended.err) == (0, "")
    assert statuses(lab) == {"mean, seed 0": ["FINISHED"], "gate, seed 0": ["FINISHED"]}
    (run, _) = runs(lab)
    history = lab.store().client.get_metric_history(run.info.run_id, "val/loss")
    assert sorted({entry.step for entry in history}) == [5, 10]
