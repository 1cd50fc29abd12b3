"""What a sweep asks of a cluster before it asks: runs, GPU-hours, and the script of each kind."""

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
) -> list[str]:
    """Return the runs and GPU-hours of what is left, then what each kind of row is asked for.

    Hours are those of the time limits: how fast this machine is says nothing of another one.
    """
    base, left = session.sweep.base, jobs_left(session, outcomes)
    devices = {cell.label: cell.config.training.devices for cell in session.cells}
    needs = {
        row: resources.needs(base.scale, row, devices.get(row, base.training.devices))
        for row in left
    }
    known = "hours not known; give minutes"
    if all(one.minutes is not None for one in needs.values()):
        hours = {row: n * (needs[row].minutes or 0) / 60 for row, n in left.items()}
        on_gpus = sum(hours[row] * one.gpus / one.trials_per_gpu for row, one in needs.items())
        known = (
            f"{sum(hours.values()):.2f} hours, {on_gpus:.2f} GPU-hours at most if each ends in one "
            "job: by the time limit of a job"
        )
    notes = [f"{resources.spec.name}: {sum(left.values())} runs to make, {known}."]
    kinds: dict[Needs, list[str]] = {}
    for row, one in needs.items():
        kinds.setdefault(one, []).append(row)
    folder = run_path(session.root.resolve(), "IDENTITY")
    for one, rows in kinds.items():
        said = launcher.plan(f"hymba-lab {session.name}", one, folder)
        which = "every row" if len(kinds) == 1 else ", ".join(rows)
        notes.append(f"{which}:\n{said}")
    return notes
