"""Trials as jobs of Slurm: one `sbatch` each, asked after by `squeue` until Slurm says it ended.

Jobs are not requeued by Slurm: one job is one attempt, and the coordinator submits the next one.
A job that is requeued all the same goes on from its checkpoint.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hymba_lab.errors import LaunchError, TrialFailed, TrialInterrupted
from hymba_lab.sweep.launchers import slurm_queue
from hymba_lab.sweep.launchers.attempt import Attempt, is_of_another, read_job, write_job
from hymba_lab.sweep.launchers.base import Launcher, Site, launchers
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.launchers.slurm_endings import how_it_ended
from hymba_lab.sweep.launchers.slurm_leaving import end_jobs
from hymba_lab.sweep.launchers.slurm_queue import State
from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy, SlurmFull
from hymba_lab.sweep.launchers.slurm_script import (
    check_needs,
    coordinator_script,
    options,
    script,
)


@dataclass
class _Job:
    attempt: Attempt
    needs: Needs
    future: "Future[str]"
    id: str | None = None  # None until Slurm has taken it
    missing: int = 0  # times in a row that Slurm did not know it


@launchers.register("slurm")
class Slurm(Launcher):
    """Jobs of a Slurm cluster, with accounting or without."""

    def __init__(
        self,
        site: Site,
        *,
        poll_s: Annotated[float, Field(ge=0.1, le=600)] = 5.0,
        leave_s: Annotated[int, Field(ge=10, le=3600)] = 120,
        max_jobs: Annotated[int, Field(ge=1)] = 500,
        python: str | None = None,
        sbatch: list[Annotated[str, Field(pattern=r"^--[^\n\r]*$")]] = [],
    ) -> None:
        """`leave_s`: a trial saves and leaves so long [s] before its job's time is up; `sbatch`:
        further options of every job."""
        self.site, self.capacity = site, max_jobs
        self._poll_s, self._leave_s = poll_s, leave_s
        self._python, self._sbatch = python or sys.executable, sbatch
        self._jobs: list[_Job] = []
        self._lock, self._stopped, self._wake = (
            threading.Lock(),
            threading.Event(),
            threading.Event(),
        )
        self._thread: threading.Thread | None = None
        self.trouble = ""

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Submit a job for function(task); the future ends when Slurm says that the job has."""
        attempt = Attempt(Path(task.folder), task.claim)
        attempt.write_task(function, task)
        return self._watch(_Job(attempt, task.needs, _pending()))

    def attach(self, task: Any) -> "Future[str] | None":
        """Return a future of the job that an earlier coordinator submitted for this claim.

        The jobs of one that still runs are its own: who watches a job also cancels it.
        """
        folder = Path(task.folder)
        noted = read_job(folder)
        if noted.get("launcher") != "slurm" or noted.get("claim") != task.claim:
            return None
        if is_of_another(noted, folder, self.site.state_file):
            return None
        attempt = Attempt(folder, task.claim)
        return self._watch(_Job(attempt, task.needs, _pending(), str(noted["job"])))

    def why(self, error: BaseException) -> TrialFailed | TrialInterrupted:
        """Return why an attempt ended; the future's exception says it already."""
        if isinstance(error, TrialFailed | TrialInterrupted):
            return error
        return TrialFailed("crash", f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Let running trials save and leave, cancel waiting ones."""
        self.leave()
        with self._lock:
            ids = [job.id for job in self._jobs if job.id and not job.future.done()]
        try:
            end_jobs(ids)
        except SlurmBusy:
            slurm_queue.cancel(ids)

    def leave(self) -> None:
        """Stop asking; the jobs go on, and the next coordinator finds them."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def script(self, name: str, needs: Needs, task_file: Path, log: Path) -> str:
        """Return the script of one job, as it is given to `sbatch`."""
        return script(
            options(name, needs, log, self._leave_s, self._sbatch),
            needs.setup,
            self.site.n_threads,
            [self._python, "-m", "hymba_lab.sweep.launchers.worker", str(task_file)],
        )

    def plan(self, name: str, needs: Needs, folder: Path) -> str:
        """Return what `--plan` shows for a row: the script of its jobs."""
        self.check(needs)
        attempt = Attempt(folder, "CLAIM")
        return self.script(name, needs, attempt.task_file, attempt.log)

    def check(self, needs: Needs) -> None:
        """Refuse a job that no trial could end in."""
        check_needs(needs, self._leave_s)

    def coordinator_script(
        self,
        name: str,
        needs: Needs,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> str:
        """Return the script of the job that decides what runs: our interpreter and options."""
        command = [self._python, "-m", "hymba_lab.sweep", *arguments]
        return coordinator_script(name, needs, log, command, environment, self._sbatch)

    def _watch(self, job: _Job) -> "Future[str]":
        self.check(job.needs)
        with self._lock:
            self._jobs.append(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, daemon=True, name="slurm")
            self._thread.start()
        self._wake.set()
        return job.future

    def _poll(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                told = self._submit_waiting()
                self._look()
                self.trouble = told
            except SlurmBusy as busy:
                self.trouble = str(busy)
            except Exception as error:  # no trial may wait for ever for a thread that is gone
                self._give_up(error)
            self._wake.wait(self._poll_s)
            self._stopped.wait(0.1)  # several that come at once are submitted together

    def _submit_waiting(self) -> str:
        """Submit what waits; return what Slurm says where it takes no more for now.

        A kind of job that is refused leaves the others alone: each partition has its own limits.
        """
        full: dict[Needs, str] = {}
        for job in self._unfinished():
            if job.id is not None or job.needs in full or self._stopped.is_set():
                continue
            script = self.script(
                f"hymba-lab {self.site.name}", job.needs, job.attempt.task_file, job.attempt.log
            )
            try:
                job.id = slurm_queue.submit(script)
            except SlurmFull as refused:
                full[job.needs] = str(refused)
                continue
            except SlurmBusy as away:  # asked for every job, it would be waited for every time
                return str(away)
            except LaunchError as error:
                job.future.set_exception(error)
                continue
            by = self.site.state_file
            write_job(job.attempt.folder, "slurm", job.attempt.claim, job.id, by)
        return "; ".join(dict.fromkeys(full.values()))

    def _look(self) -> None:
        jobs = {job.id: job for job in self._unfinished() if job.id is not None}
        if not jobs:
            return
        states = slurm_queue.listed(list(jobs))
        for id_, job in jobs.items():
            state = states.get(id_)
            if state is None or not (state.is_active or state.name == "COMPLETED"):
                state = slurm_queue.ended(id_)
            job.missing = job.missing + 1 if state is None else 0
            if 0 < job.missing < 3:
                continue
            if state is None or not state.is_active:
                self._settle(job, state)

    def _settle(self, job: _Job, state: State | None) -> None:
        error = how_it_ended(job.id or "", state, job.attempt)
        if error is None:
            job.future.set_result(str(job.attempt.said.get("status", "finished")))
        else:
            job.future.set_exception(error)
        job.attempt.remove()

    def _give_up(self, error: Exception) -> None:
        for job in self._unfinished():
            job.future.set_exception(error)

    def _unfinished(self) -> list[_Job]:
        with self._lock:
            self._jobs = [job for job in self._jobs if not job.future.done()]
            return list(self._jobs)


def _pending() -> "Future[str]":
    future: Future[str] = Future()
    future.set_running_or_notify_cancel()
    return future
