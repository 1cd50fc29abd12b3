"""One writer: of several processes one holds a run, and who has lost it writes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

from hymba_lab.errors import LeaseLost, TrialFailed
from hymba_lab.runs import lease as leases
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lease import clear, newest, take, take_over
from hymba_lab.runs.root_id import root_id
from hymba_lab.sweep.launchers.worker import require_root

IDENTITY = "a" * 64
HOLDER = """if 1:
    import sys, time
    from pathlib import Path
    from hymba_lab.runs.lease import take
    lease = take(Path(sys.argv[1]), sys.argv[2])
    print("taken" if lease else "refused", flush=True)
    for line in sys.stdin:
        print("held" if lease.valid else "lost", flush=True)
"""


@contextmanager
def holder(folder: Path, claim: str = "other") -> Iterator["subprocess.Popen[str]"]:
    """Another process that has taken the folder's lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), claim], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "taken\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def asked(process: "subprocess.Popen[str]") -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_lease_is_one_process_alone_and_free_once_it_is_dead(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert take(tmp_path) is None
        held = newest(tmp_path)
        assert held is not None and held.holder["pid"] == other.pid
        assert f"process {other.pid} on " in held.by
        other.kill()
        other.wait()
        mine = take(tmp_path)
        assert mine is not None and mine.valid
    mine.release()
    assert newest(tmp_path) is None


def test_a_stopped_holder_is_passed_over_and_has_lost_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        assert take(tmp_path) is None  # it may only be slow
        held = newest(tmp_path)
        assert held is not None
        long_ago = time.time() - leases.LEASE_S - 1
        os.utime(held.path, (long_ago, long_ago))
        mine = take(tmp_path)
        assert mine is not None
        other.send_signal(signal.SIGCONT)
        assert asked(other) == "lost"
        assert mine.valid


def test_a_claim_is_taken_over_by_its_worker_and_by_the_job_started_again(tmp_path: Path) -> None:
    claimed = take(tmp_path, "claim")
    assert claimed is not None
    first = take_over(tmp_path, "claim", "Slurm job 7")
    assert first is not None and not claimed.valid
    second = take_over(tmp_path, "claim", "Slurm job 7")  # requeued while the first one lived on
    assert second is not None and second.valid and not first.valid
    first.release()
    assert second.valid
    assert take_over(tmp_path, "void") is None
    clear(tmp_path, "claim")  # the queue says that the job has ended
    assert not second.valid
    assert take_over(tmp_path, "claim") is None


def test_of_eight_processes_at_once_one_takes_it(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), f"claim {n}"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for n in range(8)
    ]  # fmt: skip
    said = [process.stdout.readline().strip() for process in started if process.stdout]
    assert sorted(said) == ["refused"] * 7 + ["taken"]
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_run_writes_is_refused_once_it_is_lost(tmp_path: Path) -> None:
    from hymba_lab.atomic import write_bytes

    folder = RunFolder(tmp_path, IDENTITY)
    with folder.locked() as lease:
        assert lease is not None
        folder.report({"step": 3, "metrics": {}})
        held = newest(folder.path)
        assert held is not None
        clear(folder.path, held.claim)
        other = take(folder.path)
        assert other is not None
        before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
        with pytest.raises(LeaseLost, match="taken this run over"):
            folder.finish({"metrics": {}, "history": [], "stopped_by": None})
        with pytest.raises(LeaseLost):
            folder.fail("crash", "said by the one that is lost")
        with pytest.raises(LeaseLost):
            write_bytes(folder.path / "last.ckpt", b"old", lease.require)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


@pytest.mark.parametrize("then", [0.0, time.time() + 1e8], ids=["long ago", "a clock ahead"])
def test_a_file_that_is_no_lease_holds_until_it_is_of_another_time(
    tmp_path: Path, then: float
) -> None:
    (tmp_path / "lease.3.json").write_text("{")
    assert take(tmp_path) is None
    os.utime(tmp_path / "lease.3.json", (then, then))
    mine = take(tmp_path)
    assert mine is not None and mine.path.name == "lease.4.json"
    assert json.loads(mine.path.read_text())["holder"]["pid"] == os.getpid()


def test_a_folder_of_the_same_name_elsewhere_is_refused(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    told = root_id(mine)
    assert root_id(mine) == told  # made once
    require_root(mine, told)
    for found in (other, tmp_path / "none"):
        if found == other:
            root_id(other)
        with pytest.raises(TrialFailed, match="is not the coordinator's folder") as refused:
            require_root(found, told)
        assert refused.value.reason == "refused"


def test_a_clock_that_is_set_kills_no_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time at which a process started moves with the clock; its ticks do not."""
    here = leases.this_process()
    assert leases.is_alive(here)
    assert leases.is_alive({**here, "started": here["started"] + 3600})
    assert not leases.is_alive({**here, "ticks": here["ticks"] + 1})
    before = {key: value for key, value in here.items() if key != "ticks"}
    assert leases.is_alive(before) and not leases.is_alive({**before, "started": 1.0})


def test_a_lease_that_cannot_be_read_once_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = take(tmp_path)
    assert mine is not None

    def broken(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(leases, "json_of", broken)
    assert mine.valid
    monkeypatch.undo()
    (tmp_path / "lease.2.json").write_text("{}")  # another one's, half written
    assert not mine.valid


def test_what_a_killed_process_was_writing_goes_with_the_next_one(tmp_path: Path) -> None:
    """Eighteen gigabytes of a 1.5B checkpoint stayed after every kill of `train`."""
    run = RunFolder(tmp_path, IDENTITY)
    run.path.mkdir(parents=True)
    (run.path / "last.ckpt.7.ab.partial").write_text("half")
    with run.locked():
        assert not list(run.path.glob("*.partial"))
