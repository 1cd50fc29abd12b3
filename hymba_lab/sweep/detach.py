"""A coordinator that nobody has to stay logged in for: a small job of Slurm, or a process alone."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.errors import LaunchError
from hymba_lab.runs.store_uri import PASSWORDS, without_passwords
from hymba_lab.sweep.launchers.needs import Needs

_KNOWN_S = 120.0  # loading what trains takes seconds, on a busy machine many
_STARTING_S, _LEAVING_S = 20.0, 40.0  # Slurm tells a job a minute before it ends

_JOB = "coordinator.job"
SCRIPT = "HYMBA_LAB_COORDINATOR"
"""Environment variable of a coordinator that is a job: the script that starts the next one."""


def detach(folder: Path, name: str, argv: Sequence[str], *, launcher: str, needs: Needs) -> str:
    """Start the sweep with `argv` apart from this terminal; return what to tell the user."""
    make_folder(folder)
    log = (folder / "coordinator.log").resolve()
    command = [sys.executable, "-m", "hymba_lab.sweep", *(without_passwords(a) for a in argv)]
    if launcher == "slurm":
        job = _as_job(folder, name, command, needs, log)
        return f"{name}: Slurm job {job} runs the sweep; its output: {log}"
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
    """Submit the coordinator's next job when the time of this one is up; None when it is no job."""
    script = os.environ.get(SCRIPT)
    if script is None:
        return None
    text = Path(script).read_text(encoding="utf-8")
    return _submit(Path(script).parent, text, _LEAVING_S)


def queued(folder: Path) -> str | None:
    """Return the job of a detached coordinator that Slurm has not started yet, None without one.

    Where Slurm does not answer, it is asked no further.
    """
    try:
        job = (folder / _JOB).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    from hymba_lab.sweep.launchers import slurm_queue

    try:
        state = slurm_queue.listed([job]).get(job)
    except (slurm_queue.SlurmBusy, LaunchError):
        return None
    return job if state is not None and state.waits else None


def _as_job(folder: Path, name: str, command: Sequence[str], needs: Needs, log: Path) -> str:
    from hymba_lab.sweep.launchers.slurm_script import coordinator_script

    if os.environ.get(PASSWORDS):
        raise LaunchError(
            "--detach: a password in an address would have to be written into the job; put it into "
            "~/.pgpass (mode 600) on the cluster and leave it away here."
        )
    script = (folder / "coordinator.sh").resolve()
    text = coordinator_script(f"hymba-lab {name}", needs, log, command, 1, {SCRIPT: str(script)})
    write_atomically(script, text)
    return _submit(folder, text, _STARTING_S)


def _submit(folder: Path, text: str, patience_s: float) -> str:
    from hymba_lab.sweep.launchers import slurm_queue

    job = slurm_queue.patiently(text, patience_s)
    write_atomically(folder / _JOB, job + "\n", durable=False)
    return job
