"""One invocation of a sweep: open the stores, run what is missing, write the table.

Several processes may run one sweep, here or on other machines: each claims runs of its own. The
first of them leads: it alone mirrors into the stores, until it ends and another one takes over.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from hymba_lab.atomic import make_folder
from hymba_lab.errors import SweepStopped
from hymba_lab.runs.lease import newest, waited_for
from hymba_lab.runs.root_id import root_id
from hymba_lab.runs.store_uri import remembered, without_passwords
from hymba_lab.sweep.coordinator import Coordinator
from hymba_lab.sweep.interrupts import CoordinatorLeaves, leaving_on_signals
from hymba_lab.sweep.jobs import Job
from hymba_lab.sweep.launchers.base import Launcher, Site, launchers
from hymba_lab.sweep.observers.base import Observer
from hymba_lab.sweep.observers.mirror import Mirror
from hymba_lab.sweep.observers.state import StateFile
from hymba_lab.sweep.observers.trials_db import TrialsDB
from hymba_lab.sweep.observers.view import View
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.question.file import Sweep
from hymba_lab.sweep.report import write_report
from hymba_lab.sweep.resources import Resources, load_resources
from hymba_lab.sweep.session import Session, open_session
from hymba_lab.sweep.task import Task


def run_sweep(options: argparse.Namespace) -> int:
    """Run what is missing, print and write the table; 1 when a row has no result."""
    console = Console()
    resources = load_resources(options.resources, options.launcher)
    if options.tracking_uri:
        options.tracking_uri = remembered(options.tracking_uri, "--tracking-uri")
    if options.study_uri:
        options.study_uri = remembered(options.study_uri, "--study-uri")
    session = open_session(options)
    resources.check_rows([cell.label for cell in session.cells])
    if options.detach:
        return _detached(session, resources, console)
    make_folder(session.folder)
    with leaving_on_signals(resources.spec.name != "local"):
        with waited_for(session.folder, timeout=0) as lead:
            if lead is not None:
                return _lead(session, resources, console, options)
        if (code := _help(session, resources, console, options)) is not None:
            return code
        with waited_for(session.folder):
            return _lead(session, resources, console, options)


def _lead(
    session: Session, resources: Resources, console: Console, options: argparse.Namespace
) -> int:
    mirror = Mirror(session, options.tracking_uri, options.threads)
    view = View(session, console)
    observers: list[Observer] = [mirror, TrialsDB(session, options.study_uri), view]
    coordinator = _coordinator(session, resources, mirror, observers, options)
    try:
        _train_missing(session, resources, coordinator, view, options)
        report = write_report(session, coordinator.outcomes, command_line(), options.out)
        mirror.finish(report)
    except CoordinatorLeaves:
        raise
    except SweepStopped:
        mirror.interrupted()
        console.print("stopped as asked; the same command goes on from here.")
        return 130
    except BaseException:
        mirror.interrupted()
        raise
    view.report(report, mirror.uri)
    return 0 if report.complete else 1


def _help(
    session: Session, resources: Resources, console: Console, options: argparse.Namespace
) -> int | None:
    """Train beside the coordinator that leads, until nothing is left; 130 when asked to stop."""
    held = newest(session.folder)
    by = f" ({held.by})" if held else ""
    console.print(
        f"{session.name} is being run by another process{by}; sharing its work.", soft_wrap=True
    )
    view = View(session, console)
    mirror = Mirror(session, options.tracking_uri, options.threads, leads=False)
    coordinator = _coordinator(session, resources, mirror, [mirror, view], options)
    try:
        _train_missing(session, resources, coordinator, view, options)
    except CoordinatorLeaves:
        raise
    except SweepStopped:
        mirror.interrupted()
        console.print("stopped as asked; the same command goes on from here.")
        return 130
    except BaseException:
        mirror.interrupted()
        raise
    return None


def _coordinator(
    session: Session,
    resources: Resources,
    mirror: Mirror,
    observers: list[Observer],
    options: argparse.Namespace,
) -> Coordinator:
    return Coordinator(
        session.planner,
        session.root,
        task_maker(session, resources, mirror.task),
        observers,
        retry_failed=options.retry_failed,
        interruptions=resources.interruptions,
    )


def task_maker(
    session: Session, resources: Resources, made: Callable[[Job, Pruning | None], Task]
) -> Callable[[Job, Pruning | None], Task]:
    """Return what makes a job's task, with all that its launcher and its worker are to know."""
    told = root_id(session.root)
    scale, limit_s = session.sweep.base.scale, timeout_s(session.sweep)

    def task(job: Job, pruning: Pruning | None) -> Task:
        needs = resources.needs(scale, job.cell.label)
        return replace(made(job, pruning), root_id=told, needs=needs, timeout_s=limit_s)

    return task


def _train_missing(
    session: Session,
    resources: Resources,
    coordinator: Coordinator,
    view: View,
    options: argparse.Namespace,
) -> None:
    coordinator.run(None)
    if coordinator.complete:
        view.nothing_to_do()
        return
    launcher = make_launcher(session, resources, options)
    with ExitStack() as stack:
        state = StateFile(
            session.folder, session.planner.total, resources.spec.name, lambda: launcher.trouble
        )
        stack.callback(state.close)
        coordinator.observers.append(state)
        state.read_back(coordinator.outcomes)
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


def make_launcher(session: Session, resources: Resources, options: argparse.Namespace) -> Launcher:
    """Return the launcher that the command line and `cluster.yaml` name."""
    needs = resources.needs(session.sweep.base.scale, "")
    site = Site(session.name, options.threads, timeout_s(session.sweep), options.workers, needs)
    return launchers.build(resources.spec, site)


def timeout_s(sweep: Sweep) -> float | None:
    """Return a trial's time limit [s]."""
    minutes = sweep.file.trial_timeout_minutes
    return None if minutes is None else 60 * minutes


def command_line() -> str:
    """Return the command as a user types it, without passwords."""
    words = (without_passwords(word) for word in sys.argv[1:])
    return "python -m hymba_lab.sweep " + shlex.join(words)


def _detached(session: Session, resources: Resources, console: Console) -> int:
    from hymba_lab.sweep.detach import detach

    argv = [word for word in sys.argv[1:] if word != "--detach"]
    said = detach(
        session.folder,
        session.name,
        argv,
        launcher=resources.spec.name,
        needs=resources.coordinator,
    )
    console.print(said, soft_wrap=True, highlight=False)
    console.print(f"State: hymba-lab status {session.name}    End: hymba-lab stop {session.name}")
    return 0
