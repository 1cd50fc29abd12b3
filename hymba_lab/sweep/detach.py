"""A coordinator that nobody has to stay logged in for: a small job of Slurm, or a process alone."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.errors import LaunchError
from hymba_lab.runs.store_uri import PASSWORDS, without_passwords
from hymba_lab.sweep.launchers import slurm_queue
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy

_KNOWN_S = 120.0  # loading what trains takes seconds, on a busy machine many
_STARTING_S, _LEAVING_S = 20.0, 40.0  # Slurm tells a job a minute before it ends
_AWAY_S = 600.0  # a Slurm that does not answer ends nothing, either

_JOB = "coordinator.job"
SCRIPT = "HYMBA_LAB_COORDINATOR"
"""Environment variable of a coordinator that is a job: the script that starts the next one."""


def detach(
    folder: Path, name: str, argv: Sequence[str], *, launcher: Launcher, needs: Needs
) -> str:
    """Start the sweep with `argv` apart from this terminal; return what to tell the user.

    Raises `ConfigError` where a job cannot have these needs, `LaunchError` where none begins.
    """
    log = (folder / "coordinator.log").resolve()
    script = log.with_name("coordinator.sh")
    arguments = [without_passwords(word) for word in argv]
    text = launcher.coordinator_script(
        f"hymba-lab {name}", needs, log, arguments, {SCRIPT: str(script)}
    )
    make_folder(folder)
    if text is not None:
        job = _as_job(folder, script, text)
        return f"{name}: Slurm job {job} runs the sweep; its output: {log}"
    command = [sys.executable, "-m", "hymba_lab.sweep", *arguments]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    _until_known(folder, process, log)
    return f"{name}: process {process.pid} runs the sweep; its output: {log}"


def _until_known(folder: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once `status` and `stop` know of the coordinator, or it has ended its work.

    Raises `LaunchError` where it ended without.
    """
    from hymba_lab.sweep.observers.state import coordinators

    end = time.monotonic() + _KNOWN_S
    while process.poll() is None and time.monotonic() < end:
        if any(one["holder"].get("pid") == process.pid for one in coordinators(folder)):
            return
        time.sleep(0.2)
    if process.poll():
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        raise LaunchError("\n".join([f"--detach: it ended at once; {log} says:", *last]))


def again() -> str | None:
    """Have this coordinator's job begin anew when its time is up; None when it is no job.

    Slurm starts the same job again, which needs no room among those that one may submit; another
    one is submitted only where it does not.
    """
    script, job = os.environ.get(SCRIPT), os.environ.get("SLURM_JOB_ID")
    if script is None:
        return None
    if job:
        with suppress(LaunchError):
            return slurm_queue.patiently(partial(slurm_queue.requeue, job), _AWAY_S)
    text = Path(script).read_text(encoding="utf-8")
    return _submit(Path(script).parent, text, _LEAVING_S)


def queued(folder: Path) -> str | None:
    """Return the job of a detached coordinator that waits or runs, None without one.

    Where Slurm does not answer, it is asked no further.
    """
    try:
        found = _job_of(folder)
    except (SlurmBusy, LaunchError):
        return None
    return found[0] if found else None


def withdraw(folder: Path, until: float) -> str | None:
    """Cancel the job of a detached coordinator that has not told of itself, and return it.

    One that has is asked to stop, as every other one. Waits for the job's end, at most until then
    [s of the monotonic clock]. Raises `SlurmBusy` or `LaunchError` where Slurm does not answer.
    """
    from hymba_lab.sweep.observers.state import coordinators

    found = _job_of(folder)
    if found is None or (coordinators(folder) and not found[1].waits):
        return None
    slurm_queue.cancel([found[0]])
    while _job_of(folder) is not None and time.monotonic() < until:
        time.sleep(0.3)
    return found[0]


def _job_of(folder: Path) -> tuple[str, slurm_queue.State] | None:
    """Return the job that was submitted last, if it has not ended."""
    try:
        job = (folder / _JOB).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    state = slurm_queue.listed([job]).get(job)
    return (job, state) if state is not None and state.is_active else None


def _as_job(folder: Path, script: Path, text: str) -> str:
    if os.environ.get(PASSWORDS):
        raise LaunchError(
            "--detach: a password in an address would have to be written into the job; put it into "
            "~/.pgpass (mode 600) on the cluster and leave it away here."
        )
    write_atomically(script, text)
    return _submit(folder, text, _STARTING_S)


def _submit(folder: Path, text: str, patience_s: float) -> str:
    job = slurm_queue.patiently(partial(slurm_queue.submit, text), patience_s)
    write_atomically(folder / _JOB, job + "\n", durable=False)
    return job
