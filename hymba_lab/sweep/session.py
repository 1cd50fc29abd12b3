"""One invocation of a sweep: open the stores, run what is missing, write the table."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from rich.console import Console

from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, StoreError
from hymba_lab.provenance import n_cores
from hymba_lab.runs import RunFolder, make_folder
from hymba_lab.sweep.cells import Cell, check_search, make_cells, refuse_twins
from hymba_lab.sweep.checks import check_metrics, check_sweep
from hymba_lab.sweep.file import Sweep, load_sweep
from hymba_lab.sweep.match import match_budgets
from hymba_lab.sweep.study import Planner
from hymba_lab.training.validation import metric_names

if TYPE_CHECKING:
    from hymba_lab.sweep.coordinator import Coordinator
    from hymba_lab.sweep.view import View


@dataclass(frozen=True)
class Session:
    """A loaded sweep with its cells and data, before anything runs."""

    sweep: Sweep
    mixture: Mixture
    cells: list[Cell]
    planner: Planner
    root: Path

    @property
    def name(self) -> str:
        """Return the sweep's name in MLflow and on disk: its file and scale."""
        return f"{self.sweep.name}-{self.sweep.base.scale}"

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its study, lock and tables."""
        return self.root / "runs" / "sweeps" / self.name

    def run_folder(self, identity: str) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.root, identity)


def open_session(options: argparse.Namespace) -> Session:
    """Load the file, build data and cells; everything a user can get wrong fails here."""
    sweep = load_sweep(options.file, options.overrides, options.scale)
    check_sweep(sweep)
    mixture = _sources(sweep)
    check_metrics(sweep, metric_names(mixture))
    cells = match_budgets(sweep, make_cells(sweep, mixture.vocab), mixture.vocab)
    refuse_twins(sweep, cells)
    check_search(sweep, cells[0], mixture.vocab)
    if sweep.base.n_steps < 1:
        raise ConfigError(
            f"training.tokens = {sweep.base.training.tokens} does not pay for one step of "
            f"{mixture.rows} rows of {sweep.base.training.seq_len} tokens; raise it."
        )
    planner = Planner(sweep, cells, mixture.fingerprint, mixture.vocab)
    return Session(sweep, mixture, cells, planner, options.root)


def run_sweep(options: argparse.Namespace) -> int:
    """Run what is missing, print and write the table; 1 when a row has no result."""
    from hymba_lab.sweep.coordinator import Coordinator, Observer
    from hymba_lab.sweep.mirror import Mirror
    from hymba_lab.sweep.report import write_report
    from hymba_lab.sweep.trials_db import TrialsDB
    from hymba_lab.sweep.view import View

    console = Console()
    session = open_session(options)
    with _sole(session, console):
        mirror = Mirror(session, options.tracking_uri, options.threads)
        view = View(session, console)
        observers: list[Observer] = [mirror, TrialsDB(session), view]
        coordinator = Coordinator(
            session.planner, session.root, mirror.task, observers, retry_failed=options.retry_failed
        )
        try:
            _train_missing(session, coordinator, view, options)
            report = write_report(session, coordinator.outcomes, command_line(), options.out)
            mirror.finish(report)
        except BaseException:
            mirror.interrupted()
            raise
        view.report(report, mirror.uri)
    return 0 if report.complete else 1


def _train_missing(
    session: Session, coordinator: "Coordinator", view: "View", options: argparse.Namespace
) -> None:
    from hymba_lab.sweep.launch import ForkServer

    coordinator.run(None)
    if coordinator.complete:
        view.nothing_to_do()
        return
    launcher = ForkServer(options.workers or n_cores(), options.threads, timeout_s(session.sweep))
    try:
        with view.live():
            coordinator.run(launcher)
    finally:
        launcher.stop()


def timeout_s(sweep: Sweep) -> float | None:
    """Return a trial's time limit [s]."""
    minutes = sweep.file.trial_timeout_minutes
    return None if minutes is None else 60 * minutes


def command_line() -> str:
    """Return the command as a user types it."""
    return "python -m hymba_lab.sweep " + shlex.join(sys.argv[1:])


@contextmanager
def _sole(session: Session, console: Console) -> Iterator[None]:
    """Wait until no other process runs this sweep; its results are then read back."""
    make_folder(session.folder)
    lock = FileLock(session.folder / "lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print(f"{session.name} is being run by another process; waiting for it.")
            lock.acquire()
    except OSError as error:
        raise StoreError(f"{session.folder}: cannot be locked: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()


def _sources(sweep: Sweep) -> Mixture:
    try:
        return build_sources(sweep.base.data, sweep.base.training.seq_len)
    except ConfigError as error:
        raise sweep.base.blame(error) from None


def resolved_sweep(session: Session) -> str:
    """Return the sweep file with every default filled in, and its base experiment resolved.

    Plugins are named from the folder of the command: an export tells nothing about the machine.
    """
    base = session.sweep.base.resolved()
    base |= {"plugins": [os.path.relpath(path) for path in session.sweep.base.plugins]}
    return json.dumps({"sweep": session.sweep.file.model_dump(), "base": base}, indent=1)
