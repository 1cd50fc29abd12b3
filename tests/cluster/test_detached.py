"""A coordinator that is a job of Slurm, and several that share one sweep."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from faults import Site, faulty_lab, left_open, released, slurm_says, trained_beside, until
from services import slurm
from sweeping import Lab
from test_faults import undisturbed
from test_one_table import SLURM, numbers

pytestmark = [pytest.mark.slow, pytest.mark.campaign]


def hymba_lab(lab: Lab, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hymba_lab", *words], capture_output=True, text=True,
        cwd=lab.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600,
    )  # fmt: skip


def state(lab: Lab) -> dict[str, Any]:
    done = hymba_lab(lab, "status", "sweep-tiny", "--root", str(lab.folder), "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def detached(slurm: Path, tmp_path: Path) -> tuple[Lab, str]:
    """A sweep whose coordinator is a job, and that trains: as another process sees."""
    lab = faulty_lab(tmp_path / "lab")
    lab.write("cluster.yaml", SLURM)
    argv = lab.argv("--resources", str(lab.folder / "cluster.yaml"))
    started = hymba_lab(lab, "sweep", *argv, "--detach")
    assert started.returncode == 0, started.stderr
    until(lambda: state(lab)["running"])
    return lab, started.stdout.split("Slurm job ")[1].split()[0]


def whole(lab: Lab, undisturbed: list[dict[str, str]]) -> None:
    assert numbers(lab) == undisturbed
    assert trained_beside(lab) == []
    assert left_open(Site("slurm", lab)) == {"FINISHED": 2}


def test_a_coordinator_that_is_requeued_goes_on(
    undisturbed: list[dict[str, str]], detached: tuple[Lab, str]
) -> None:
    """As preemption does; it need not wait its two minutes."""
    lab, job = detached
    slurm_says("scontrol", "requeue", job)
    until(lambda: released(job))
    until(lambda: (lab.folder / "runs" / "sweeps" / "sweep-tiny" / "table.csv").exists())
    until(lambda: not state(lab)["coordinators"])
    log = (lab.folder / "runs" / "sweeps" / "sweep-tiny" / "coordinator.log").read_text()
    assert "DUE TO JOB REQUEUE" in log
    whole(lab, undisturbed)


def test_a_coordinator_that_is_a_job_is_stopped_and_the_command_goes_on(
    undisturbed: list[dict[str, str]], detached: tuple[Lab, str], slurm: Path
) -> None:
    lab, job = detached
    stopped = hymba_lab(lab, "stop", "sweep-tiny", "--root", str(lab.folder), "--wait", "300")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert state(lab)["coordinators"] == []
    until(lambda: job not in slurm_says("squeue", "-h", "-o", "%A").split())
    site = Site("slurm", lab, slurm)
    site.start()
    site.finish()
    whole(lab, undisturbed)


def test_three_coordinators_share_the_work_of_one_sweep(tmp_path: Path) -> None:
    lab = faulty_lab(tmp_path / "lab", seeds=[0, 1, 2])
    commands = [lab.start("--workers", "1") for _ in range(3)]
    ended = [command.communicate(timeout=900) for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], ended
    assert sum("sharing its work" in out for out, _ in ended) == 2
    assert len(lab.results()) == 6
    assert trained_beside(lab) == []
    servers = {  # the fork server of each coordinator that trained
        journal.read_text().split()[2] for journal in lab.folder.glob("runs/*/journal")
    }
    assert len(servers) == 3
    assert left_open(Site("local", lab)) == {"FINISHED": 6}
