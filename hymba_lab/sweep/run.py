"""One invocation of a sweep: open the stores, run what is missing, write the table."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from hymba_lab.atomic import make_folder
from hymba_lab.runs.lock import held
from hymba_lab.runs.provenance import n_cores
from hymba_lab.sweep.coordinator import Coordinator
from hymba_lab.sweep.observers.base import Observer
from hymba_lab.sweep.observers.mirror import Mirror
from hymba_lab.sweep.observers.trials_db import TrialsDB
from hymba_lab.sweep.observers.view import View
from hymba_lab.sweep.question.file import Sweep
from hymba_lab.sweep.report import write_report
from hymba_lab.sweep.session import Session, open_session


def run_sweep(options: argparse.Namespace) -> int:
    """Run what is missing, print and write the table; 1 when a row has no result."""
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
    session: Session, coordinator: Coordinator, view: View, options: argparse.Namespace
) -> None:
    from hymba_lab.sweep.launchers.local import ForkServer

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
    with held(session.folder / "lock", session.name, tell=partial(console.print, markup=False)):
        yield
