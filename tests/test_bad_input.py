"""Every wrong input ends in one message that says where and what to do; nothing is lost."""

import errno
import io
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input_cases import CASES, Case
from sweeping import Ended, Inline, Lab

from hymba_lab import atomic as atomic_module
from hymba_lab.runs import tracking

# file:line:column, the option that is meant, or the file (and its line) that is at fault
PLACE = r"\.yaml:\d+:\d+: |--[a-z]|^error: \S+(\.(yaml|py)(:\d+)?: |: is a directory)"


def assert_one_message(ended: Ended, said: list[str]) -> None:
    assert ended.code == 2, ended.err + ended.out
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err + ended.out
    assert [part for part in said if part not in ended.err] == [], ended.err


def no_launcher(*facts: Any) -> Inline:
    raise AssertionError("nothing was to be trained")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_wrong_input_is_said_in_one_message(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))
    lab = Lab(tmp_path)
    if case.sweep:
        lab.edit(**case.sweep)
    old, new = case.base
    base = (tmp_path / "tiny.yaml").read_text()
    assert old in base
    if new or old:
        lab.write("tiny.yaml", base.replace(old, new.replace("LAB", str(tmp_path)), 1))
    for name, content in case.files.items():
        lab.write(name, content)
    arguments = [argument.replace("LAB", str(tmp_path)) for argument in case.arguments]
    ended = lab.run(*arguments, name=case.file, launcher=no_launcher)
    assert_one_message(ended, list(case.said))
    assert re.search(PLACE, ended.err), f"no place: {ended.err}"
    assert not list(tmp_path.glob("runs/*/result.json"))


def test_there_are_enough_cases_and_each_has_a_name() -> None:
    assert len(CASES) >= 60
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "argument --workers: '0' is no whole number from 1"),
        pytest.param(
            ["--set", "seeds=[]"], "--set seeds=[]: seeds: list should have at least 1 item",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_real_command_says_it_as_well(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = Lab(tmp_path).start(*arguments)
    out, err = command.communicate(timeout=300)
    assert_one_message(Ended(command.returncode, out, err), [said])
    assert out == ""


# --- stores that are damaged, locked, full or gone


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A finished sweep of one seed, to be copied."""
    lab = Lab(tmp_path_factory.mktemp("finished")).with_store()
    lab.edit(seeds=[0])
    assert lab.run().code == 0
    return lab


@pytest.fixture
def lab(finished: Lab, tmp_path: Path) -> Lab:
    """A copy of the finished sweep."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    copy = object.__new__(Lab)
    copy.folder = tmp_path
    return copy


def first_run(lab: Lab) -> Path:
    return min(lab.folder.glob("runs/*/result.json")).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": 1, "metr', ["result.json: not a whole record", "delete the folder to train"]),
        ("", ["result.json: not a whole record", "delete the folder to train"]),
        (
            "[]",
            ["result.json: not a record with", "history, identity", "delete the folder to train"],
        ),
        ('{"format": 1}', ["result.json: not a record with", "history, identity"]),
        (
            '{"format": 9, "identity": "", "metrics": {}, "history": [], "stopped_by": null}',
            ["result.json: format 9, this version reads 1", "use another --root"],
        ),
    ],
    ids=["cut", "empty", "a list", "without metrics", "another format"],
)
def test_a_damaged_result_is_named(lab: Lab, content: str, said: list[str]) -> None:
    run = first_run(lab)
    (run / "result.json").write_text(content)
    assert_one_message(lab.run(launcher=no_launcher), [str(run), *said])


def test_the_way_out_of_a_damaged_result_keeps_the_others(lab: Lab) -> None:
    run = first_run(lab)
    others = {name: when for name, when in lab.results().items() if name != run.name}
    shutil.rmtree(run)  # what the message says
    assert lab.run().code == 0
    assert len(lab.results()) == len(others) + 1
    assert others.items() <= lab.results().items()


def test_a_damaged_failure_is_named(lab: Lab) -> None:
    run = first_run(lab)
    (run / "result.json").unlink()
    (run / "failure.json").write_text('{"reason": "nan"')
    assert_one_message(lab.run(launcher=no_launcher), ["failure.json: not a whole record"])


def test_a_folder_where_a_result_belongs_is_named(lab: Lab) -> None:
    run = first_run(lab)
    (run / "result.json").unlink()
    (run / "result.json").mkdir()
    assert_one_message(lab.run(launcher=no_launcher), ["result.json: not a whole record"])


def test_a_file_where_the_runs_belong_is_named(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.write("runs", "a file")
    assert_one_message(lab.run(launcher=no_launcher), ["runs/sweeps", "cannot be made", "--root"])


@pytest.mark.slow
def test_a_damaged_study_is_named_and_filled_again(lab: Lab) -> None:
    study = lab.folder / "runs" / "sweeps" / "sweep-tiny" / "optuna.db"
    study.write_text("not a database " * 100)
    ended = lab.run(launcher=no_launcher)
    assert (ended.code, ended.err) == (0, "")  # a mirror stops no table
    assert "optuna.db" in ended.out
    assert "delete the file" in ended.out
    study.unlink()
    assert "optuna.db" not in lab.run(launcher=no_launcher).out
    assert study.stat().st_size


@pytest.mark.slow
def test_a_deleted_experiment_is_named_with_the_way_back(lab: Lab) -> None:
    store = lab.store()
    number = store.experiment("sweep-tiny")
    store.client.delete_experiment(number)
    ended = lab.run(launcher=no_launcher)
    assert_one_message(ended, [f"mlflow experiments restore --experiment-id {number}"])
    store.client.restore_experiment(number)
    assert lab.run(launcher=no_launcher).code == 0


@pytest.mark.slow
def test_a_locked_database_is_named_after_a_while(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LOCK_PATIENCE_S", 0.1)
    moved = (lab.folder / "mlflow.db").rename(lab.folder / "locked.db")
    with sqlite3.connect(moved, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        ended = lab.run("--tracking-uri", f"sqlite:///{moved}?timeout=0.1", launcher=no_launcher)
        other.execute("ROLLBACK")
    other.close()
    assert_one_message(ended, ["locked.db", "database is locked", "--tracking-uri"])


def test_a_place_for_the_tables_that_cannot_be_made_costs_no_run(lab: Lab) -> None:
    before = lab.results()
    ended = lab.run("--out", str(lab.folder / "tiny.yaml" / "x"), launcher=no_launcher)
    assert_one_message(ended, ["tiny.yaml/x", "cannot be made"])
    assert lab.results() == before


# --- a disk that is full


def full(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """os.replace on a disk that has no room for files of this name."""

    def replace(source: Any, target: Any) -> Any:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    return replace


@pytest.mark.slow
def test_a_full_disk_at_the_result_fails_the_trial_and_its_training_is_kept(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(lab)
    with monkeypatch.context() as patched:
        patched.setattr(atomic_module.os, "replace", full("result.json", os.replace))
        ended = lab.run()
    assert (ended.code, ended.err) == (1, "")
    assert f"{run}/result.json: cannot be written: No space left on device" in ended.out
    assert sorted(path.name for path in run.iterdir()) == [
        "endings.json", "failure.json", "last.ckpt", "progress.json", "weights.safetensors",
    ]  # fmt: skip
    again = lab.run()
    assert (again.code, again.err) == (0, "")


def test_a_full_disk_at_the_table_is_one_message(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(atomic_module.os, "replace", full("table.md", os.replace))
        ended = lab.run(launcher=no_launcher)
    assert_one_message(ended, ["table.md: cannot be written: No space left on device"])
    assert lab.run(launcher=no_launcher).code == 0


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_is_the_trials_reason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(lab)
    with monkeypatch.context() as patched:
        patched.setattr(atomic_module.os, "replace", full("last.ckpt", os.replace))
        ended = lab.run()
    assert (ended.code, ended.err) == (1, "")
    assert f"failed (disk): {run}/last.ckpt: " in ended.out
    assert "No space left on device; make room" in ended.out
    assert lab.run().code == 0


# --- checkpoints of interrupted runs


def unfinished(lab: Lab) -> Path:
    """Undo one run of the finished sweep; returns its folder."""
    run = first_run(lab)
    shutil.rmtree(run)
    run.mkdir()
    return run


def zipped(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the checkpoint is damaged"),
        (zipped({"hymba_lab": {"format": 1}})[:-9], "the checkpoint is damaged"),
        (zipped({"hymba_lab": {"format": 99}}), "its format is 99, this run has 1"),
        (zipped([1]), "not a checkpoint of a run"),
    ],
    ids=["empty", "cut", "another version", "another program"],
)
def test_a_checkpoint_that_cannot_be_used_fails_its_trial(
    lab: Lab, content: bytes, said: str
) -> None:
    run = unfinished(lab)
    (run / "last.ckpt").write_bytes(content)
    ended = lab.run()
    assert (ended.code, ended.err) == (1, "")
    assert f"failed (disk): {run / 'last.ckpt'}: " in ended.out
    assert said in ended.out
    assert len(lab.results()) == 1  # the other row
    assert json.loads((run / "failure.json").read_text())["reason"] == "disk"


def test_the_way_out_of_a_damaged_checkpoint(lab: Lab) -> None:
    run = unfinished(lab)
    (run / "last.ckpt").write_bytes(b"")
    assert lab.run().code == 1
    (run / "last.ckpt").unlink()  # what the message says
    assert lab.run().code == 0
    assert len(lab.results()) == 2
