"""A Slurm that is a dictionary: what `sbatch`, `squeue`, `scontrol` and `scancel` would say."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from hymba_lab.sweep.launchers import slurm_queue

POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)"
)
FULL = f"sbatch: error: QOSMaxSubmitJobPerUserLimit {POLICY}"

Done = subprocess.CompletedProcess


class SlurmStub:
    """Jobs by id and the state each is in; `refuses(script)` is the complaint of a submission."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.refuses: Callable[[str], str] = lambda script: ""
        self.away = ""  # what every command complains of
        self.requeues = True
        self.on_cancel: Callable[[str], str] = lambda job: "CANCELLED"

    def __call__(
        self, command: list[str], input: str | None = None, **_: Any
    ) -> "subprocess.CompletedProcess[str]":
        self.asked.append(command)
        if self.away:
            return Done(command, 1, "", self.away)
        name, *words = command
        said = str(getattr(self, name)(words, input or ""))
        failed = said.startswith("error: ")
        return Done(command, int(failed), "" if failed else said, said.removeprefix("error: "))

    def sbatch(self, words: list[str], script: str) -> str:
        if complaint := self.refuses(script):
            return f"error: {complaint}"
        job = str(41 + len(self.scripts))
        self.jobs[job], self.scripts[job] = "PENDING", script
        return job + "\n"

    def squeue(self, words: list[str], _: str) -> str:
        return "".join(f"{job}|{state}\n" for job, state in self.jobs.items())

    def scontrol(self, words: list[str], _: str) -> str:
        job = words[-1]
        if "requeue" in words:
            if not self.requeues:
                return "error: Requested operation is presently disabled"
            self.jobs[job] = "PENDING"
            return ""
        if job not in self.jobs:
            return "error: slurm_load_jobs error: Invalid job id specified"
        return f"JobId={job} JobState={self.jobs[job]} ExitCode=0:0 Reason=None"

    def scancel(self, words: list[str], _: str) -> str:
        for job in words:
            if re.fullmatch(r"\d+", job) and job in self.jobs:
                self.jobs[job] = self.on_cancel(job)
        return ""

    def cancelled(self) -> set[str]:
        """The jobs that were ended, not only signalled."""
        return {
            job
            for command in self.asked
            if command[0] == "scancel" and not any("--signal" in word for word in command)
            for job in command
            if job.isdigit()
        }


@pytest.fixture
def slurm_stub(monkeypatch: pytest.MonkeyPatch) -> SlurmStub:
    stub = SlurmStub()
    monkeypatch.setattr(slurm_queue.subprocess, "run", stub)
    return stub
