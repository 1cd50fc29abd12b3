"""One invocation of a sweep: open the stores, run what is missing, write the table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

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
from hymba_lab.sweep.report import Report, write_report
from hymba_lab.sweep.session import Session, open_session


def run_sweep(
    file: str | Path,
    *,
    scale: str | None = None,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    tracking_uri: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    out: Path | None = None,
    retry_failed: bool = False,
    command: str | None = None,
) -> Report:
    """Train what is missing, print and write the table, and return it.

    `file` is a sweep file or the name of a shipped one, `scale` one of `scales/` beside it,
    `overrides` are texts `path=value` as after --set. Runs stand below `root`; MLflow's store is
    `tracking_uri`, by default a database in `root`. `workers` trials run at a time (None = one per
    core), each with `threads` torch threads. `out` is a folder that gets the table's files, too.
    `command` is kept with the results as what made them.

    Raises a `UserError` for whatever the caller can mend.
    """
    console = Console()
    session = open_session(file, scale=scale, overrides=overrides, root=root)
    command = command or f"hymba_lab.sweep({str(file)!r}{f', scale={scale!r}' if scale else ''})"
    with _sole(session, console):
        mirror = Mirror(session, tracking_uri, threads)
        view = View(session, console)
        observers: list[Observer] = [mirror, TrialsDB(session), view]
        coordinator = Coordinator(
            session.planner, session.root, mirror.task, observers, retry_failed=retry_failed
        )
        try:
            _train_missing(session, coordinator, view, workers or n_cores(), threads)
            report = write_report(session, coordinator.outcomes, command, out)
            mirror.finish(report)
        except BaseException:
            mirror.interrupted()
            raise
        view.report(report, mirror.uri)
    return report


def _train_missing(
    session: Session, coordinator: Coordinator, view: View, n_workers: int, n_threads: int
) -> None:
    from hymba_lab.sweep.launchers.local import ForkServer

    coordinator.run(None)
    if coordinator.complete:
        view.nothing_to_do()
        return
    launcher = ForkServer(n_workers, n_threads, timeout_s(session.sweep))
    try:
        with view.live():
            coordinator.run(launcher)
    finally:
        launcher.stop()


def timeout_s(sweep: Sweep) -> float | None:
    """Return a trial's time limit [s]."""
    minutes = sweep.file.trial_timeout_minutes
    return None if minutes is None else 60 * minutes


@contextmanager
def _sole(session: Session, console: Console) -> Iterator[None]:
    """Wait until no other process runs this sweep; its results are then read back."""
    make_folder(session.folder)
    with held(session.folder / "lock", session.name, tell=partial(console.print, markup=False)):
        yield
