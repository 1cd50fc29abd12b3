"""Slurm's own commands: submit, look, cancel. Whether a job has ended is Slurm's word alone.

`squeue` tells of ended jobs for some minutes (MinJobAge), `scontrol` how they ended, `sacct` of
older ones where accounting is kept.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hymba_lab.errors import LaunchError
from hymba_lab.runs.store_uri import SECRETS
from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy, complaint

ACTIVE = frozenset(
    ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED",
     "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "RESIZING", "SIGNALING", "STAGE_OUT",
     "SPECIAL_EXIT")
)  # fmt: skip

_AGAIN_S = 5.0  # between two tries of a submission


@dataclass(frozen=True)
class State:
    """What Slurm says of a job; `exit_code` and `signal` are those of its script."""

    name: str
    exit_code: int = 0
    signal: int = 0
    reason: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the job waits, runs, or will run again."""
        return self.name in ACTIVE

    @property
    def waits(self) -> bool:
        """Whether the job has not begun, or is to begin again."""
        return self.name in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED")


def submit(script: str) -> str:
    """Return the id of a new job; raises `SlurmBusy`, or `LaunchError` where it never will."""
    out = _slurm(["sbatch", "--parsable"], script)
    return out.strip().partition(";")[0]


def requeue(job: str) -> str:
    """Have a job that runs begin anew, under its own number; raises as `submit` does."""
    _slurm(["scontrol", "requeue", job])
    return job


def patiently(ask: Callable[[], str], patience_s: float) -> str:
    """Return `ask()`, asked again for so long where Slurm is busy; `LaunchError` after that."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except SlurmBusy as error:
            if time.monotonic() > until:
                raise LaunchError(f"{error}; it takes no job now: try again later.") from None
            time.sleep(_AGAIN_S)


def listed(ids: Collection[str]) -> dict[str, State]:
    """Return the states of those of our jobs that `squeue` still lists.

    Raises `SlurmBusy` whatever it complains of: the question is no job's, so no job has failed;
    `LaunchError` where there is no such command.
    """
    try:
        out = _slurm(["squeue", "--me", "--noheader", "--states=all", "--format=%A|%T"])
    except LaunchError as error:
        if shutil.which("squeue") is None:
            raise
        raise SlurmBusy(str(error)) from None
    found = dict(line.split("|", 1) for line in out.split() if "|" in line)
    return {job: State(found[job]) for job in ids if job in found}


def ended(job: str) -> State | None:
    """Return how a job ended, in detail; None when Slurm has forgotten it."""
    try:
        out = _slurm(["scontrol", "--oneliner", "show", "job", job])
    except LaunchError:  # purged
        return _accounted(job)
    found = dict(re.findall(r"(\w+)=(\S*)", out))
    code, _, number = found.get("ExitCode", "0:0").partition(":")
    return State(
        found.get("JobState", "UNKNOWN"), _int(code), _int(number), found.get("Reason", "")
    )


def cancel(ids: Sequence[str], number: str | None = None) -> None:
    """End jobs, or send a signal to their scripts."""
    if not ids:
        return
    how = ["--batch", f"--signal={number}"] if number else []
    try:
        _slurm(["scancel", "--quiet", *how, *ids])
    except (SlurmBusy, LaunchError):  # ended already, or Slurm is away: nothing more can be done
        return


def _accounted(job: str) -> State | None:
    try:
        out = _slurm(["sacct", "-nXP", "-j", job, "-o", "State,ExitCode"])
    except (LaunchError, SlurmBusy):  # no accounting here
        return None
    line = out.strip().split("\n")[-1]
    if "|" not in line:
        return None
    name, _, code = line.partition("|")
    exit_code, _, number = code.partition(":")
    return State(name.split()[0], _int(exit_code), _int(number))


def _slurm(command: list[str], text: str | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=60, env=environment
        )
    except FileNotFoundError:
        raise LaunchError(
            f"--launcher slurm: there is no {command[0]} here; start it on a login node of the "
            "cluster, or use another --launcher."
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmBusy(f"{command[0]} did not answer in 60 s") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())[:300]
    raise complaint(command[0], said)


def _int(text: str) -> int:
    return int(text) if text.isdigit() else 0
