"""One invocation of a sweep: open the stores, run what is missing, write the table.

Several processes may run one sweep, here or on other machines: each claims runs of its own. The
first of them leads: it alone mirrors into the stores, until it ends and another one takes over.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from hymba_lab.atomic import make_folder
from hymba_lab.cli import plain_console
from hymba_lab.runs.lease import newest, waited_for
from hymba_lab.runs.root_id import root_id
from hymba_lab.runs.store_uri import remembered
from hymba_lab.sweep.coordinator import Coordinator
from hymba_lab.sweep.interrupts import CoordinatorLeaves, CtrlC, leaving_on_signals
from hymba_lab.sweep.jobs import Job
from hymba_lab.sweep.launchers.attempt import job_name
from hymba_lab.sweep.launchers.base import Launcher, Site, launchers
from hymba_lab.sweep.observers.base import Observer
from hymba_lab.sweep.observers.mirror import Mirror
from hymba_lab.sweep.observers.state import StateFile
from hymba_lab.sweep.observers.trials_db import TrialsDB
from hymba_lab.sweep.observers.view import View
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.question.file import Sweep
from hymba_lab.sweep.report import Report, write_report
from hymba_lab.sweep.resources import Resources, load_resources
from hymba_lab.sweep.session import Session, open_session
from hymba_lab.sweep.task import Task


@dataclass(frozen=True)
class Invocation:
    """What one command was asked, beside the sweep itself."""

    session: Session
    resources: Resources
    console: Console
    tracking_uri: str | None
    study_uri: str | None
    workers: int | None
    threads: int
    retry_failed: bool
    ctrl_c: CtrlC = field(default_factory=CtrlC)


def run_sweep(
    file: str | Path,
    *,
    scale: str | None = None,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    tracking_uri: str | None = None,
    study_uri: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    out: Path | None = None,
    retry_failed: bool = False,
    command: str | None = None,
    launcher: str | None = None,
    resources: Path | None = None,
) -> Report:
    """Train what is missing, print and write the table, and return it.

    `file` is a sweep file or the name of a shipped one, `scale` one of `scales/` beside it,
    `overrides` are texts `path=value` as after --set. Runs stand below `root`; MLflow's store is
    `tracking_uri`, by default a database in `root`, Optuna's study is in `study_uri`, by default a
    file in the sweep's folder. `workers` trials run at a time (None = one per GPU or core), each
    with `threads` torch threads. `out` is a folder that gets the table's files, too. `command` is
    kept with the results as what made them. `launcher` says where trials run, `resources` is the
    YAML file of what they ask for there.

    Raises a `UserError` for whatever the caller can mend, `SweepStopped` after `hymba-lab stop`.
    """
    console = plain_console()
    cluster = load_resources(resources, launcher)
    session = open_session(file, scale=scale, overrides=overrides, root=root)
    cluster.check([cell.label for cell in session.cells], session.sweep)
    command = command or _as_called(file, scale=scale, overrides=list(overrides), out=out)
    asked = Invocation(
        session,
        cluster,
        console,
        remembered(tracking_uri, "--tracking-uri") if tracking_uri else None,
        remembered(study_uri, "--study-uri") if study_uri else None,
        workers,
        threads,
        retry_failed,
    )
    make_folder(session.folder)
    state = StateFile(session.folder, session.planner.total, cluster.spec.name, job=job_name())
    with (
        closing(state),
        asked.ctrl_c.heard(),
        leaving_on_signals(cluster.spec.name != "local"),
    ):
        with waited_for(session.folder, timeout=0) as lead:
            if lead is not None:
                return _lead(asked, state, command, out)
        _help(asked, state)
        with waited_for(session.folder, told=console.print):
            return _lead(asked, state, command, out)


def _as_called(file: str | Path, **options: Any) -> str:
    """Return the call that makes these results; `root` says where runs stand, not what they are."""
    given = [
        f"{name}={(str(value) if isinstance(value, Path) else value)!r}"
        for name, value in options.items()
        if value
    ]
    return f"hymba_lab.sweep({', '.join([repr(str(file)), *given])})"


def _lead(asked: Invocation, state: StateFile, command: str, out: Path | None) -> Report:
    session = asked.session
    mirror = Mirror(session, asked.tracking_uri, asked.threads)
    view = View(session, asked.console)
    observers: list[Observer] = [mirror, TrialsDB(session, asked.study_uri), view]
    coordinator = _coordinator(asked, mirror, observers)
    try:
        _train_missing(asked, coordinator, view, state)
        report = write_report(session, coordinator.outcomes, command, out)
        mirror.finish(report)
    except CoordinatorLeaves:  # what runs goes on, and is found again
        raise
    except BaseException:
        mirror.interrupted()
        raise
    view.report(report, mirror.uri, mirror.experiment)
    return report


def _help(asked: Invocation, state: StateFile) -> None:
    """Train beside the coordinator that leads, until nothing is left."""
    held = newest(asked.session.folder)
    by = f" ({held.by})" if held else ""
    said = f"{asked.session.name} is being run by another process{by}; sharing its work."
    asked.console.print(said, soft_wrap=True)
    view = View(asked.session, asked.console)
    mirror = Mirror(asked.session, asked.tracking_uri, asked.threads, leads=False)
    coordinator = _coordinator(asked, mirror, [mirror, view])
    try:
        _train_missing(asked, coordinator, view, state)
    except CoordinatorLeaves:
        raise
    except BaseException:
        mirror.interrupted()
        raise


def _coordinator(asked: Invocation, mirror: Mirror, observers: list[Observer]) -> Coordinator:
    session = asked.session
    return Coordinator(
        session.planner,
        session.root,
        task_maker(session, asked.resources, mirror.task),
        observers,
        retry_failed=asked.retry_failed,
        interruptions=asked.resources.interruptions,
        tick=asked.ctrl_c.again,
    )


def task_maker(
    session: Session, resources: Resources, made: Callable[[Job, Pruning | None], Task]
) -> Callable[[Job, Pruning | None], Task]:
    """Return what makes a job's task, with all that its launcher and its worker are to know."""
    told = root_id(session.root)
    scale, limit_s = session.sweep.base.scale, timeout_s(session.sweep)

    def task(job: Job, pruning: Pruning | None) -> Task:
        needs = resources.needs(scale, job.cell.label, job.config.training.devices)
        return replace(made(job, pruning), root_id=told, needs=needs, timeout_s=limit_s)

    return task


def _train_missing(
    asked: Invocation, coordinator: Coordinator, view: View, state: StateFile
) -> None:
    coordinator.run(None)
    state.read_back(coordinator.outcomes)
    if coordinator.complete:
        view.nothing_to_do()
        return
    launcher = make_launcher(
        asked.session, asked.resources, asked.workers, asked.threads, state.path
    )
    state.trouble = view.trouble = launcher.waits_for
    coordinator.observers.append(state)
    try:
        with view.live():
            coordinator.run(launcher)
    except CoordinatorLeaves:
        launcher.leave()
        raise
    except BaseException:
        launcher.stop()
        coordinator.release()
        raise
    launcher.stop()


def make_launcher(
    session: Session,
    resources: Resources,
    n_workers: int | None,
    n_threads: int,
    state_file: Path | None = None,
) -> Launcher:
    """Return the launcher that the command line and `cluster.yaml` name.

    Raises `ConfigError` where it could not give a row's trials what they ask for.
    """
    scale = session.sweep.base.scale
    devices = {cell.label: cell.config.training.devices for cell in session.cells}
    needs = replace(resources.asked(scale), devices=max(devices.values()))
    site = Site(session.name, n_threads, timeout_s(session.sweep), n_workers, needs, state_file)
    launcher = launchers.build(resources.spec, site)
    for row, n in devices.items():
        launcher.check(resources.needs(scale, row, n))
    return launcher


def timeout_s(sweep: Sweep) -> float | None:
    """Return a trial's time limit [s]."""
    minutes = sweep.file.trial_timeout_minutes
    return None if minutes is None else 60 * minutes
