"""Why a job of Slurm ended: by Slurm's word, the exit status of its script, and its log."""

import signal
from collections.abc import Callable

from hymba_lab.errors import TrialFailed, TrialInterrupted
from hymba_lab.sweep.launchers.attempt import Attempt
from hymba_lab.sweep.launchers.slurm_queue import State
from hymba_lab.sweep.launchers.worker import LEFT, REFUSED, SUPERSEDED, TIMED_OUT

_ASKED_TO_LEAVE = {int(signal.SIGTERM), int(signal.SIGUSR1), int(signal.SIGUSR2)}


def how_it_ended(
    job: str, state: State | None, attempt: Attempt
) -> TrialFailed | TrialInterrupted | None:
    """Return why a job of Slurm ended; None when its script came to its end."""
    last = attempt.last_line()
    said = f"; its log ends with: {last}" if last else ""
    if state is None:
        return TrialInterrupted("node_lost", f"Slurm does not know job {job} any more{said}")
    if state.name == "COMPLETED":
        return None
    found = _STATES.get(state.name)
    if found is not None:
        return found(f"Slurm: job {job} ended as {state.name}{said}")
    code = state.exit_code
    if code == SUPERSEDED:
        return TrialInterrupted("node_lost", f"job {job}: another process has taken the run over")
    if code in (LEFT, 128 + signal.SIGTERM) or state.signal in _ASKED_TO_LEAVE:
        return TrialInterrupted("preempted", f"job {job} was asked to leave and has saved")
    if code == TIMED_OUT:
        return TrialFailed("timeout", "the trial's time limit passed; raise trial_timeout_minutes")
    if code == REFUSED:
        why = last or "its log is not here either: the folder is not shared with its node"
        return TrialFailed("refused", f"job {job}: {why}")
    if code == 137 or state.signal == signal.SIGKILL:
        return TrialFailed("crash", f"job {job} was killed; memory may have run out{said}")
    return TrialFailed("crash", f"job {job} ended with exit code {code}:{state.signal}{said}")


_STATES: dict[str, Callable[[str], TrialFailed | TrialInterrupted]] = {
    "OUT_OF_MEMORY": lambda said: TrialFailed("out_of_memory", f"{said}; raise memory_gb"),
    "TIMEOUT": lambda said: TrialFailed("timeout", f"{said}; raise minutes"),
    "DEADLINE": lambda said: TrialFailed("timeout", said),
    "PREEMPTED": lambda said: TrialInterrupted("preempted", said),
    "CANCELLED": lambda said: TrialInterrupted("cancelled", said),
    "NODE_FAIL": lambda said: TrialInterrupted("node_lost", said),
    "BOOT_FAIL": lambda said: TrialInterrupted("node_lost", said),
    "LAUNCH_FAILED": lambda said: TrialInterrupted("node_lost", said),
}
