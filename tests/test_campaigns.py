"""What disks, people and killers do to a project, many times: the same command reaches its table.

`make campaigns` runs the whole size. CAMPAIGN_SHARE=0.1 in the environment runs a tenth of it.
"""

import csv
import io
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import ROOT
from mutations import damage
from surroundings import (
    MOMENTARY,
    STRANGER,
    folder_names,
    lab_in,
    owned,
    project,
    somebody,
)
from sweeping import Ended, Lab

from hymba_lab.runs.tracking import Store, default_uri
from hymba_lab.sweep.observers.trials_db import TrialsDB

pytestmark = [pytest.mark.campaign, pytest.mark.slow]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


def size(whole: int) -> int:
    """How many cases are tried of a campaign of `whole`."""
    return max(1, math.ceil(whole * float(os.environ.get("CAMPAIGN_SHARE", "1"))))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A finished sweep of two runs, to be copied."""
    lab = lab_in(project(tmp_path_factory.mktemp("finished") / "project"))
    ended = lab.run()
    assert (ended.code, ended.err) == (0, "")
    return lab


def copy(finished: Lab, folder: Path) -> Lab:
    return lab_in(Path(shutil.copytree(finished.folder, folder)))


def numbers(lab: Lab) -> list[dict[str, str]]:
    """The lines of the table of runs, every number to the last digit."""
    lines = csv.DictReader(io.StringIO(lab.report("runs.csv")))
    return [{key: line[key] for key in line if key not in MOMENTARY} for line in lines]


def is_one_sentence(ended: Ended) -> bool:
    text = ended.out + ended.err
    return ended.code == 2 and ended.err.count("error: ") == 1 and "Traceback" not in text


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as opened:
        return int(opened.execute(f"select count(*) from {table}").fetchone()[0])


def spread(items: list[str], n: int) -> list[str]:
    """`n` of the items, from the first to the last."""
    return [items[round(k * (len(items) - 1) / max(1, n - 1))] for k in range(n)]


# --- names


def test_the_database_lies_in_its_folder_and_resume_works_whatever_the_folder_is_called(
    finished: Lab, tmp_path: Path
) -> None:
    names, faults = spread(folder_names(60), size(60)), {}
    for name in names:
        lab = copy(finished, tmp_path / "here" / name)
        (lab.folder / "mlflow.db").unlink()
        shutil.rmtree(lab.folder / "mlartifacts")
        shutil.rmtree(min(lab.folder.glob("runs/*/result.json")).parent)
        ended = lab.run()
        said = "all 2 runs are finished"
        if ended.code != 0 or ended.err or numbers(lab) != numbers(finished):
            faults[name] = ended.out + ended.err
        elif count(lab.folder / "mlflow.db", "runs") != 3 or said not in lab.run().out:
            faults[name] = "the database is not whole, or the sweep is not read back"
        elif not list(lab.folder.glob("mlartifacts/*/*/artifacts/table.md")):
            faults[name] = "the table is not attached"
        if os.listdir(tmp_path / "here") != [name]:
            faults[name] = f"written beside it: {os.listdir(tmp_path / 'here')}"
        shutil.rmtree(tmp_path / "here")
    assert faults == {}


# --- damage


def stores_of(lab: Lab) -> list[Path]:
    """Every file that a damage may befall: records, weights, databases, tables, attached files."""
    found = [path for place in ("runs", "mlartifacts") for path in (lab.folder / place).rglob("*")]
    return [path for path in [lab.folder / "mlflow.db", *sorted(found)] if path.is_file()]


def test_a_damaged_file_ends_in_the_same_table_or_in_one_sentence(
    finished: Lab, open_place: Path
) -> None:
    """Promise: loaded safely.

    Cut, emptied, garbled, deleted, a folder, a pipe, a dangling link, of another user, of a later
    version, of a clock that was ahead; the one who runs the sweep is no root, where root tests.
    """
    faults = {}
    for seed in range(size(40)):
        chance = random.Random(seed)
        lab = copy(finished, open_place / str(seed))
        unfinished(lab, chance)
        owned(lab.folder, STRANGER)
        what = damage(chance.choice(stores_of(lab)), chance)
        begun = time.monotonic()
        try:
            with somebody(STRANGER):
                ended = lab.run()
        except Exception as error:
            faults[f"{seed}: {what}"] = f"{type(error).__name__}: {error}"[:500]
            continue
        equal = ended.code == 0 and numbers(lab) == numbers(finished)
        if not (equal or is_one_sentence(ended)) or time.monotonic() - begun > 300:
            faults[f"{seed}: {what}"] = f"{ended.code} {(ended.out + ended.err)[-500:]}"
        shutil.rmtree(lab.folder)
    assert faults == {}


def unfinished(lab: Lab, chance: random.Random) -> None:
    """Now and then a run stands at its checkpoint, as a kill leaves it."""
    result = chance.choice(sorted(lab.folder.glob("runs/*/result.json")))
    if chance.random() < 0.5:
        from hymba_lab.config import from_resolved
        from hymba_lab.training.fit import fit

        resolved = json.loads(result.read_text())["config"]
        result.unlink()
        stop = lambda step, metrics: step >= 5  # noqa: E731
        fit(
            from_resolved(resolved, own=True), seed=0, folder=result.parent, stop=stop,
            keep_checkpoint=True,
        )  # fmt: skip


# --- stores


def killed_while_making(lab: Lab, after_s: float) -> bool:
    """Make the stores in a process of its own and kill its group; whether it was still at it."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setsid()
            Store(default_uri(lab.folder), lab.folder)
            TrialsDB(lab.session(), tell=lambda text: None)
        os._exit(0)
    time.sleep(after_s)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_in_the_first_second_of_its_stores_a_project_goes_on(
    finished: Lab, tmp_path: Path
) -> None:
    """Promise: kill it at any moment."""
    faults, n_killed, n = {}, 0, size(60)
    whole = lab_in(project(tmp_path / "whole"))
    begun = time.monotonic()
    assert Store(default_uri(whole.folder), whole.folder).sweeps() == {}
    takes_s = time.monotonic() - begun
    for seed in range(n):
        lab = lab_in(project(tmp_path / str(seed)))
        n_killed += killed_while_making(lab, random.Random(seed).uniform(0, 1.5 * takes_s))
        ended = lab.run()
        if ended.code != 0 or ended.err or numbers(lab) != numbers(finished):
            faults[seed] = (ended.out + ended.err)[-500:]
        shutil.rmtree(lab.folder)
    assert faults == {}
    assert n_killed >= n / 3, f"only {n_killed} of {n} were hit while they made their stores"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int, int], Path]]:
    """Disks by number and size [bytes]; asked for again, the same disk in another size."""
    made: set[Path] = set()

    def sized(number: int, n_bytes: int) -> Path:
        place = tmp_path / f"disk {number}"
        place.mkdir(exist_ok=True)
        how = f"remount,size={n_bytes}" if place in made else f"size={n_bytes}"
        mount = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode and not made:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        made.add(place)
        return place

    yield sized
    for place in made:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)


@as_root
def test_a_disk_that_is_full_while_the_stores_are_made_bricks_nothing(
    finished: Lab, small_disk: Callable[[int, int], Path]
) -> None:
    """Promise: kill it at any moment. With room again, the same command reaches its table."""
    largest = (finished.folder / "mlflow.db").stat().st_size + 200_000
    faults, n, n_full = {}, size(10), 0
    for number in range(n):
        n_bytes = 40_000 + round(largest * (number + 1) / n)
        folder = small_disk(number, n_bytes)
        lab = lab_in(project(folder / "project"))
        full = lab.run()
        n_full += full.code != 0
        told = full.code == 1 and "failed (disk)" in full.out  # the table without that run
        if full.code != 0 and not is_one_sentence(full) and not told:
            faults[f"{n_bytes} bytes"] = f"{full.code} {(full.out + full.err)[-500:]}"
        small_disk(number, 200_000_000)
        ended = lab.run()
        if ended.code != 0 or numbers(lab) != numbers(finished):
            faults[f"{n_bytes} bytes, then more"] = (ended.out + ended.err)[-500:]
        shutil.rmtree(folder / "project")
    assert faults == {}
    assert n_full >= n / 2, "most disks were to be full before the stores were made"


# --- Ctrl-C


def begun(lab: Lab) -> "subprocess.Popen[str]":
    """Start the command in a group of processes of its own, Ctrl-C heard."""
    return subprocess.Popen(
        [sys.executable, "-m", "hymba_lab.sweep", *lab.argv("--workers", "2")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=lab.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        # a shell starts background jobs with SIGINT ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_ctrl_c_in_the_first_half_minute_prints_one_sentence(tmp_path: Path) -> None:
    """Imports, stores, the fork server's start: the signal reaches every process at once."""
    start = time.monotonic()
    undisturbed = begun(lab_in(project(tmp_path / "undisturbed")))
    _, err = undisturbed.communicate(timeout=600)
    assert (undisturbed.returncode, err) == (0, "")
    latest_s = min(30, 0.9 * (time.monotonic() - start))
    faults, n, n_hit = {}, size(20), 0
    for seed in range(n):
        command = begun(lab_in(project(tmp_path / str(seed))))
        at_s = random.Random(seed).uniform(min(1, latest_s), latest_s)
        time.sleep(at_s)
        hit = command.poll() is None  # else it was faster
        if hit:
            os.killpg(command.pid, signal.SIGINT)
        _, err = command.communicate(timeout=600)
        n_hit += hit
        said = err == "stopped; the same command goes on from here.\n"
        if hit and (command.returncode not in (130, -signal.SIGINT) or not said):
            faults[f"{seed}: {at_s:.1f} s"] = f"{command.returncode} {err[-500:]}"
    assert faults == {}
    assert n_hit > n / 2, "most commands were to be at work when the signal came"
