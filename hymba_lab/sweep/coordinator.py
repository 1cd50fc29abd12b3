"""The loop between planner and workers: the only process that decides what runs.

It keeps nothing in memory that cannot be read back from the runs' folders, so it may be killed at
any moment; the next one continues.
"""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from hymba_lab.errors import FailureReason, TrialFailed
from hymba_lab.runs.folder import RunFolder
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.launchers.base import Launcher, failure_of
from hymba_lab.sweep.observers.base import Observer
from hymba_lab.sweep.planner import Planner
from hymba_lab.sweep.pruning import Pruning, make_pruning
from hymba_lab.sweep.task import Task, whole_enough

_RELEASE_S = 2.0  # a killed worker's lock is free once the system has cleaned up

# What fails the same way when nothing is changed in between: not tried again at once ...
_DETERMINED: tuple[FailureReason, ...] = ("nan", "data", "disk")
# ... and what no repair of files or machine changes: not tried by the same command again, either.
_FINAL: FailureReason = "nan"


class Coordinator:
    """Runs a planner's jobs to their end, each identity once."""

    def __init__(
        self,
        planner: Planner,
        root: Path,
        make_task: Callable[[Job, Pruning | None], Task],
        observers: list[Observer],
        *,
        retry_failed: bool = False,
    ) -> None:
        self.planner, self.root, self.make_task = planner, root, make_task
        self.observers, self.retry_failed = observers, retry_failed
        self.outcomes: dict[str, Outcome] = {}
        self._attempts: dict[str, int] = {}
        self._running: dict[Future[str], Job] = {}

    def run(self, launcher: Launcher | None) -> dict[str, Outcome]:
        """Return the outcome of every job by identity; without a launcher, of the finished ones."""
        while True:
            changed = False
            for job in self._open_jobs():
                found = self.look_up(job)
                if found is not None:
                    self._settle(job, found, trained=False)
                    changed = True
                elif launcher is not None:
                    self._submit(job, launcher)
            if changed:
                continue
            if not self._running:
                return self.outcomes
            self._collect(launcher)

    @property
    def complete(self) -> bool:
        """Whether no job is left to train."""
        return not self._open_jobs()

    def look_up(self, job: Job) -> Outcome | None:
        """Return what the job's folder says, or None when it is still to be trained."""
        folder = RunFolder(self.root, job.identity)
        record = folder.result
        if record is not None and whole_enough(
            record, self.pruning(job), self.planner.sweep.file.stop
        ):
            return Outcome("pruned" if record["stopped_by"] else "finished", record)
        failure = folder.failure
        if failure is None or not self._gives_up(job, failure["reason"]):
            return None
        return Outcome("failed", {}, failure["reason"], failure["message"])

    def _gives_up(self, job: Job, reason: str) -> bool:
        """Whether a failure stands; one that was found, not made, is tried once more."""
        spent = self._attempts.get(job.identity, 0)
        if spent == 0:
            return reason == _FINAL and not self.retry_failed
        return reason in _DETERMINED or spent > self.planner.sweep.file.retries

    def pruning(self, job: Job) -> Pruning | None:
        """Return how a tuning trial is pruned; the compared runs never are."""
        file = self.planner.sweep.file
        if job.stage != "tune":
            return None
        records = [past.record for past in job.history if past.record]
        return make_pruning(file.pruner, file.metric, records)

    def _open_jobs(self) -> list[Job]:
        busy = {job.identity for job in self._running.values()}
        jobs = {job.identity: job for job in reversed(self.planner.jobs(self.outcomes))}
        return [
            job
            for identity, job in reversed(jobs.items())
            if identity not in busy | set(self.outcomes)
        ]

    def _submit(self, job: Job, launcher: Launcher) -> None:
        from hymba_lab.sweep.trial import run_trial  # imports lightning and mlflow: seconds

        self._attempts[job.identity] = self._attempts.get(job.identity, 0) + 1
        future = launcher.submit(run_trial, self.make_task(job, self.pruning(job)))
        self._running[future] = job
        for observer in self.observers:
            observer.started(job)

    def _collect(self, launcher: Launcher | None) -> None:
        done, _ = wait(self._running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            job = self._running.pop(future)
            error = future.exception()
            if error is not None:
                self._record_failure(job, failure_of(error))
            outcome = self.look_up(job)
            if outcome is not None:
                self._settle(job, outcome, trained=True)
            elif launcher is not None:
                self._submit(job, launcher)
        for observer in self.observers:
            observer.waiting({job.identity: job for job in self._running.values()})

    def _record_failure(self, job: Job, failed: TrialFailed) -> None:
        """Write down what the worker could not; one that only waited for another has not failed."""
        folder = RunFolder(self.root, job.identity)
        with folder.locked(timeout=_RELEASE_S) as free:
            if free:
                folder.fail(failed.reason, failed.message)
            else:
                self._attempts[job.identity] -= 1

    def _settle(self, job: Job, outcome: Outcome, trained: bool) -> None:
        self.outcomes[job.identity] = outcome
        for observer in self.observers:
            observer.ended(job, outcome, trained)
