"""Where trials run. The seam is `submit(function, task) -> Future`, as in `concurrent.futures`."""

from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Any, Protocol

from pebble import ProcessExpired

from hymba_lab.errors import TrialFailed


class Launcher(Protocol):
    """Runs trials somewhere: here, under Slurm, on Ray."""

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Return a future of function(task)."""
        ...

    def stop(self) -> None:
        """End what is running; unfinished runs keep their checkpoints."""
        ...


def failure_of(error: BaseException) -> TrialFailed:
    """Return what a future's exception means for its trial."""
    if isinstance(error, TimeoutError):
        return TrialFailed("timeout", "the trial's time limit passed; raise trial_timeout_minutes")
    if isinstance(error, ProcessExpired):
        killed = error.exitcode in (-9, 137)
        hint = "; the system may have run out of memory" if killed else ""
        return TrialFailed("crash", f"the worker ended with exit code {error.exitcode}{hint}")
    if isinstance(error, MemoryError):
        return TrialFailed("out_of_memory", str(error) or "the worker ran out of memory")
    return TrialFailed("crash", f"{type(error).__name__}: {error}")
