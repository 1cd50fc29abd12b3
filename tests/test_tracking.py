"""MLflow behind one class: a run per identity, batches, patience, readable faults."""

import math
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import ROOT
from sweeping import Lab

from hymba_lab.errors import StoreError
from hymba_lab.runs import empty_store, tracking
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.tracking import IDENTITY, ROLE, Store, default_uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Lab(tmp_path).with_store().store()


@pytest.fixture
def run(store: Store) -> Run:
    return store.open_run(store.experiment("lab"), "a run", "abc", {ROLE: "trial"})


def read(run: Run) -> Any:
    return run.store.client.get_run(run.id)


def test_an_identity_is_one_run_however_often_it_is_opened(store: Store, run: Run) -> None:
    experiment = store.experiment("lab")
    run.end("KILLED")
    again = store.open_run(experiment, "another name", "abc", {ROLE: "trial"})
    assert again.id == run.id
    assert store.status(experiment, "abc") == read(run).info.status == "RUNNING"
    assert store.status(experiment, "unknown") is None
    assert list(store.runs_by_identity(experiment)) == ["abc"]


def test_experiments_are_apart(store: Store, run: Run) -> None:
    other = store.experiment("other")
    assert store.find(other, "abc") is None
    assert store.experiment("other") == other != store.experiment("lab")


def test_a_new_run_has_its_tags_from_its_first_moment(store: Store) -> None:
    """A process killed right after must not leave a run that nobody finds again."""
    parent = store.open_run(store.experiment("lab"), "parent", "sweep:x", {ROLE: "sweep"})
    child = store.open_run(store.experiment("lab"), "child", "c", {ROLE: "trial"}, parent.id)
    tags = read(child).data.tags
    assert (tags[IDENTITY], tags["mlflow.parentRunId"]) == ("c", parent.id)


def test_metrics_are_written_in_batches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    real = run.store.client.log_batch

    def log_batch(run_id: str, metrics: Any = (), **rest: Any) -> Any:
        sent.append(len(metrics))
        return real(run_id, metrics=metrics, **rest)

    monkeypatch.setattr(run.store.client, "log_batch", log_batch)
    for step in range(1, 401):
        run.log({"train/loss": 1 / step, "train/lr": 0.1}, step)
    run.end()
    assert sum(sent) == 800
    assert len(sent) == 2
    history = run.store.client.get_metric_history(run.id, "train/loss")
    assert [entry.step for entry in sorted(history, key=lambda entry: entry.step)] == list(
        range(1, 401)
    )
    assert read(run).data.metrics["train/loss"] == 1 / 400
    assert read(run).info.status == "FINISHED"


def test_what_was_not_measured_is_not_logged(run: Run) -> None:
    run.log({"a": math.nan, "b": math.inf, "c": 1.0}, 1)
    run.flush()
    assert read(run).data.metrics == {"c": 1.0}


def test_more_than_one_batch_at_once(run: Run) -> None:
    run.log({f"m{number}": float(number) for number in range(1500)}, 1)
    run.flush()
    assert len(read(run).data.metrics) == 1500


def test_parameters_tags_and_files(run: Run) -> None:
    run.describe({"row": "mean", "seed": 3}, {"hymba_lab.status": "finished"})
    run.describe({"row": "mean", "seed": 3})  # a resumed run says it again
    run.artifact("config.json", "{}")
    assert read(run).data.params == {"row": "mean", "seed": "3"}
    assert read(run).data.tags["hymba_lab.status"] == "finished"
    assert [file.path for file in run.store.client.list_artifacts(run.id)] == ["config.json"]


def test_an_experiment_that_two_make_at_once_is_one(store: Store) -> None:
    made: list[str] = []
    together = threading.Barrier(4)

    def make() -> None:
        together.wait()
        made.append(store.experiment("contested"))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_the_default_is_a_file_in_the_root(tmp_path: Path) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_artifacts_stand_beside_a_local_store(store: Store, tmp_path: Path) -> None:
    experiment = store.client.get_experiment(store.experiment("lab"))
    assert experiment.artifact_location == (tmp_path / "mlartifacts" / "lab").resolve().as_uri()


# --- faults


class Locked:
    """A call that finds the database locked some times."""

    def __init__(self, times: int, said: str = "database is locked") -> None:
        self.times, self.said, self.calls = times, said, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.said)
        return "done"


def test_a_locked_database_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)
    call = Locked(3)
    assert store.call(call) == "done"
    assert call.calls == 4


def test_patience_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "lock_patience_s", 0.0)
    with pytest.raises(StoreError, match=r"sqlite.*database is locked; another process"):
        store.call(Locked(10**6))


def test_other_faults_are_told_at_once(store: Store) -> None:
    call = Locked(1, "no such host")
    with pytest.raises(StoreError, match="no such host"):
        store.call(call)
    assert call.calls == 1


def test_a_fault_of_mlflow_is_one_line(store: Store) -> None:
    with pytest.raises(StoreError) as error:
        Run(store, "0" * 32).describe({"a": 1})
    assert "\n" not in str(error.value)
    assert "--tracking-uri" in str(error.value)


def test_opening_a_store_changes_nothing_outside(tmp_path: Path, run: Run) -> None:
    """MLflow's own way to name a store is a variable of the environment, for all that follows."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with run.system_metrics(every_s=0.05):
        run.log({"a": 1.0}, 1)
    run.end()
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


@pytest.mark.slow
def test_mlflow_may_stand_in_a_folder_with_a_percent_sign(tmp_path: Path) -> None:
    """As an environment does that was made in such a project."""
    import mlflow

    (place := tmp_path / "odd %41").mkdir()
    (place / "mlflow").symlink_to(Path(mlflow.__file__).parent)
    code = (
        "from pathlib import Path; import mlflow; assert '%' in mlflow.__file__\n"
        "from hymba_lab.runs.tracking import Store, default_uri\n"
        "print(Store(default_uri(Path()), Path()).experiment('one'))\n"
        "print(Store(default_uri(Path()), Path()).experiment('one'))\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{place}:{ROOT}"}
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1\n1\n", "")


@pytest.mark.slow
def test_tables_are_made_once_and_a_copy_is_a_store_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own way takes 8 s, each time."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(cache))
    made = []
    for name in ("one", "two"):
        store = Store(default_uri(tmp_path / name), tmp_path / name)
        (first,) = store.client.search_experiments()
        assert (first.name, first.experiment_id) == ("Default", "0")
        assert f"/{name}/" in first.artifact_location
        made.append(tables_in(tmp_path / name / "mlflow.db"))
    assert made[0] == made[1]
    (kept,) = (cache / "mlflow").iterdir()
    assert kept.stem == mlflow.__version__ and tables_in(kept) == made[0]
    for damage in (b"", kept.read_bytes()[:100_000]):
        kept.write_bytes(damage)
        root = tmp_path / str(len(damage))
        root.mkdir()
        empty_store.make_tables(default_uri(root), str(root))
        assert tables_in(root / "mlflow.db") == tables_in(kept) == made[0]


@pytest.mark.slow
def test_a_store_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "file" / "cache"))
    Store(default_uri(tmp_path), tmp_path)
    assert "runs runs table" in tables_in(tmp_path / "mlflow.db")


def tables_in(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as database:
        found = database.execute("select tbl_name, name, type from sqlite_master").fetchall()
    return {" ".join(row) for row in found}
