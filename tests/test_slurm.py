"""A queue that refuses: what passes by itself is waited for, and holds up nothing else."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from slurm_stub import FULL, POLICY, SlurmStub, slurm_stub
from sweeping import SWEEP, Lab

from hymba_lab.errors import LaunchError
from hymba_lab.sweep.launchers.base import Site
from hymba_lab.sweep.launchers.needs import NOTHING_ASKED, Needs
from hymba_lab.sweep.launchers.slurm import Slurm
from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy, SlurmFull, complaint
from hymba_lab.sweep.observers.view import View

__all__ = ["slurm_stub"]


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    launcher = Slurm(Site("fusion"), poll_s=0.1, leave_s=10)
    yield launcher
    launcher.leave()


def asked_for(slurm: Slurm, folder: Path, name: str, needs: Needs = NOTHING_ASKED) -> "Future[str]":
    task = SimpleNamespace(folder=folder / name, claim=name, needs=needs)
    return slurm.submit(str, task)


def until(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_queue_holds_up_no_trial_that_has_ended(
    slurm: Slurm, slurm_stub: SlurmStub, tmp_path: Path
) -> None:
    """With a limit below the number of trials none was taken in until the last was submitted."""
    slurm_stub.refuses = lambda script: FULL if slurm_stub.jobs else ""
    first, second = (asked_for(slurm, tmp_path, name) for name in ("first", "second"))
    until(lambda: "QOSMaxSubmitJobPerUserLimit" in slurm.trouble)
    slurm_stub.jobs["41"] = "COMPLETED"
    assert first.result(timeout=20) == "finished"
    assert not second.done() and "QOSMaxSubmitJobPerUserLimit" in slurm.trouble
    slurm_stub.jobs.clear()
    until(lambda: slurm_stub.jobs and not slurm.trouble)
    slurm_stub.jobs["42"] = "COMPLETED"
    assert second.result(timeout=20) == "finished"


def test_a_full_partition_leaves_the_jobs_of_another_alone(
    slurm: Slurm, slurm_stub: SlurmStub, tmp_path: Path
) -> None:
    slurm_stub.refuses = lambda script: FULL if "--partition=small" in script else ""
    for name in ("one", "two"):
        asked_for(slurm, tmp_path, name, Needs(partition="small"))
    asked_for(slurm, tmp_path, "three", Needs(partition="large"))
    until(lambda: slurm_stub.jobs)
    assert "--partition=large" in slurm_stub.scripts["41"]
    assert "QOSMaxSubmitJobPerUserLimit" in slurm.trouble


def test_a_job_that_policy_never_takes_is_told_at_once(
    slurm: Slurm, slurm_stub: SlurmStub, tmp_path: Path
) -> None:
    slurm_stub.refuses = lambda script: f"sbatch: error: QOSMaxWallDurationPerJobLimit {POLICY}"
    error = asked_for(slurm, tmp_path, "long").exception(timeout=20)
    assert isinstance(error, LaunchError)
    assert "QOSMaxWallDurationPerJobLimit" in str(error) and "--resources" in str(error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (FULL, SlurmFull),
        (f"sbatch: error: AssocGrpSubmitJobsLimit {POLICY}", SlurmFull),
        (f"sbatch: error: AssocMaxJobsLimit {POLICY}", SlurmFull),
        (f"sbatch: error: MaxSubmitAccount {POLICY}", SlurmFull),
        (POLICY, SlurmFull),  # no reason is told
        (f"sbatch: error: QOSMinNode {POLICY}", LaunchError),
        (f"sbatch: error: AssocMaxWallDurationPerJobLimit {POLICY}", LaunchError),
        (f"sbatch: error: MaxCpuPerAccount {POLICY}", LaunchError),
        ("sbatch: error: Slurm backup controller in standby mode", SlurmBusy),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping", SlurmBusy),
        ("sbatch: error: invalid partition specified: standby", LaunchError),
        ("sbatch: error: invalid partition specified: socket", LaunchError),
    ],
)
def test_the_reason_decides_whether_a_refusal_passes(said: str, kind: type[Exception]) -> None:
    """The line of the policy follows every reason; a partition may have any name."""
    assert type(complaint("sbatch", said)) is kind


def test_the_view_says_once_what_is_waited_for(tmp_path: Path) -> None:
    out = io.StringIO()
    view = View(Lab(tmp_path, SWEEP).session(), Console(file=out, width=200))
    view.trouble = lambda: "the queue is full"
    view.waiting({})
    view.waiting({})
    assert out.getvalue().count("waits: the queue is full") == 1
