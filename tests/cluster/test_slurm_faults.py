"""What Slurm does to jobs: the table is the same, retries are untouched, one writer at a time."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY
from services import script, slurm
from sweeping import SWEEP, Lab
from test_one_table import SLURM, numbers

from hymba_lab.runs.lease import newest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SLOWER = TINY.replace(
    "tokens: 640, val_every: 5", "tokens: 25600, val_every: 200, checkpoint_every: 2"
)
ONE = SWEEP.replace("seeds: [0, 1]", "seeds: [0]") + "retries: 0\n"


def until(happened: Callable[[], Any], patience_s: float = 240) -> Any:
    end = time.monotonic() + patience_s
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def running(lab: Lab) -> dict[str, Path]:
    """Job -> folder of every trial that has made a checkpoint."""
    found = {}
    for path in lab.folder.glob("runs/*/job.json"):
        if (path.parent / "last.ckpt").exists() and newest(path.parent) is not None:
            found[str(json.loads(path.read_text())["job"])] = path.parent
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), ONE, SLOWER).with_store()
    command = lab.start("--workers", "2")
    assert command.communicate(timeout=600) and command.returncode == 0
    return lab


@pytest.fixture
def begun(slurm: Path, tmp_path: Path) -> Iterator[tuple[Lab, "subprocess.Popen[str]"]]:
    """A sweep on Slurm whose first trial has a checkpoint."""
    lab = Lab(tmp_path, ONE, SLOWER).with_store()
    lab.write("cluster.yaml", SLURM)
    command = lab.start("--resources", str(tmp_path / "cluster.yaml"))
    try:
        until(lambda: running(lab) or command.poll() is not None)
        yield lab, command
    finally:
        command.kill()
        command.communicate()


def finish(command: "subprocess.Popen[str]") -> str:
    out, err = command.communicate(timeout=600)
    assert command.returncode == 0, out + err
    return out


def endings(lab: Lab) -> list[str]:
    return [
        reason
        for path in lab.folder.glob("runs/*/endings.json")
        for reason in json.loads(path.read_text())
    ]


@pytest.mark.parametrize(
    ("what", "reason"), [("cancelled", "cancelled"), ("asked to leave", "preempted")]
)
def test_what_is_not_the_trials_fault_uses_up_no_retry(
    undisturbed: Lab, begun: tuple[Lab, "subprocess.Popen[str]"], what: str, reason: str
) -> None:
    lab, command = begun
    job = next(iter(running(lab)))
    words = ["--batch", "--signal=USR2"] if what == "asked to leave" else []
    slurm_says("scancel", *words, job)
    out = finish(command)
    assert f": {reason}: " in out
    assert reason in endings(lab)
    assert numbers(lab) == numbers(undisturbed)


def test_a_coordinator_that_was_killed_finds_its_jobs_again(
    undisturbed: Lab, begun: tuple[Lab, "subprocess.Popen[str]"]
) -> None:
    lab, command = begun
    jobs = set(slurm_says("squeue", "-h", "-o", "%A").split())
    command.kill()
    command.communicate()
    again = lab.start("--resources", str(lab.folder / "cluster.yaml"))
    finish(again)
    ran = {json.loads(path.read_text())["job"] for path in lab.folder.glob("runs/*/job.json")}
    assert ran <= jobs
    assert numbers(lab) == numbers(undisturbed)


def test_a_lost_node_that_comes_back_writes_nothing(
    undisturbed: Lab, begun: tuple[Lab, "subprocess.Popen[str]"], slurm: Path
) -> None:
    """Its process is stopped, the node declared down, the run taken over, the process goes on."""
    lab, command = begun
    job, folder = next(iter(running(lab).items()))
    node = slurm_says("squeue", "-h", "-j", job, "-o", "%N").strip()
    held = newest(folder)
    assert held is not None
    old = psutil.Process(int(held.holder["pid"]))
    old.send_signal(signal.SIGSTOP)
    try:
        os.kill(int((slurm / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        slurm_says("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        finish(command)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        old.send_signal(signal.SIGCONT)
        old.wait(timeout=120)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert {n: t for n, t in after.items() if n != "trial.log"} == {
            n: t for n, t in before.items() if n != "trial.log"
        }
        assert "node_lost" in endings(lab)
        assert numbers(lab) == numbers(undisturbed)
    finally:
        if old.is_running():
            old.kill()
        script("slurm.sh", "node", slurm, node)
        # a node that has come back by itself is up already, and says so
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
