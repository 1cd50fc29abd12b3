"""Sweeps as large as a lab's: what planning, coordinating and reporting them takes.

    python benchmarks/sizes.py plan     [--cells 10000]
    python benchmarks/sizes.py trials   [--launcher slurm|ray] [--resources FILE] [--trials 500]
    python benchmarks/sizes.py reopened [--tracking-uri URI] [--study-uri URI] [--runs 2000]

`plan`: `--plan` of a factorial sweep over seven axes, six of them of the architecture.
`trials`: trials that take 0.1 s and train nothing; their MLflow runs stand there beforehand, as if
the workers had written them. Processor time is the coordinator's own process, threads included;
`added` is the wall time a trial beside its 0.1 s, of which a launcher starts a process.
`reopened`: the same command again when every run is finished, table and stores included.

Processor seconds hold on a loaded machine, too; wall seconds are upper bounds there.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_trial

from hymba_lab.runs.provenance import commit, hardware
from hymba_lab.sweep.launchers.base import Launcher

REPOSITORY = Path(__file__).parents[1]
HERE = Path(__file__).parent
NANO = REPOSITORY / "experiments" / "nano.yaml"
LIMITS = {"plan": "30 s, 1000 MB", "trials": "10 % of a core, 0.2 s", "reopened": "20 s"}

Figures = dict[str, float]


def main() -> None:
    """Measure one size and print its figures with their limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(LIMITS))
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--launcher", default="local")
    parser.add_argument("--resources", type=Path)
    parser.add_argument("--tracking-uri")
    parser.add_argument("--study-uri")
    parser.add_argument("--json", action="store_true", help="for machines")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = MEASURES[asked.what](Path(folder), asked)
    if asked.json:
        print(json.dumps({**figures, "commit": commit().sha, "hardware": hardware()}))
        return
    print(f"commit {commit().sha[:10]}{' (changed)' if commit().dirty else ''}, {hardware()}")
    print(f"{asked.what}: at most {LIMITS[asked.what]}")
    for name, value in figures.items():
        print(f"  {name:48} {value:10.3f}")


# --- plan


def plan(folder: Path, asked: argparse.Namespace) -> Figures:
    """Plan a sweep of so many rows as a user does; read time and memory from the system."""
    file, n_rows = factorial(folder, asked.cells)
    command = [sys.executable, "-m", "hymba_lab.sweep", str(file), "--plan", "--root", str(folder)]
    begun = time.perf_counter()
    with (folder / "printed").open("w") as printed:
        subprocess.run(command, check=True, stdout=printed, cwd=folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": n_rows,
        "wall [s]": time.perf_counter() - begun,
        "processor [s]": used.ru_utime + used.ru_stime,
        "most memory [MB]": used.ru_maxrss / 1024,
    }


def factorial(folder: Path, n_cells: int) -> tuple[Path, int]:
    """Write a sweep over architecture and rate with about `n_cells` rows, all of other models."""
    rates = range(max(2, round(n_cells / 2000)))
    axes: dict[str, dict[str, Any]] = {
        "fusion": choices("model.fusion", ["mean", "sum", "concat", "gate", "difference"], "name"),
        "d_ff": choices("model.mlp.d_ff", [96, 104, 112, 120, 128]),
        "d_state": choices("model.ssm.d_state", [8, 16]),
        "meta tokens": choices("model.meta_tokens", [4, 8, 16, 32], "n_meta", name="learned"),
        "windows": choices(
            "model.placement", [8, 16, 24, 32, 48], "window", name="first_middle_last"
        ),
        "sharing": {
            "none": {"model.kv_sharing": {"name": "none"}},
            "pairs": {"model.kv_sharing": {"name": "adjacent", "size": 2}},
        },
        "rate": choices("optimizer.lr", [round(1e-3 * (1 + n / 10), 6) for n in rates]),
    }
    sweep = {
        "question": "Which of ten thousand?", "base": str(NANO), "seeds": [0],
        "metric": {"name": "val/recall_accuracy", "goal": "maximize"},
        "design": "factorial", "axes": axes,
    }  # fmt: skip
    file = folder / "large.yaml"
    file.write_text(json.dumps(sweep))
    n_rows = 1
    for axis in axes.values():
        n_rows *= len(axis)
    return file, n_rows


def choices(
    path: str, values: Sequence[Any], option: str | None = None, **fixed: Any
) -> dict[str, dict[str, Any]]:
    """Return an axis over the values of a path, or of one option of the component there."""
    return {
        str(value): {path: value if option is None else {**fixed, option: value}}
        for value in values
    }


# --- trials


def trials(folder: Path, asked: argparse.Namespace) -> Figures:
    """Run trials of 0.1 s through a launcher and read the coordinator's own processor time."""
    file = rows_and_seeds(folder, 5, asked.trials // 5)
    from hymba_lab.sweep import run, trial
    from hymba_lab.sweep.coordinator import Coordinator
    from hymba_lab.sweep.observers.state import StateFile
    from hymba_lab.sweep.observers.view import View

    written(folder, file, asked, result=False)
    trial.run_trial = fake_trial.run
    spans: list[tuple[float, float]] = []

    def timed(
        asked: run.Invocation, coordinator: Coordinator, view: View, state: StateFile
    ) -> None:
        begun, used = time.perf_counter(), own_seconds()
        train(asked, coordinator, view, state)
        spans.append((time.perf_counter() - begun, own_seconds() - used))

    train, run._train_missing = run._train_missing, timed
    make = run.make_launcher
    run.make_launcher = lambda *words: lightened(make(*words))
    with quiet():
        run.run_sweep(
            file, root=folder, launcher=asked.launcher, resources=asked.resources,
            tracking_uri=asked.tracking_uri, study_uri=asked.study_uri,
        )  # fmt: skip
    (wall, used), n = spans[0], asked.trials
    return {
        "trials": n,
        "wall [s]": wall,
        "wall a trial beside its 0.1 s [s]": wall / n - fake_trial.SECONDS,
        "coordinator's processor [s]": used,
        "of one core [%]": 100 * used / wall,
        "coordinator's processor a trial [ms]": 1000 * used / n,
    }


def lightened(launcher: Launcher) -> Launcher:
    """Let a launcher send its workers what starts without NumPy, pandas and torch."""
    submit = launcher.submit
    launcher.submit = lambda function, task: submit(function, fake_trial.light(task))  # type: ignore[method-assign]
    return launcher


# --- reopened


def reopened(folder: Path, asked: argparse.Namespace) -> Figures:
    """Write finished runs into the folders and the stores, then run the sweep's command again."""
    file = rows_and_seeds(folder, 20, asked.runs // 20)
    written(folder, file, asked, result=True)
    command = [sys.executable, "-m", "hymba_lab.sweep", str(file), "--root", str(folder)]
    for name in ("tracking_uri", "study_uri"):
        if getattr(asked, name):
            command += [f"--{name.replace('_', '-')}", getattr(asked, name)]
    figures: Figures = {"runs": asked.runs}
    for number in ("first", "second"):  # the first one also fills Optuna's study
        begun, before = time.perf_counter(), children_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        figures[f"{number} time: wall [s]"] = time.perf_counter() - begun
        figures[f"{number} time: processor [s]"] = children_seconds() - before
    return figures


# --- what both need


def rows_and_seeds(folder: Path, n_rows: int, n_seeds: int) -> Path:
    """Write a sweep of so many rows, each with so many seeds."""
    rows = {f"row {n}": {"optimizer.lr": round(1e-3 * (1 + n / 100), 8)} for n in range(n_rows)}
    sweep = {
        "question": "How long does it take?", "base": str(NANO), "seeds": list(range(n_seeds)),
        "metric": {"name": "val/recall_accuracy", "goal": "maximize"}, "axes": {"rate": rows},
    }  # fmt: skip
    file = folder / "many.yaml"
    file.write_text(json.dumps(sweep))
    return file


def written(folder: Path, file: Path, asked: argparse.Namespace, *, result: bool) -> None:
    """Write what workers would have: every run in MLflow, closed, and its `result`, where asked."""
    from hymba_lab.runs.provenance import CODE_VERSION
    from hymba_lab.runs.store_uri import remembered, whole
    from hymba_lab.sweep.observers.mirror import Mirror
    from hymba_lab.sweep.session import open_session

    common: dict[str, object] = {
        "stopped_by": None, "n_steps": 100, "seconds": 0.1, "tokens_per_second": 1.0,
        "code_version": CODE_VERSION, "hardware": hardware(), "n_threads": 1,
        "commit": commit().sha,
    }  # fmt: skip
    session = open_session(file, scale=None, overrides=[], root=folder)
    uri = remembered(asked.tracking_uri, "--tracking-uri") if asked.tracking_uri else None
    mirror = Mirror(session, uri, 1)
    common["mlflow"] = {"uri": mirror.uri, "experiment_id": mirror.experiment, "run_id": None}
    (folder / fake_trial.BESIDE).write_text(json.dumps(common))
    tasks = [(job, mirror.task(job, None)) for job in session.planner.jobs({})]
    closed_runs(whole(mirror.uri), [task for _, task in tasks])
    for job, task in tasks:
        if result:
            facts = (task.seed, dict(task.config), dict(task.facts))
            record = fake_trial.record(folder, job.identity, *facts)
            session.run_folder(job.identity).finish(record)


def closed_runs(uri: str, tasks: Sequence[Any]) -> None:
    """Put finished runs into MLflow's tables, many at a time: its client takes 0.1 s for each."""
    from mlflow.store.tracking.dbmodels.models import SqlParam, SqlRun, SqlTag
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    now = int(time.time() * 1000)
    with Session(create_engine(uri)) as session:
        for task in tasks:
            key = fake_trial.run_id(task.identity)
            tags = {
                **task.tags, "mlflow.parentRunId": task.parent_run, "mlflow.runName": task.run_name
            }  # fmt: skip
            session.add(
                SqlRun(
                    run_uuid=key, name=task.run_name, experiment_id=int(task.experiment_id),
                    user_id="lab", status="FINISHED", start_time=now, end_time=now,
                    lifecycle_stage="active", artifact_uri=f"mlartifacts/{key}",
                    source_type="UNKNOWN", source_name="", entry_point_name="", source_version="",
                )
            )  # fmt: skip
            session.flush()
            session.add_all(SqlTag(run_uuid=key, key=k, value=str(v)) for k, v in tags.items())
            session.add_all(
                SqlParam(run_uuid=key, key=k, value=str(v)) for k, v in task.params.items()
            )
        session.commit()


@contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be printed meanwhile, by no process."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def own_seconds() -> float:
    """Return this process's processor time [s], of all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def children_seconds() -> float:
    """Return the processor time [s] of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


MEASURES: dict[str, Callable[[Path, argparse.Namespace], Figures]] = {
    "plan": plan, "trials": trials, "reopened": reopened,
}  # fmt: skip


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(  # of workers on a cluster
        [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    main()
