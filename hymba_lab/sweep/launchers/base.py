"""Where trials run. The seam is `submit(function, task) -> Future`, as in `concurrent.futures`.

A launcher is a component: its keyword-only parameters are options of `launcher:` in the file that
`--resources` names, and a plugin can add one.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymba_lab.errors import TrialFailed, TrialInterrupted
from hymba_lab.processes.calls import ProcessEnded
from hymba_lab.registry import Registry
from hymba_lab.sweep.launchers.needs import NOTHING_ASKED, Needs


@dataclass(frozen=True)
class Site:
    """What every launcher is told: the sweep's name, threads and time limit [s] of a trial."""

    name: str
    n_threads: int = 1
    timeout_s: float | None = None
    n_workers: int | None = None  # None = the launcher's own choice
    needs: Needs = NOTHING_ASKED  # of trials about which nothing else is said
    state_file: Path | None = None  # of the coordinator that asks


class Launcher:
    """Runs trials somewhere: here, under Slurm, on Ray."""

    capacity: int | None = None
    """How many trials to ask for at a time; None = all that are open."""
    trouble: str = ""
    """What the launcher waits for at the moment, e.g. a queue that does not answer."""

    def waits_for(self) -> str:
        """Return `trouble` as it is now, "" where nothing is waited for; asked twice a second."""
        return self.trouble

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Return a future of function(task); its exception is for `why`."""
        raise NotImplementedError

    def attach(self, task: Any) -> "Future[str] | None":
        """Return a future of what an earlier coordinator asked for under the task's claim."""
        return None

    def why(self, error: BaseException) -> TrialFailed | TrialInterrupted:
        """Return what a future's exception means for its trial."""
        return failure_of(error)

    def plan(self, name: str, needs: Needs, folder: Path) -> str:
        """Return what `--plan` shows of one row's trials."""
        return ""

    def check(self, needs: Needs) -> None:
        """Raise `ConfigError` for what no trial can be given here."""

    def coordinator_script(
        self,
        name: str,
        needs: Needs,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> str | None:
        """Return the script of a job that runs the sweep with these arguments (`--detach`).

        None where no queue could: a process on this machine does. Raises `ConfigError` for needs
        that such a job cannot have.
        """
        return None

    def stop(self) -> None:
        """End what is running; unfinished runs keep their checkpoints."""

    def leave(self) -> None:
        """Forget what is running, where it can go on without this process."""
        self.stop()


launchers: Registry[Launcher] = Registry("launcher")


def failure_of(error: BaseException) -> TrialFailed | TrialInterrupted:
    """Return what a future's exception means for its trial."""
    if isinstance(error, TrialFailed | TrialInterrupted):
        return error
    if isinstance(error, TimeoutError):
        return TrialFailed("timeout", "the trial's time limit passed; raise trial_timeout_minutes")
    if isinstance(error, ProcessEnded):
        killed = error.exit_code in (-9, 137)
        hint = "; the system may have run out of memory" if killed else ""
        return TrialFailed("crash", f"the worker ended with exit code {error.exit_code}{hint}")
    if isinstance(error, MemoryError):
        return TrialFailed("out_of_memory", str(error) or "the worker ran out of memory")
    return TrialFailed("crash", f"{type(error).__name__}: {error}")
