"""What a sweep's coordinator says of itself, what reads it, and the word that stops it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymba_lab.commands import status, stop
from hymba_lab.errors import LaunchError, StoreError, SweepStopped, UserError
from hymba_lab.sweep.detach import detach
from hymba_lab.sweep.jobs import Outcome
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.launchers.needs import NOTHING_ASKED
from hymba_lab.sweep.observers.state import StateFile, ask_to_stop, coordinators, last_state

IDENTITY = "a" * 64
JOB: Any = SimpleNamespace(
    identity=IDENTITY, name="gate, seed 0", config=SimpleNamespace(n_steps=20)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "sweeps" / "fusion-nano"
    made.mkdir(parents=True)
    return made


def said(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = status.main([*arguments, "--root", str(root)])
    return code, capsys.readouterr().out


def test_a_sweep_at_work_is_told_by_its_file_its_name_and_its_folder(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = StateFile(folder, lambda: 4, "local", lambda: "3 jobs are queued")
    state.ended(JOB, Outcome("finished", {"seconds": 7200.0}), True)
    state.started(JOB)
    state._written = 0.0
    state.waiting({IDENTITY: JOB})
    run = tmp_path / "runs" / IDENTITY[:20]
    run.mkdir()
    (run / "progress.json").write_text('{"step": 7, "metrics": {}}')
    for given in ("sweeps/fusion.yaml", "fusion", "fusion-nano", str(folder)):
        code, out = said(tmp_path, capsys, given)
        assert code == 0
        assert "fusion-nano: 1 of 4 runs done, 0 failed, about 6 h 00 min left" in out
        assert f"process {os.getpid()} (local)" in out
        assert "waits: 3 jobs are queued" in out
        assert "running: gate, seed 0: step 7/20" in out
    state.ended(JOB, Outcome("failed", {}, "nan", "the loss"), True)
    state.close()
    assert (last_state(folder) or {})["done"] == {"finished": 1, "pruned": 0, "failed": 1}
    code, out = said(tmp_path, capsys, "fusion")
    assert code == 1
    assert "no coordinator is running" in out and "failed: gate, seed 0: nan: the loss" in out


GOOD = {"holder": {}, "launcher": "local", "started": 1.0, "total": 2, "failed": [],
        "done": {"finished": 2}, "interrupted": {}, "seconds": None, "running": []}  # fmt: skip
DAMAGED = {
    "cut": json.dumps(GOOD)[:40], "nothing": "", "a list": "[1]", "no text": b"\xff\xfe",
    "no holder": json.dumps({**GOOD, "holder": None}), "deep": "[" * 100_000,
    "a word for a number": json.dumps({**GOOD, "total": "many"}),
    "no start": json.dumps({key: GOOD[key] for key in GOOD if key != "started"}),
    "what runs is a name": json.dumps({**GOOD, "running": ["gate"]}),
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_no_state_is_no_coordinator(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], content: str | bytes
) -> None:
    (folder / "coordinators").mkdir()
    for name in ("0123.json", "last.json"):
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / "coordinators" / name).write_bytes(raw)
    assert coordinators(folder) == [] and last_state(folder) is None
    assert said(tmp_path, capsys, "fusion")[0] == 0  # nothing is planned
    assert stop.main(["fusion", "--root", str(tmp_path)]) == 0
    assert not (folder / "stop").exists()


@pytest.mark.parametrize("given", ["", ".", "..", "/", "gate", "x.yaml", "\0", "*"])
def test_a_sweep_that_is_not_there_is_one_message(tmp_path: Path, folder: Path, given: str) -> None:
    with pytest.raises(StoreError, match="there is no sweep"):
        status.sweep_folder(tmp_path, given)
    with pytest.raises(UserError, match="no sweep has run here; name its folder with --root"):
        status.sweep_folder(tmp_path / "elsewhere", given)


def test_every_coordinator_at_work_hears_the_word_and_a_later_one_does_not(folder: Path) -> None:
    """Promise: `hymba-lab stop`; the same sweep command goes on. Whatever the clock said."""
    first, second = (StateFile(folder, lambda: 4, "local") for _ in range(2))
    first.waiting({})
    ask_to_stop(folder)
    for state in (first, second):
        with pytest.raises(SweepStopped):
            state.waiting({})
    ahead = time.time() + 1e8
    os.utime(folder / "stop", (ahead, ahead))
    later = StateFile(folder, lambda: 4, "local")
    later.waiting({})
    ask_to_stop(folder)
    with pytest.raises(SweepStopped):
        later.waiting({})


def test_failures_of_an_earlier_process_are_told(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = StateFile(folder, lambda: 100, "local", lambda: None)
    state.read_back({f"{n:064x}": Outcome("failed", {}, "nan", "the loss") for n in range(60)})
    state.close()
    _, out = said(tmp_path, capsys, "fusion")
    assert "60 of 100 runs done, 60 failed" in out
    assert "failed: run 00000000000" in out and "nan: the loss" in out


def test_an_option_is_given_by_its_whole_name() -> None:
    """`--det` would be handed on to the process that detaches, which would detach again."""
    from hymba_lab.sweep.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["fusion", "--det"])
    assert ended.value.code == 2


def test_a_name_is_never_that_of_a_longer_one(tmp_path: Path, folder: Path) -> None:
    """`stop fusion` stopped fusion-lr, where fusion itself had not run."""
    (folder.parent / "fusion-lr-nano").mkdir()
    assert status.sweep_folder(tmp_path, "fusion") == folder
    assert status.sweep_folder(tmp_path, "fusion-lr").name == "fusion-lr-nano"
    folder.rmdir()
    with pytest.raises(StoreError, match=r"no sweep 'fusion'; choose one of fusion-lr-nano"):
        status.sweep_folder(tmp_path, "fusion")


def test_a_word_between_the_first_sign_of_life_and_the_next_is_heard(folder: Path) -> None:
    state = StateFile(folder, lambda: 4, "local")
    assert len(coordinators(folder)) == 1
    ask_to_stop(folder)
    with pytest.raises(SweepStopped):
        state.waiting({})


def test_a_coordinator_that_never_came_to_know_anything_leaves_no_last_word(folder: Path) -> None:
    known = StateFile(folder, lambda: 4, "local")
    known.read_back({IDENTITY: Outcome("finished", {})})
    known.read_back({IDENTITY: Outcome("finished", {})})  # it helped, and leads now
    known.close()
    StateFile(folder, lambda: 4, "local").close()
    assert (last_state(folder) or {})["done"]["finished"] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="root alone becomes somebody else")
def test_who_may_only_read_is_told_the_state(folder: Path) -> None:
    state = StateFile(folder, lambda: 4, "local")
    for path in [folder, *folder.parents]:
        if path.owner() == "root" and path != Path("/") and str(path) != tempfile.gettempdir():
            path.chmod(0o755)
    (state.path).chmod(0o644)
    read = (
        "import os, sys; from pathlib import Path; from hymba_lab.runs.lease import age_s; "
        "os.setuid(65534); print(age_s(Path(sys.argv[1])) < 60)"
    )
    told = subprocess.run(
        [sys.executable, "-c", read, str(state.path)], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "True"


@pytest.mark.slow
def test_a_detached_coordinator_that_ends_at_once_says_why(tmp_path: Path, folder: Path) -> None:
    """It was said to run, and its reason stood in a file that nobody had asked for."""
    argv = [str(tmp_path / "gone.yaml"), "--root", str(tmp_path)]
    with pytest.raises(LaunchError, match=r"(?s)ended at once.*coordinator\.log says:.*gone\.yaml"):
        detach(folder, "fusion-nano", argv, launcher=Launcher(), needs=NOTHING_ASKED)
