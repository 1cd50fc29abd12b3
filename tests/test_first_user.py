"""What first users stumble over: names, numbers without a bound, pipes, edited files.

Each case goes through the real entry, in this process; the right value is one message, or the
table that was asked for.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import conftest
import pytest
from rich.console import Console
from sweeping import SWEEP, Lab
from test_bad_input import assert_one_message, no_launcher

from hymba_lab import cli, flags
from hymba_lab.__main__ import COMMANDS
from hymba_lab.atomic import cache_folder, give_datasets_a_home
from hymba_lab.errors import ConfigError, DataError, StoreError
from hymba_lab.report.find import is_called
from hymba_lab.runs import lock, provenance
from hymba_lab.runs.database import file_of, make_whole, url_of
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lock import Waited, held
from hymba_lab.sweep.export import sweep_of
from hymba_lab.sweep.jobs import Outcome
from hymba_lab.sweep.observers import view
from hymba_lab.sweep.observers.view import View
from hymba_lab.tables.render import _no_formula

MEAN, GATE = {"model.fusion": {"name": "mean"}}, {"model.fusion": {"name": "gate"}}
SMALL, LARGE = {"model.mlp": {"name": "swiglu", "d_ff": 8}}, {"model.mlp": {"name": "none"}}


def two(one: str, other: str) -> dict[str, Any]:
    return {"axes": {one: {"a": MEAN, "b": GATE}, other: {"c": SMALL, "d": LARGE}}}


def labels(one: str, other: str) -> dict[str, Any]:
    return {"axes": {"fusion": {one: MEAN, other: GATE}}}


def many(n: int) -> dict[str, Any]:
    """Axes of two choices each; the paths need not differ for a count."""
    return {f"axis {k}": {"on": MEAN, "off": GATE} for k in range(n)}


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "two axes, one parameter": (two("n heads", "n_heads"), ["axes.n_heads", "one name to MLflow"]),
    "two axes but for the case": (two("Heads", "heads"), ["axes.heads", "one name to MLflow"]),
    "two axes but for an accent's spelling": (
        two("\u00e9", "e\u0301"), ["axes.", "one name to MLflow"],
    ),
    "an axis named like a metric": (two("val/loss", "x"), ["begins like a metric"]),
    "an axis without a name": (two("", "x"), ["is an empty name"]),
    "an axis of a thousand letters": (two("x" * 1000, "y"), ["is a name of 1000 characters"]),
    "a label with a line break": (labels("a\nb", "c"), ["axes.fusion.a", "cannot show"]),
    "a label with a space at its end": (labels("a ", "c"), ["begins or ends with a space"]),
    "two labels that are printed alike": (labels("a b", "a  b"), ["is printed like the label"]),
    "more rows than anyone plans": (
        {"axes": {f"a{k}": {str(n): {f"model.x{k}": n} for n in range(2)} for k in range(24)},
         "design": "factorial"}, ["axes"],
    ),
    "layers without end": (
        {"axes": {"depth": {"a": {"model.n_layers": 1}, "b": {"model.n_layers": 10**9}}}},
        ["n_layers", "less than or equal to 2000"],
    ),
    "a width beyond any memory": ({"set": {"model.d_model": 10**18}}, ["model.d_model", "1048576"]),
    "a seed beyond the generator": ({"seeds": [2**63]}, ["seeds.0", "less than"]),
    "a constant that the base has not": ({"set": {"model.wings": 2}}, ["set.model.wings"]),
    "a constant that an axis sets, too": (
        {"set": {"model.fusion": {"name": "sum"}}}, ["axes.fusion", "one path has one owner"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_name_or_number_that_goes_wrong_later_is_refused_at_its_place(
    tmp_path: Path, case: tuple[dict[str, Any], list[str]]
) -> None:
    changes, said = case
    lab = Lab(tmp_path)
    lab.edit(**changes)
    assert_one_message(lab.run("--plan", launcher=no_launcher), said)


def test_rows_are_counted_before_they_are_made(tmp_path: Path) -> None:
    from hymba_lab.sweep.question.designs import check_size, n_rows
    from hymba_lab.sweep.question.file import load_sweep

    lab = Lab(tmp_path)
    lab.edit(axes=many(24), design="factorial")
    sweep = load_sweep(tmp_path / "sweep.yaml")
    assert n_rows(sweep.file) == 2**24
    with pytest.raises(ConfigError, match="makes 16,777,216 rows"):
        check_size(sweep)


def test_labels_that_a_renderer_reads_are_shown_as_they_are(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP.replace("gate:", '"[/x]":').replace("mean:", '"[bold]":'))
    ended = lab.run("--plan", launcher=no_launcher)
    assert (ended.code, ended.err) == (0, "")
    assert "[/x]" in ended.out
    assert "[bold]" in ended.out


@pytest.mark.parametrize(("cell", "shown"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("a=b", "a=b")])
def test_a_label_is_no_formula(cell: str, shown: str) -> None:
    assert _no_formula(cell) == shown


def test_a_sweep_fixes_a_constant(tmp_path: Path) -> None:
    """It is part of the identity, stands in the notes, and yields to the command line."""
    lab = Lab(tmp_path)
    plain = {job.identity for job in lab.session().planner.jobs({})}
    lab.edit(set={"training.tokens": 320})
    session = lab.session()
    assert session.sweep.base.training.tokens == 320
    assert plain.isdisjoint({job.identity for job in session.planner.jobs({})})
    assert lab.session("training.tokens=960").sweep.base.training.tokens == 960
    from hymba_lab.sweep.notes import set_notes

    assert set_notes(session) == [
        "Set for every row, in place of tiny.yaml: training.tokens = 320."
    ]


def test_one_validation_is_no_course_and_the_plan_says_so(tmp_path: Path) -> None:
    ended = Lab(tmp_path).run("--plan", "--set", "training.val_every=10", launcher=no_launcher)
    assert "no learning curve" in " ".join(ended.out.split())


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    ended = lab.run("--plan", name="pipe.yaml", launcher=no_launcher)
    assert_one_message(ended, ["pipe.yaml: is no file but a pipe"])


def test_without_a_home_the_cache_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HYMBA_LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("HOME", "")  # put back afterwards
    with pytest.raises(DataError, match="set HYMBA_LAB_CACHE"):
        cache_folder()


@pytest.mark.parametrize("named", [None, "HF_HOME", "HF_DATASETS_CACHE"])
def test_data_sets_lie_in_the_cache_of_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None
) -> None:
    """Unless the user says where; with neither home nor cache the message says what to set."""
    other = {"HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "HYMBA_LAB_CACHE"}
    plain = {name: value for name, value in os.environ.items() if name not in other}
    gone = plain | {"HOME": "/nonexistent"} | ({named: "/mine"} if named else {})
    monkeypatch.setattr(os, "environ", {**gone, "HYMBA_LAB_CACHE": str(tmp_path)})
    give_datasets_a_home()
    expected = {None: str(tmp_path / "huggingface"), "HF_HOME": "/mine"}.get(named)
    assert os.environ.get("HF_HOME") == expected
    monkeypatch.setattr(os, "environ", gone)
    with nullcontext() if named else pytest.raises(DataError, match="set HYMBA_LAB_CACHE"):
        give_datasets_a_home()
    (filled := tmp_path / "home/.cache/huggingface").mkdir(parents=True)
    monkeypatch.setattr(os, "environ", {**gone, "HOME": str(filled.parents[1])})
    monkeypatch.setattr(os, "access", lambda *_: False)
    give_datasets_a_home()  # what is there already is taken, though nobody may write it
    assert os.environ.get("HF_HOME") == {"HF_HOME": "/mine"}.get(named or "")


# --- places


def test_a_database_lies_where_its_url_says_whatever_the_folder_is_called(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    import sqlalchemy
    from surroundings import folder_names

    names = folder_names(60)
    for name in names:
        file = tmp_path / name / "mlflow.db"
        file.parent.mkdir()
        assert file_of(url_of(file)) == file
        engine = sqlalchemy.create_engine(url_of(file))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table known (x)"))
        engine.dispose()
        with closing(sqlite3.connect(file)) as opened:
            assert opened.execute("select count(*) from known").fetchone() == (0,)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_store_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    """Promise: kill it at any moment. What a killed or a full disk leaves is made anew."""
    file = tmp_path / "mlflow.db"

    def killed(url: str) -> None:
        drafted = file_of(url)
        assert drafted is not None
        drafted.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        make_whole(file, killed, "store")
    assert not file.exists()
    (tmp_path / ".mlflow.db.new").write_bytes(b"left by a kill")

    def made(url: str) -> None:
        drafted = file_of(url)
        assert drafted is not None
        assert not drafted.exists()
        drafted.write_bytes(b"whole")

    make_whole(file, made, "store")
    assert file.read_bytes() == b"whole"
    make_whole(file, killed, "store")  # it is there: nothing is made
    assert not (tmp_path / ".mlflow.db.new").exists()


def test_a_scale_may_hold_a_dash() -> None:
    assert sweep_of("fusion-nano-2", "nano-2") == "fusion"
    assert is_called("fusion-nano-2", "fusion", "nano-2")
    assert sweep_of("a-b-nano", "nano") == "a-b"


# --- waiting


def test_who_waits_is_told_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "QUIET_S", 0.05)
    told: list[str] = []
    with held(tmp_path / "lock", "first"), pytest.raises(Waited, match=f"process {os.getpid()}"):  # noqa: SIM117
        with held(tmp_path / "lock", "second", limit_s=0.2, tell=told.append):
            raise AssertionError("the lock was held twice")
    assert len(told) == 1
    assert f"second waits for process {os.getpid()}" in told[0]


def test_a_lock_that_cannot_be_made_is_no_wait(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be locked"), held(Path("/dev/null/lock"), "x"):
        raise AssertionError("there is no such folder")


# --- records


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    lab = Lab(tmp_path_factory.mktemp("record")).with_store()
    lab.edit(seeds=[0])
    assert lab.run().code == 0
    path = min(lab.folder.glob("runs/*/result.json"))
    return path, json.loads(path.read_text())


EDITED: dict[str, tuple[dict[str, Any], str]] = {
    "no metrics": ({"metrics": None}, "metrics"),
    "empty metrics": ({"metrics": {}}, "metrics"),
    "a metric that is text": ({"metrics": {"val/loss": "low"}}, "metrics.val/loss"),
    "a metric that is no number": ({"metrics": {"val/loss": float("nan")}}, "metrics.val/loss"),
    "another seed": ({"seed": 7}, "was edited"),
    "another run's identity": ({"identity": "f" * 64}, "belongs to another run"),
    "a negative time": ({"seconds": -1.0}, "seconds"),
    "from the future": ({"format": 99}, "format 99, this version reads 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", EDITED.values(), ids=EDITED)
def test_an_edited_record_is_named_and_not_believed(
    record: tuple[Path, dict[str, Any]], tmp_path: Path, case: tuple[dict[str, Any], str]
) -> None:
    path, whole = record
    changes, said = case
    folder = RunFolder(tmp_path, whole["identity"])
    shutil.copytree(path.parent, folder.path)
    assert folder.result == whole
    (folder.path / "result.json").write_text(json.dumps({**whole, **changes}))
    with pytest.raises(StoreError, match=said) as found:
        _ = folder.result
    assert "result.json" in str(found.value)


def test_a_record_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a" * 64)
    folder.path.mkdir(parents=True)
    (folder.path / "result.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match=r"result\.json: not a whole record"):
        _ = folder.result


def test_train_and_sweep_write_one_record(
    record: tuple[Path, dict[str, Any]], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hymba_lab.training.single import train

    shutil.copy(record[0].parents[2] / "mlflow.db", tiny.parent / "mlflow.db")
    trained = train(tiny, 3, root=tiny.parent)
    told = set(trained.record)
    written = json.loads((trained.folder / "result.json").read_text())
    assert set(written) == set(record[1])
    assert written["hardware"]
    assert told <= set(written)


# --- numbers on the command line


@pytest.mark.parametrize("text", ["18446744073709551616", "-1", "1.5", "many", ""])
def test_a_number_of_the_command_line_has_a_bound(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number from 0"):
        flags.whole(0)(text)


def options() -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every command."""
    for commands in COMMANDS.values():
        for name, (module, _) in commands.items():
            for action in import_module(module).arguments()._actions:
                yield name, action


def test_every_number_of_a_command_line_is_bounded() -> None:
    bare = [
        f"{command} {action.option_strings or action.dest}"
        for command, action in options()
        if action.type in (int, float)
    ]
    assert bare == []


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "x", ""])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no finite number"):
        flags.number(text)


ONE_THING = [{"--chunk", "--chunk-size"}, {"--batch", "--batch-size"}]


@pytest.mark.parametrize("names", ONE_THING, ids=lambda names: min(names))
def test_what_is_called_so_at_one_command_is_called_so_at_another(names: set[str]) -> None:
    for command, action in options():
        given = names & set(action.option_strings)
        assert given in (set(), names), f"{command} knows only {given}"


@pytest.mark.parametrize("dtype", [*flags.PRECISIONS, *flags.PRECISIONS.values()])
def test_either_name_of_a_precision_is_known_to_every_command(dtype: str) -> None:
    for command, action in options():
        if "--dtype" in action.option_strings:
            assert callable(action.type) and action.choices is not None
            assert action.type(dtype) in action.choices, command


# --- where a number comes from


def repository(folder: Path) -> Path:
    folder.mkdir()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "known.py").write_text("x = 1\n")
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "known"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda folder: folder / "known.py", False),
        (lambda folder: write_new(folder / "known.py", "x = 2\n"), True),
        (lambda folder: write_new(folder / "new.py", "x = 1\n"), True),
        (lambda folder: write_new(folder.parent / "beside.py", "x = 1\n"), True),
        (lambda folder: folder / "gone.py", True),
    ],
    ids=["committed", "edited", "not tracked", "in no repository", "gone"],
)
def test_a_plugin_that_no_commit_holds_makes_a_run_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Path], dirty: bool
) -> None:
    path = change(repository(tmp_path / "theirs"))
    monkeypatch.setattr(provenance, "commit", lambda: provenance.Commit("a" * 40, ""))
    assert provenance.is_dirty([str(path)]) is dirty
    assert not provenance.is_dirty()


def write_new(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- how long it takes


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h 00 min"), (90_000, "1 d 1 h"),
     (11_100, "3 h 05 min")],
)  # fmt: skip
def test_a_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert cli.span(seconds) == said


def test_a_log_without_a_terminal_shows_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every run, and now and then while a long one trains."""
    session = Lab(tmp_path).session()
    screen = io.StringIO()
    shown = View(session, Console(file=screen, width=100))
    first, second, *_ = session.planner.jobs({})
    shown.started(first)
    shown.started(second)
    shown.waiting({job.identity: job for job in (first, second)})
    record = {"metrics": {"val/recall_accuracy": 0.5}, "n_steps": 10, "seconds": 600.0}
    shown.ended(first, Outcome("finished", record), trained=True)
    assert screen.getvalue().endswith("0.5  about 15 min left\n")  # three runs, two at a time
    monkeypatch.setattr(view, "_SILENT_S", 0.0)
    monkeypatch.setattr(view, "_SHARES_S", -1.0)  # look again at once
    session.run_folder(second.identity).report({"step": 5, "metrics": {}})
    shown.waiting({second.identity: second})
    last = screen.getvalue().splitlines()[-1]
    assert last == "done 1/4  running 1  failed 0  about 25 min left"


def test_a_users_own_files_beside_ours_are_not_tested_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository(tmp_path / "checkout")
    (folder / "mine.py").write_text("x = 2\n")
    monkeypatch.setattr(conftest, "ROOT", folder)
    assert conftest.tracked("*.py") == [folder / "known.py"]
    shutil.rmtree(folder / ".git")
    assert conftest.tracked("*.py") == [folder / "known.py", folder / "mine.py"]


def test_an_edited_header_of_a_kernel_makes_a_run_dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all mathematics of the compiled kernels stands in headers."""
    asked: list[tuple[str, ...]] = []

    def git(folder: Path, *words: str) -> str:
        asked.append(words)
        return "x"

    monkeypatch.setattr(provenance, "_git", git)
    provenance.commit.__wrapped__()
    assert any(":/*.h" in words for words in asked) and any("*.h" in words for words in asked)
