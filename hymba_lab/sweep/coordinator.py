"""The loop between planner and workers: the only process that decides what runs.

It keeps nothing in memory that cannot be read back from the runs' folders, so it may be killed at
any moment; the next one continues.
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path

from hymba_lab.errors import FailureReason, LaunchError, TrialFailed, TrialInterrupted
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lease import RENEW_S, Lease, clear, newest, take
from hymba_lab.stages.chain import next_of
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.observers.base import Observer
from hymba_lab.sweep.planner import Planner
from hymba_lab.sweep.pruning import Pruning, make_pruning
from hymba_lab.sweep.race import GIVEN_UP_AT
from hymba_lab.sweep.task import Task, whole_enough

_TICK_S = 0.5
_ELSEWHERE_S = 1.0  # how often the runs of other coordinators are looked at
_RELEASE_S = 2.0  # a killed worker's lock is free once the system has cleaned up

# What fails the same way when nothing is changed in between: not tried again at once ...
_DETERMINED: tuple[FailureReason, ...] = ("nan", "data", "disk")
# ... and what no repair of files or machine changes: not tried by the same command again, either.
_FINAL: FailureReason = "nan"


@dataclass(frozen=True)
class Asked:
    """An attempt under way; `lease` is the coordinator's claim until a worker takes it over."""

    job: Job
    claim: str
    launcher: Launcher
    lease: Lease | None


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
        interruptions: int = 20,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`interruptions`: how often in a row a trial may end without a step forward for no fault
        of its own (preempted, cancelled, its node lost) before it is given up. `tick()` is called
        twice a second and may raise."""
        self.planner, self.root, self.make_task = planner, root, make_task
        self.observers, self.retry_failed = observers, retry_failed
        self.interruptions, self._tick = interruptions, tick
        self.outcomes: dict[str, Outcome] = {}
        self._attempts: dict[str, int] = {}
        self._interrupted: dict[str, tuple[int, int]] = {}  # furthest step, times since then
        self._given_up: set[str] = set()
        self._running: dict[Future[str], Asked] = {}
        self._elsewhere: dict[str, Job] = {}  # another process trains it, or what it goes on from
        self._open: list[Job] | None = None  # None = outcomes have changed
        self._looked: set[str] = set()
        self._look_elsewhere_at = self._renew_at = 0.0

    def run(self, launcher: Launcher | None) -> dict[str, Outcome]:
        """Return the outcome of every job by identity; without a launcher, of the finished ones."""
        while True:
            self._take_stock(launcher)
            if not self._running and not self._elsewhere:
                return self.outcomes
            self._tick()
            self._collect()
            self._renew()

    @property
    def complete(self) -> bool:
        """Whether no job is left to train."""
        return not self._open_jobs()

    def _take_stock(self, launcher: Launcher | None) -> None:
        """Settle what has a result, ask for what has none, until nothing more is to be done."""
        changed = True
        while changed:
            changed, again = False, time.monotonic() > self._look_elsewhere_at
            for job in self._open_jobs():
                full = launcher is None or not self._has_room(launcher)
                elsewhere = job.identity in self._elsewhere
                if (full and job.identity in self._looked) or (elsewhere and not again):
                    continue
                found = self.look_up(job)
                self._looked.add(job.identity)
                if found is not None:
                    self._settle(
                        job, found, trained=self._elsewhere.pop(job.identity, None) is not None
                    )
                    changed = True
                elif launcher is not None and not full:
                    self._ask_for(job, launcher)
            if again:
                self._look_elsewhere_at = time.monotonic() + _ELSEWHERE_S

    def _has_room(self, launcher: Launcher) -> bool:
        return launcher.capacity is None or len(self._running) < launcher.capacity

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
        if job.identity in self._given_up:
            return True
        spent = self._attempts.get(job.identity, 0)
        if spent == 0:
            return reason == _FINAL and not self.retry_failed
        return reason in _DETERMINED or spent > self.planner.sweep.file.retries

    def pruning(self, job: Job) -> Pruning | None:
        """Return how a tuning trial is pruned; the compared runs never are."""
        file = self.planner.sweep.file
        if job.stage == "seed":
            return None
        records = [past.record for past in job.history if past.record]
        slack = GIVEN_UP_AT if job.stage == "race" else 1.0
        return make_pruning(file.pruner, file.metric, records, file.stop, slack)

    def _open_jobs(self) -> list[Job]:
        if self._open is None:
            jobs = {job.identity: job for job in reversed(self.planner.jobs(self.outcomes))}
            self._open = [
                job for identity, job in reversed(jobs.items()) if identity not in self.outcomes
            ]
        busy = {asked.job.identity for asked in self._running.values()}
        return [job for job in self._open if job.identity not in busy]

    def _ask_for(self, job: Job, launcher: Launcher) -> None:
        """Claim a run and have it trained; one that another coordinator has is left to it."""
        from hymba_lab.sweep.trial import run_trial  # imports lightning and mlflow: seconds

        folder, task = RunFolder(self.root, job.identity), self.make_task(job, self.pruning(job))
        held = newest(folder.path)
        if held is not None:
            known = replace(task, claim=held.claim)
            if held.claim and (future := launcher.attach(known)) is not None:
                self._watch(job, future, held.claim, launcher, None)
                return
        lease = None if self._begins_elsewhere(job) else take(folder.path)
        if lease is None or self.look_up(job) is not None:  # or has ended it between the two looks
            if lease is not None:
                lease.release()
            self._elsewhere[job.identity] = job
            return
        task = replace(task, claim=lease.claim)
        try:
            future = launcher.submit(run_trial, task)
        except BaseException:  # stopped in between: the claim is nobody's, and would be waited for
            lease.release()
            raise
        self._watch(job, future, lease.claim, launcher, lease)

    def _begins_elsewhere(self, job: Job) -> bool:
        """Whether a run that this one goes on from is being trained: a worker would only wait."""
        first = next_of(job.before, self.root)
        if first is None:
            return False
        held = newest(RunFolder(self.root, first).path)
        busy = {one for asked in self._running.values() for one in asked.job.chain}
        return first in busy or (held is not None and not held.is_free)

    def _watch(
        self, job: Job, future: "Future[str]", claim: str, launcher: Launcher, lease: Lease | None
    ) -> None:
        self._elsewhere.pop(job.identity, None)
        self._attempts[job.identity] = self._attempts.get(job.identity, 0) + 1
        self._running[future] = Asked(job, claim, launcher, lease)
        for observer in self.observers:
            observer.started(job)

    def _collect(self) -> None:
        if self._running:
            done, _ = wait(self._running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
        else:
            time.sleep(_TICK_S)
            done = set()
        for future in done:
            self._end(self._running.pop(future), future)
        running = {asked.job.identity: asked.job for asked in self._running.values()}
        for observer in self.observers:
            observer.waiting(running)

    def _end(self, asked: Asked, future: "Future[str]") -> None:
        """Take in how an attempt ended: a result, a failure, or neither, and then again."""
        job, error = asked.job, future.exception()
        if isinstance(error, LaunchError):  # the cluster takes no such job: nobody else's will run
            raise error
        clear(RunFolder(self.root, job.identity).path, asked.claim)
        why = asked.launcher.why(error) if error is not None else self._left(job, future.result())
        if isinstance(why, TrialFailed) and error is not None:
            self._record_failure(job, why)
        elif isinstance(why, TrialInterrupted):
            self._record_interruption(job, why)
        outcome = self.look_up(job)
        if outcome is not None:
            self._settle(job, outcome, trained=True)
        elif isinstance(why, TrialFailed):
            self._tell(job, why)

    def _tell(self, job: Job, why: TrialFailed | TrialInterrupted) -> None:
        for observer in self.observers:
            observer.broke_off(job, why)

    def _left(self, job: Job, status: str) -> TrialInterrupted | TrialFailed | None:
        """Return what a worker's word means that came to its end without a result."""
        if status == "left":
            return TrialInterrupted("preempted", "asked to leave; it goes on from its checkpoint")
        if status == "superseded":
            return TrialInterrupted("node_lost", "another process has taken the run over")
        failure = RunFolder(self.root, job.identity).failure if status == "failed" else None
        return TrialFailed(failure["reason"], failure["message"]) if failure else None

    def _record_failure(self, job: Job, failed: TrialFailed) -> None:
        """Write down what the worker could not; one that only waited for another has not failed."""
        folder = RunFolder(self.root, job.identity)
        with folder.locked(timeout=_RELEASE_S) as free:
            if free is None:
                self._attempts[job.identity] -= 1
            elif not whole_enough(folder.result, self.pruning(job), self.planner.sweep.file.stop):
                folder.fail(failed.reason, failed.message)

    def _record_interruption(self, job: Job, why: TrialInterrupted) -> None:
        """Count what was not the trial's fault; too often without a step forward ends the trial."""
        self._attempts[job.identity] -= 1
        folder = RunFolder(self.root, job.identity)
        if whole_enough(folder.result, self.pruning(job), self.planner.sweep.file.stop):
            return
        step = int((folder.progress or {}).get("step", 0))
        before, times = self._interrupted.get(job.identity, (-1, 0))
        times = 1 if step > before else times + 1
        self._interrupted[job.identity] = (max(step, before), times)
        self._tell(job, why)
        with folder.locked(timeout=_RELEASE_S) as free:
            if free is None:
                return
            if times <= self.interruptions:
                folder.count_ending(why.reason)
                return
            said = f"{times} times in a row without a step forward: {why.message}"
            folder.fail(why.reason, said)
            self._given_up.add(job.identity)

    def _renew(self) -> None:
        """Show that the claims of waiting trials are alive; a worker that runs renews its own."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + RENEW_S
        for asked in self._running.values():
            if asked.lease is not None and asked.lease.valid:
                asked.lease.renew()

    def release(self) -> None:
        """Give back what was claimed and has not begun, after the launcher has stopped."""
        for asked in self._running.values():
            if asked.lease is not None:
                asked.lease.release()

    def _settle(self, job: Job, outcome: Outcome, trained: bool) -> None:
        self.outcomes[job.identity] = outcome
        self._open = None
        for observer in self.observers:
            observer.ended(job, outcome, trained)
