"""Killed at random moments, started twice at once: the table is that of an undisturbed sweep."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, TINY
from sweeping import N_JOBS, SEARCH, SWEEP, Lab

from hymba_lab.runs.tracking import IDENTITY, ROLE, SHARED_FROM

pytestmark = pytest.mark.slow

PATIENCE_S = 600.0  # machines are shared
WORKERS = ("--workers", "2")
# what depends on the moment: speed, and the repository, which someone may be working in
OTHER = {"tokens_per_second", "seconds", "commit", "dirty"}
# 180 steps with a checkpoint after every second one: longer than a test waits before it kills, so
# that a fast machine does not finish the sweep first
SLOWER = TINY.replace(
    "tokens: 640, val_every: 5", "tokens: 11520, val_every: 60, checkpoint_every: 2"
)


HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def slow_lab(folder: Path, sweep: str = SWEEP + SEARCH) -> Lab:
    folder.mkdir(exist_ok=True)
    return Lab(folder, sweep, SLOWER).with_store()


def numbers(lab: Lab, file: str, name: str = "sweep-tiny") -> list[dict[str, str]]:
    """The lines of a table, every number to the last digit."""
    lines = csv.DictReader(io.StringIO(lab.report(file, name)))
    return [{key: line[key] for key in line if key not in OTHER} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = slow_lab(tmp_path_factory.mktemp("undisturbed"))
    finish(lab.start(*WORKERS))
    return lab


def start(lab: Lab) -> "subprocess.Popen[str]":
    """Start the command as a terminal does: a group of processes of its own, Ctrl-C heard."""
    return subprocess.Popen(
        [sys.executable, "-m", "hymba_lab.sweep", *lab.argv(*WORKERS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=lab.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        # a shell starts jobs with SIGINT ignored, nohup with SIGHUP, and that is inherited
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in HEARD],
    )  # fmt: skip


def finish(command: "subprocess.Popen[str]", code: int = 0) -> str:
    out, err = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, err) == (code, ""), out + err
    return out


def until(happened: Callable[[], Any], command: "subprocess.Popen[str]") -> None:
    """Wait for something; a command that ended is no longer waited for."""
    end = time.monotonic() + PATIENCE_S
    while not happened() and command.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)


def workers(command: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train: forked, also by a server that is gone since."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError):
            mine = os.getsid(process.pid) == command.pid != process.ppid()
            if mine and "multiprocessing.forkserver" in " ".join(process.cmdline()):
                found.append(process)
    return found


def server(command: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The process that trials are forked from, and the one that cleans up after it."""
    try:
        return psutil.Process(command.pid).children()
    except psutil.NoSuchProcess:
        return []


def targets(command: "subprocess.Popen[str]", who: str) -> list[psutil.Process]:
    if who == "coordinator":
        return [psutil.Process(command.pid)] if command.poll() is None else []
    return workers(command)[:1] if who == "worker" else server(command)


def hit(command: "subprocess.Popen[str]", who: str, number: int) -> bool:
    """Send a signal to a part of the sweep's processes; False where the sweep has ended.

    Between two trials there may be no worker: a hit waits for one.
    """
    found: list[psutil.Process] = []
    until(lambda: found.extend(targets(command, who)) or found, command)
    if who == "everyone":
        with suppress(ProcessLookupError):  # it ended between the look and the signal
            os.killpg(command.pid, number)
        return bool(found)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return bool(found)


def leave_nobody(command: "subprocess.Popen[str]", seen: set[psutil.Process]) -> None:
    """Wait for the end of a coordinator that was hit, and of every trial that it had begun."""
    command.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(seen, timeout=60)
    assert alive == [], "workers train on without anyone to tell"


def assert_one_closed_run_each(lab: Lab, name: str = "sweep-tiny") -> None:
    store = lab.store()
    runs = store.client.search_runs([store.experiment(name)])
    assert Counter(run.info.status for run in runs) == {"FINISHED": len(runs)}
    roles = Counter(run.data.tags[ROLE] for run in runs)
    identities = {run.data.tags[IDENTITY] for run in runs if run.data.tags[ROLE] == "trial"}
    assert roles == {"sweep": 1, "trial": len(identities)}


# two chains of five kills before every change, a hundred before a release: those of all kinds
CHAINS = [1, 2, *(pytest.param(chain, marks=pytest.mark.campaign) for chain in range(3, 21))]
WHO = ("worker", "coordinator", "server", "everyone")
SIGNALS = (signal.SIGKILL, *HEARD)
KINDS = [(who, number) for number in SIGNALS for who in WHO]


def kinds(chain: int) -> list[tuple[str, int]]:
    """Who is hit with what, five times."""
    if chain <= 2:
        return [(WHO[(number + chain + 1) % 2], signal.SIGKILL) for number in range(5)]
    return [KINDS[(5 * (chain - 3) + number) % len(KINDS)] for number in range(5)]


@pytest.mark.parametrize("chain", CHAINS)
def test_killed_at_five_moments_the_sweep_ends_the_same(
    undisturbed: Lab, tmp_path: Path, chain: int
) -> None:
    """Its processes are hit in turn, each at a random moment of what was left to do."""
    chance = random.Random(chain)
    lab = slow_lab(tmp_path / "killed")
    moments = sorted(chance.randrange(N_JOBS - 1) for _ in range(5))
    finished_once: dict[str, int] = {}
    command, killed = start(lab), 0
    seen: set[psutil.Process] = set()
    for (who, number), n_finished in zip(kinds(chain), moments, strict=True):
        until(lambda n=n_finished, c=command: len(lab.results()) >= n and workers(c), command)
        time.sleep(chance.uniform(0, 1.5))
        seen |= set(workers(command))
        killed += hit(command, who, number)
        time.sleep(0.5)  # so that it has ended, if it does
        if who in ("coordinator", "everyone") or command.poll() is not None:
            leave_nobody(command, seen)
            finished_once |= {
                run: when for run, when in lab.results().items() if run not in finished_once
            }
            command = start(lab)
    command.communicate(timeout=PATIENCE_S)
    if command.returncode:  # a run was killed more often than one command retries it
        finish(lab.start(*WORKERS))
    assert killed == 5, "the sweep was over before it was hit"
    assert numbers(lab, "table.csv") == numbers(undisturbed, "table.csv")
    assert numbers(lab, "runs.csv") == numbers(undisturbed, "runs.csv")
    results = lab.results()
    assert finished_once.items() <= results.items()
    assert len(results) == N_JOBS
    assert_one_closed_run_each(lab)
    assert "nothing to train" in finish(lab.start(*WORKERS))
    assert lab.results() == results


def test_the_same_sweep_started_twice_is_run_once(undisturbed: Lab, tmp_path: Path) -> None:
    lab = slow_lab(tmp_path / "twice")
    (lab.folder / "mlflow.db").unlink()  # its tables, too, are made only once
    first, second = lab.start(*WORKERS), lab.start(*WORKERS)
    outs = [finish(first), finish(second)]
    waited = [out for out in outs if "is being run by another process" in out]
    assert len(waited) == 1
    assert "all 8 runs are finished; nothing to train" in waited[0]
    assert numbers(lab, "table.csv") == numbers(undisturbed, "table.csv")
    assert len(lab.results()) == N_JOBS
    assert_one_closed_run_each(lab)


def test_two_sweeps_at_once_share_their_cells(tmp_path: Path) -> None:
    """Each trains what the other does not, and what both need is trained by one of them."""
    lab = slow_lab(tmp_path / "shared", SWEEP)
    third = SWEEP.replace("    gate", "    sum: {model.fusion: {name: sum}}\n    gate")
    lab.write("other.yaml", third)
    first, second = lab.start(*WORKERS), lab.start(*WORKERS, name="other.yaml")
    finish(first)
    finish(second)
    assert len(lab.results()) == 6
    assert_one_closed_run_each(lab)
    assert_one_closed_run_each(lab, "other-tiny")
    store = lab.store()
    copies: list[str] = []
    for name in ("sweep-tiny", "other-tiny"):
        runs = store.client.search_runs([store.experiment(name)], f"tags.`{ROLE}` = 'trial'")
        copies += [run.data.tags[IDENTITY] for run in runs if SHARED_FROM in run.data.tags]
    assert len(copies) == len(set(copies)) == 4  # one sweep trained it, the other has a copy
    rows = {line["row"]: line["mean"] for line in numbers(lab, "table.csv", "other-tiny")}
    assert {line["row"]: line["mean"] for line in numbers(lab, "table.csv")}.items() <= rows.items()


BAD_ROWS = """\
import os, time
import torch
from torch import nn
from hymba_lab.components.fusion import fusions

class Join(nn.Module):
    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()
        self.join = nn.Linear(d_attn, d_model)

@fusions.register("dies")
class Dies(Join):
    def forward(self, a, s):
        if not a.is_meta:
            os._exit(3)
        return self.join(a + s)

@fusions.register("hangs")
class Hangs(Join):
    def forward(self, a, s):
        if not a.is_meta:
            time.sleep(3600)
        return self.join(a + s)
"""


def test_a_worker_that_dies_or_hangs_costs_its_row_alone(tmp_path: Path) -> None:
    lab = Lab(tmp_path).with_store()
    lab.write("bad.py", BAD_ROWS)
    lab.write("tiny.yaml", "plugins: [bad.py]\n" + TINY)
    rows = "".join(
        f"    {name}: {{model.fusion: {{name: {name}}}}}\n" for name in ("dies", "hangs")
    )
    lab.write("sweep.yaml", SWEEP.replace("seeds: [0, 1]", "seeds: [0]") + rows)
    lab.edit(trial_timeout_minutes=0.25)
    out = finish(lab.start(*WORKERS), code=1)
    assert "dies, seed 0: failed (crash): the worker ended with exit code 3" in out
    assert "hangs, seed 0: failed (timeout): the trial's time limit passed" in out
    table = {line["row"]: line["mean"] for line in numbers(lab, "table.csv")}
    assert table["dies"] == table["hangs"] == ""
    assert float(table["mean"]) >= 0 and float(table["gate"]) >= 0
    store = lab.store()
    runs = store.client.search_runs([store.experiment("sweep-tiny")], f"tags.`{ROLE}` = 'trial'")
    assert {run.info.run_name: run.info.status for run in runs} == {
        "mean, seed 0": "FINISHED", "gate, seed 0": "FINISHED",
        "dies, seed 0": "FAILED", "hangs, seed 0": "FAILED",
    }  # fmt: skip


def test_ctrl_c_in_the_terminal_reaches_everyone_and_loses_nothing(
    undisturbed: Lab, tmp_path: Path
) -> None:
    lab = slow_lab(tmp_path / "stopped")
    command = start(lab)
    until(lambda: len(lab.results()) >= 2, command)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    _, err = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 130
    assert err.endswith("stopped; the same command goes on from here.\n")
    assert "Traceback" not in err
    before = lab.results()
    finish(lab.start(*WORKERS))
    assert before.items() <= lab.results().items()
    assert numbers(lab, "table.csv") == numbers(undisturbed, "table.csv")
    assert_one_closed_run_each(lab)
