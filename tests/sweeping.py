"""A small laboratory for the tests of sweeps: a folder, a sweep file, the command."""

import atexit
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import ROOT, TINY

from hymba_lab import cli
from hymba_lab.config.yaml_file import read_yaml
from hymba_lab.runs.tracking import Store, default_uri
from hymba_lab.sweep import run
from hymba_lab.sweep.__main__ import main
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.session import Session, open_session

SWEEP = """\
question: Does a gate recall more than the mean?
base: tiny.yaml
metric: {name: val/recall_accuracy, goal: maximize}
seeds: [0, 1]
axes:
  fusion:
    mean: {model.fusion: {name: mean}}
    gate: {model.fusion: {name: gate}}
"""
SMALL = TINY.replace("n_layers: 2", "n_layers: 1")
SEARCH = """\
search:
  optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}
trials_per_cell: 2
"""
N_JOBS = 8  # of SWEEP + SEARCH: 2 rows x (2 tuning trials + 2 seeds)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str


@cache
def _empty_store() -> Path:
    """An MLflow database with its tables: making them takes seconds, copying nothing."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    atexit.register(shutil.rmtree, folder)
    Store(default_uri(folder), folder)
    return folder / "mlflow.db"


class Inline(Launcher):
    """A launcher that trains in this very process, one run after the other."""

    def __init__(self, *facts: Any) -> None:
        self.n = 0

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        self.n += 1
        future: Future[str] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Nothing runs any more."""


class Lab:
    """`<folder>/tiny.yaml`, `<folder>/sweep.yaml` and what a command makes of them."""

    def __init__(self, folder: Path, sweep: str = SWEEP, base: str = SMALL) -> None:
        self.folder = folder
        self.write("tiny.yaml", base)
        self.write("sweep.yaml", sweep)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def edit(self, **keys: Any) -> None:
        """Set keys of the sweep file."""
        document = read_yaml(self.folder / "sweep.yaml").data
        self.write("sweep.yaml", json.dumps({**document, **keys}, indent=1))  # JSON is YAML

    def session(self, *overrides: str, scale: str | None = None) -> Session:
        file = self.folder / "sweep.yaml"
        return open_session(file, overrides=list(overrides), scale=scale, root=self.folder)

    def with_store(self) -> "Lab":
        shutil.copy(_empty_store(), self.folder / "mlflow.db")
        return self

    def argv(self, *options: str, name: str = "sweep.yaml") -> list[str]:
        return [str(self.folder / name), "--root", str(self.folder), *options]

    def run(self, *options: str, name: str = "sweep.yaml", launcher: Any = Inline) -> Ended:
        """Run the command in this process."""
        out, err = io.StringIO(), io.StringIO()
        argv = ["sweep", *self.argv(*options, name=name)]
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            patch.object(sys, "argv", argv),
            patch.object(run, "make_launcher", launcher),
            pytest.raises(SystemExit) as end,
        ):
            cli.run(main)
        return Ended(end.value.code, out.getvalue(), err.getvalue())

    def start(self, *options: str, name: str = "sweep.yaml") -> "subprocess.Popen[str]":
        """Start the command as a user does."""
        return subprocess.Popen(
            [sys.executable, "-m", "hymba_lab.sweep", *self.argv(*options, name=name)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def store(self) -> Store:
        return Store(default_uri(self.folder), self.folder)

    def results(self) -> dict[str, int]:
        """Name and time of writing [ns] of every run's result."""
        found = (self.folder / "runs").glob("*/result.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    def report(self, file: str, name: str = "sweep-tiny") -> str:
        return (self.folder / "runs" / "sweeps" / name / file).read_text()


def finished(job: Job, **metrics: float) -> Outcome:
    """An outcome as a worker would have recorded it."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Outcome("finished", {"metrics": named, "history": [[10, named]], "n_steps": 10})


def labels(jobs: Sequence[Job]) -> list[str]:
    return [job.name for job in jobs]
