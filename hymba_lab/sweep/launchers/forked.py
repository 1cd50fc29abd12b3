"""Trials forked from a server: on this machine, and in each of Ray's workers.

Every trial is a process of its own, of a server that has imported torch, lightning and mlflow once:
a crash costs one trial, a start costs milliseconds.
"""

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hymba_lab.errors import TrialFailed, TrialInterrupted
from hymba_lab.processes.calls import SERVER_LOST, Calls, ProcessEnded
from hymba_lab.sweep.launchers.attempt import Attempt
from hymba_lab.sweep.launchers.base import failure_of
from hymba_lab.sweep.launchers.worker import ASKING, LEFT, SUPERSEDED, TIMED_OUT, work

_PRELOAD = "hymba_lab.sweep.trial"


class ForkedTrials:
    """Trials, at most `n` at a time; why one ended is read from its process."""

    def __init__(self, n: int) -> None:
        self._oom_kills = _oom_kills()
        self._calls = Calls(n, _PRELOAD)

    def submit(
        self,
        function: Callable[[Any], str],
        task: Any,
        environment: Mapping[str, str],
        timeout_s: float | None,
    ) -> "Future[str]":
        """Run function(task) in a fresh process; it is killed when the time limit passes."""
        future = self._calls.submit(work, [function, task, environment], timeout_s)
        attempt = Attempt(Path(task.folder), task.claim)
        future.add_done_callback(lambda _: attempt.remove())  # its process has told the rest
        return future

    def why(self, error: BaseException) -> TrialFailed | TrialInterrupted:
        """Return why a trial ended; the system counts the processes that it kills for memory."""
        if isinstance(error, ProcessEnded):
            if error.exit_code == SUPERSEDED:
                return TrialInterrupted("node_lost", "another process has taken the run over")
            if error.exit_code in (LEFT, *(-number for number in ASKING)):
                return TrialInterrupted("preempted", "asked to leave before it trained")
            if error.exit_code == SERVER_LOST:
                return TrialInterrupted("node_lost", "the server that starts workers was killed")
            if error.exit_code == TIMED_OUT:
                return failure_of(TimeoutError())
            if error.exit_code in (-9, 137) and (killed := _oom_kills()) > self._oom_kills:
                self._oom_kills = killed
                return TrialFailed("out_of_memory", "the system killed the worker for its memory")
        return failure_of(error)

    def ask_to_leave(self) -> None:
        """Let what runs save after its step and end."""
        self._calls.signal(signal.SIGTERM)

    def stop(self) -> None:
        """End what runs, within seconds."""
        self._calls.stop()


def _oom_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
