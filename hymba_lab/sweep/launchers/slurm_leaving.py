"""The end of jobs that nobody is to wait for: those that run save first."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from hymba_lab.runs.lease import newest
from hymba_lab.sweep.launchers import slurm_queue
from hymba_lab.sweep.launchers.attempt import read_job

_SAVING_S = 20.0  # how long stopped trials may take to save


def end_jobs(ids: Sequence[str]) -> int:
    """Let jobs that run save and leave, cancel the others; return how many there still were.

    Raises `SlurmBusy`, or `LaunchError` where there is no Slurm.
    """
    if not ids:
        return 0
    states = slurm_queue.listed(ids)
    n_alive = sum(state.is_active and state.name != "COMPLETING" for state in states.values())
    running = [job for job, state in states.items() if state.name == "RUNNING"]
    slurm_queue.cancel([job for job in ids if job not in running])
    slurm_queue.cancel(running, "USR2")
    end = time.monotonic() + _SAVING_S
    while running and time.monotonic() < end:
        time.sleep(0.5)
        states = slurm_queue.listed(running)
        running = [job for job, state in states.items() if state.is_active]
    slurm_queue.cancel(running)
    return n_alive


def left_behind(root: Path, sweep: Path, alive: Collection[str]) -> list[str]:
    """Return the jobs whose coordinator, one of the sweep in this folder, is not among `alive`.

    `alive` are the names of state files. A run that has ended has given its lease back, and one
    that was taken over has another claim: what its job is called may be another job by now.
    """
    found = []
    for file in sorted((root / "runs").glob("*/job.json")):
        noted = read_job(file.parent)
        by = Path(str(noted.get("by", ""))).parts  # .../sweeps/<sweep>/coordinators/<id>.json
        if by[-4:-1] != ("sweeps", sweep.name, "coordinators") or by[-1] in alive:
            continue
        held = newest(file.parent)
        claimed = held is not None and held.claim == noted.get("claim")
        if claimed and noted.get("launcher") == "slurm":
            found.append(str(noted.get("job")))
    return found
