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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_trial
from made_sweeps import factorial, rows_and_seeds, written

from hymba_lab.runs.provenance import commit, hardware
from hymba_lab.sweep.launchers.base import Launcher

HERE = Path(__file__).parent
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


# --- what they need


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
