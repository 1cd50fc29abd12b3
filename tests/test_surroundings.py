"""What depends on the machine: places, names, users and variables as they are found.

The real command runs in a process of its own, on a sweep of a second. Most cases read a finished
sweep back and train one missing run anew: its numbers must be those of the undisturbed sweep.
"""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from surroundings import (
    STRANGER,
    Said,
    call,
    folder_names,
    forget_one,
    lab_in,
    numbers,
    owned,
    project,
    results,
    tree,
)

from hymba_lab import cli

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="to be another user needs root and setpriv",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two runs, to be copied; made here and not by a command of its own."""
    folder = project(tmp_path_factory.mktemp("finished") / "project")
    assert lab_in(folder).run().code == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep at another place."""
    return shutil.copytree(finished, tmp_path / "project")


def sweep(
    folder: Path,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str | None] = {},
    user: int | None = None,
) -> Said:
    options = ("--root", folder, "--workers", "1", *arguments)
    return call("sweep", folder / "sweep.yaml", *options, cwd=cwd or folder, env=env, user=user)


def assert_well(said: Said) -> None:
    assert (said.code, said.err) == (0, ""), said.out + said.err


def assert_goes_on(
    finished: Path,
    folder: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] = {},
    user: int | None = None,
) -> Said:
    """The sweep trains the run that is missing, and ends with the table of the undisturbed one."""
    forget_one(folder)
    said = sweep(folder, cwd=cwd, env=env, user=user)
    assert_well(said)
    assert "1 runs finished before, 1 to go." in said.out
    assert numbers(folder) == numbers(finished)
    return said


def tables_in(database: Path) -> int:
    with closing(sqlite3.connect(database)) as opened:
        return int(opened.execute("select count(*) from runs").fetchone()[0])


# --- variables


def fake_srun(folder: Path) -> str:
    """A PATH with an srun that only fails, as on the login node of a cluster."""
    folder.mkdir()
    (folder / "srun").write_text("#!/bin/sh\necho no allocation >&2\nexit 1\n")
    (folder / "srun").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def stranger_repository(folder: Path) -> Path:
    """A repository of something else, with one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    return folder


def commits_of(folder: Path) -> set[str]:
    import json

    return {json.loads(path.read_text())["commit"] for path in results(folder)}


def head(folder: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.slow
def test_on_a_strange_day_the_sweep_goes_on(finished: Path, copied: Path, tmp_path: Path) -> None:
    """A login node, a cron job's environment and another repository's variables at once."""
    theirs = stranger_repository(tmp_path / "theirs")
    env = {
        "PATH": fake_srun(tmp_path / "bin"),
        "GIT_DIR": str(theirs / ".git"),
        "GIT_WORK_TREE": str(theirs),
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "TERM": "dumb",
        "HOME": None,
        "HYMBA_LAB_CACHE": str(tmp_path / "cache"),
        "COLUMNS": None,
    }
    if not sys.prefix.isascii():  # in that locale nothing can be imported from there
        env["PYTHONUTF8"] = "1"
    assert_goes_on(finished, copied, cwd=theirs, env=env)
    assert head(theirs) not in commits_of(copied)


def test_a_locale_that_cannot_name_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's import would end with a traceback."""
    monkeypatch.setattr(
        sys, "prefix", os.fsencode("/größe/.venv").decode("ascii", "surrogateescape")
    )
    with pytest.raises(SystemExit, match="2"):
        cli.run(lambda _: 0)
    said = capsys.readouterr().err
    assert said.startswith("error: Python's packages stand in /größe/.venv, ")
    assert said.endswith("; set PYTHONUTF8=1.\n")


CASES: dict[str, Mapping[str, str | None]] = {
    "time zone": {"TZ": "America/St_Johns"},
    "a locale without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII output": {"PYTHONIOENCODING": "ascii"},
    "Latin-1 output": {"PYTHONIOENCODING": "latin-1"},
    "a comma as decimal point": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "no terminal to speak of": {"TERM": "dumb", "COLUMNS": "20"},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "HOME that is no folder": {"HOME": "/dev/null"},
    "HOME that is empty": {"HOME": ""},
    "TMPDIR that is gone": {"TMPDIR": "/nonexistent"},
    "hash seed": {"PYTHONHASHSEED": "12345"},
}


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("env", CASES.values(), ids=CASES)
def test_variables_change_nothing(
    finished: Path, copied: Path, tmp_path: Path, env: Mapping[str, str | None]
) -> None:
    assert_goes_on(finished, copied, env={"HYMBA_LAB_CACHE": str(tmp_path / "cache"), **env})


@pytest.mark.campaign
@pytest.mark.slow
def test_srun_on_the_path_changes_nothing(finished: Path, copied: Path, tmp_path: Path) -> None:
    assert_goes_on(finished, copied, env={"PATH": fake_srun(tmp_path / "bin")})


# --- users


@as_root
@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"], ids=["none", "gone", "read-only"])
def test_a_user_without_an_entry_trains(finished: Path, open_place: Path, home: str | None) -> None:
    """As in a container that was started with a number for a user."""
    folder = Path(shutil.copytree(finished, open_place / "project"))
    (open_place / "cache").mkdir()
    for path in (folder, open_place / "cache"):
        owned(path, STRANGER)
    env = {"HOME": home, "HYMBA_LAB_CACHE": str(open_place / "cache"), "XDG_CACHE_HOME": None}
    assert_goes_on(finished, folder, env=env, user=STRANGER)


@as_root
@pytest.mark.campaign
@pytest.mark.slow
def test_a_user_without_a_home_is_told_about_the_cache(open_place: Path) -> None:
    """Text has a cache: where there is no home folder, the message says how to name another."""
    folder = project(open_place / "project")
    base = (folder / "tiny.yaml").read_text()
    text = "  text: {name: stdlib, rows: 2, max_mb: 0.5, n_val: 4}\noptimizer:"
    (folder / "tiny.yaml").write_text(base.replace("optimizer:", text))
    owned(folder, STRANGER)
    env = {"HOME": None, "HYMBA_LAB_CACHE": None, "XDG_CACHE_HOME": None}
    said = sweep(folder, "--plan", env=env, user=STRANGER)
    assert said.code == 2, said.out + said.err
    assert "Traceback" not in said.err
    assert "HYMBA_LAB_CACHE" in said.err


@as_root
@pytest.mark.campaign
@pytest.mark.slow
def test_a_project_of_another_user_that_may_be_read_is_refused_in_one_sentence(
    finished: Path, open_place: Path
) -> None:
    folder = Path(shutil.copytree(finished, open_place / "project"))
    env = {"HOME": None, "HYMBA_LAB_CACHE": str(open_place / "cache")}
    said = sweep(folder, env=env, user=STRANGER)
    assert said.code == 2, said.out + said.err
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err
    assert "--root" in said.err


# --- places


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("name", folder_names(6, seed=3)[:3] + folder_names(60, seed=1)[57:])
def test_the_stores_of_an_oddly_named_project_lie_in_it(
    finished: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "here" / name))
    (folder / "mlflow.db").unlink()
    shutil.rmtree(folder / "mlartifacts")
    assert_goes_on(finished, folder)
    assert tables_in(folder / "mlflow.db") == 3
    assert list(folder.glob("mlartifacts/*/*/artifacts/table.md"))
    assert os.listdir(tmp_path / "here") == [name]
    again = sweep(folder).out
    assert "all 2 runs are finished" in again
    [charts] = [line for line in again.splitlines() if line.startswith("Charts: ")]
    assert shlex.split(charts)[:-1] == ["Charts:", "mlflow", "ui", "--backend-store-uri"]


@pytest.mark.campaign
@pytest.mark.slow
def test_a_moved_project_goes_on_and_its_old_place_stays_free(
    finished: Path, copied: Path, tmp_path: Path
) -> None:
    assert_goes_on(finished, copied)  # the stores know this place now
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(copied, moved)
    copied.write_text("a file where the project was")
    assert_goes_on(finished, moved)
    assert copied.read_text() == "a file where the project was"
    exported = report(moved)
    assert_well(exported)
    assert (moved / "results" / "sweep-tiny" / "report.html").is_file()
    for place in artifact_places(moved):
        assert str(moved) in place


def report(folder: Path) -> Said:
    store = f"sqlite:///{folder / 'mlflow.db'}"
    options = ("--results", folder / "results", "--tracking-uri", store)
    return call("report", *options, cwd=folder)


def artifact_places(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as opened:
        runs = opened.execute("select artifact_uri from runs").fetchall()
        experiments = opened.execute(
            "select artifact_location from experiments where name != 'Default'"
        ).fetchall()
    return [row[0] for row in [*runs, *experiments]]


@pytest.mark.campaign
@pytest.mark.slow
def test_a_copy_writes_into_itself_and_not_into_what_it_was_copied_from(
    finished: Path, copied: Path, tmp_path: Path
) -> None:
    assert_goes_on(finished, copied)
    before = tree(copied)
    second = Path(shutil.copytree(copied, tmp_path / "second"))
    assert_goes_on(finished, second)
    assert tree(copied) == before


@pytest.mark.campaign
@pytest.mark.slow
def test_an_old_place_that_is_a_file_now_stops_nothing(finished: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(finished, tmp_path / "first" / "project"))
    assert_goes_on(finished, first)
    moved = tmp_path / "project"
    shutil.move(first, moved)
    (tmp_path / "first").rmdir()
    (tmp_path / "first").write_text("")
    assert_goes_on(finished, moved)


@pytest.mark.campaign
@pytest.mark.slow
def test_another_working_directory_is_left_alone(
    finished: Path, copied: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert_goes_on(finished, copied, cwd=elsewhere)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.campaign
@pytest.mark.slow
def test_a_root_behind_a_link_is_the_project_it_leads_to(
    finished: Path, copied: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(copied, target_is_directory=True)
    assert_goes_on(finished, link)
    assert "all 2 runs are finished" in sweep(copied).out


@pytest.mark.campaign
@pytest.mark.slow
def test_inside_another_repository_its_commit_is_not_ours(finished: Path, tmp_path: Path) -> None:
    outer = stranger_repository(tmp_path / "outer")
    folder = Path(shutil.copytree(finished, outer / "project"))
    assert_goes_on(finished, folder, cwd=folder)
    assert head(outer) not in commits_of(folder)


# --- nothing outside


@pytest.mark.campaign
@pytest.mark.slow
def test_nothing_is_written_outside_the_root_and_the_cache(copied: Path, tmp_path: Path) -> None:
    """A sweep, a report, a probe and a generation leave home, a neighbour and here as they were."""
    home, neighbour, here = (tmp_path / name for name in ("home", "neighbour", "here"))
    for folder in (home, neighbour, here):
        folder.mkdir()
        (folder / "kept").write_text("as it was")
    env = {"HOME": str(home), "HYMBA_LAB_CACHE": str(tmp_path / "cache"), "XDG_CACHE_HOME": None}
    before = tree(tmp_path, leave_out=[copied, tmp_path / "cache"])
    forget_one(copied)
    assert_well(sweep(copied, "--out", str(copied / "results"), cwd=here, env=env))
    (run,) = {path.parent for path in results(copied)[:1]}
    at_root = ("--out", copied / "results", "--root", copied)
    for command in (
        ("report", "--results", copied / "results"),
        ("probes", copied / "runs" / "sweeps" / "sweep-tiny", *at_root),
        ("generate", run, "--ids", "1 2", "--max-new-tokens", "2"),
    ):
        said = call(*map(str, command), cwd=here, env=env)
        assert said.code == 0, said.out + said.err
    assert tree(tmp_path, leave_out=[copied, tmp_path / "cache"]) == before
