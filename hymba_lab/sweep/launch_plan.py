"""What a sweep asks of a cluster before it asks: jobs, GPU-hours, and the script of each kind."""

from collections.abc import Mapping

from hymba_lab.runs.folder import run_path
from hymba_lab.sweep.jobs import Outcomes
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.resources import Resources
from hymba_lab.sweep.session import Session


def jobs_left(session: Session, outcomes: Outcomes) -> dict[str, int]:
    """Return how many runs each row has left; seeds of rows that are still tuned included."""
    file = session.sweep.file
    per_row = file.runs_per_row
    done: dict[str, int] = {}
    for job in session.planner.jobs(outcomes):
        if job.identity in outcomes:
            done[job.cell.label] = done.get(job.cell.label, 0) + 1
    if file.design == "search":
        return {"": max(0, session.planner.total() - sum(done.values()))}
    return {cell.label: max(0, per_row - done.get(cell.label, 0)) for cell in session.cells}


def launch_notes(
    session: Session,
    resources: Resources,
    launcher: Launcher,
    outcomes: Outcomes,
    speeds: Mapping[str, float],
) -> list[str]:
    """Return the jobs and GPU-hours of what is left, then what each kind of row is asked for.

    Hours come from measured speeds where every row has one, else from the time limits.
    """
    scale, n_steps = session.sweep.base.scale, session.sweep.base.n_steps
    left = jobs_left(session, outcomes)
    devices = {cell.label: cell.config.training.devices for cell in session.cells}
    needs = {row: resources.needs(scale, row, devices.get(row, 1)) for row in left}
    measured = all(row in speeds for row in left)
    limits = all(one.minutes is not None for one in needs.values())
    hours = {
        row: speeds[row] * n_steps / 3600 if measured else (one.minutes or 0) / 60
        for row, one in needs.items()
    }
    total = sum(n * hours[row] for row, n in left.items())
    on_gpus = sum(
        n * hours[row] * needs[row].gpus / needs[row].trials_per_gpu for row, n in left.items()
    )
    by = "by the measured speeds" if measured else "by the time limits, at most"
    known = f"{total:.2f} hours, {on_gpus:.2f} GPU-hours {by}"
    if not measured and not limits:
        known = "hours not known; give minutes, or measure with --calibrate"
    notes = [f"{resources.spec.name}: {sum(left.values())} jobs to run, {known}."]
    kinds: dict[Needs, list[str]] = {}
    for row, one in needs.items():
        kinds.setdefault(one, []).append(row)
    folder = run_path(session.root.resolve(), "IDENTITY")
    for one, rows in kinds.items():
        said = launcher.plan(f"hymba-lab {session.name}", one, folder)
        which = "every row" if len(kinds) == 1 else ", ".join(rows)
        notes.append(f"{which}:\n{said}")
    return notes
