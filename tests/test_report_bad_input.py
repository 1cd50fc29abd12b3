"""What a report refuses: mixed runs, broken exports, names that are not there; exit code 2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exporting import ROWS, report, runs_with, write_export, write_probe

from hymba_lab.errors import UserError
from hymba_lab.report.pictures import pictures
from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import read_export

# --- runs that do not belong together


@pytest.mark.parametrize(
    ("column", "value"),
    [("data_fingerprint", "cd" * 32), ("tokens", 9999), ("code_version", 2), ("scale", "125m")],
)
def test_runs_that_do_not_belong_together_are_refused(
    tmp_path: Path, column: str, value: object
) -> None:
    write_export(tmp_path, runs=runs_with((0.8, 0.8, 0.8), **{column: value}))
    ended = report("--results", tmp_path)
    assert ended.code == 2
    assert "fusion-tiny" in ended.err
    assert f"different {column}" in ended.err
    assert all(row in ended.err for row in ROWS)
    assert len(ended.err.splitlines()) == 1


# --- bad input


def broken() -> Iterator[tuple[str, str, Any, str]]:
    """Yield a name, a file, what its text becomes, what is said."""
    yield "no export", "export.json", None, "missing; write the export with"
    yield "no runs", "runs.csv", None, "missing; write the export with"
    yield "empty", "runs.csv", lambda text: "", "not a CSV file with a header"
    yield "header alone", "runs.csv", lambda text: text.splitlines()[0] + "\n", "no runs"
    yield "cut", "runs.csv", lambda text: text[:-60], "line 7 has"
    yield "a word", "runs.csv", lambda text: text.replace("1234.5", "fast"), "'fast' is not a num"
    yield "a column less", "curves.csv", lambda text: text.replace("value", "v", 1), "no column"
    yield "twice", "curves.csv", lambda text: text.replace("step", "seed", 1), "a column twice"
    yield "json", "export.json", lambda text: text[:-5], "export.json: Invalid JSON"
    yield "a key less", "export.json", lambda text: text.replace("baseline", "b"), "baseline"
    yield "format", "export.json", lambda text: text.replace("{", '{"format": 2, ', 1), "format"
    yield "no metric", "sweep.resolved.json", lambda t: t.replace("accuracy", "x"), "val/recall_x"
    yield "bytes", "runs.csv", lambda text: b"\xff\xfe\x00", "cannot be read"


@pytest.mark.parametrize(
    ("name", "file", "change", "said"), list(broken()), ids=lambda x: str(x)[:9]
)
def test_a_broken_export_is_one_clear_error(
    tmp_path: Path, name: str, file: str, change: Any, said: str
) -> None:
    path = write_export(tmp_path) / file
    given = "" if change is None else change(path.read_text())
    path.unlink() if change is None else path.write_bytes(
        given if isinstance(given, bytes) else given.encode()
    )
    ended = report("--results", tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert "fusion-tiny" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fusio"], "no export of 'fusio'; choose one of fusion-tiny. Did you mean"),
        (["--tracking-uri", "sqlite:///{}/nowhere.db"], "no such file"),
        (["--results", "{}/nowhere"], "no such folder"),
        (["--results", "{}/empty"], "holds no export of a sweep; write one with"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, argv: list[str], said: str) -> None:
    write_export(tmp_path)
    (tmp_path / "empty").mkdir()
    ended = report("--results", tmp_path, *(word.format(tmp_path) for word in argv))
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "nowhere.db").exists()


def test_where_a_lab_has_its_exports_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "sweeps").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    ended = report("--results", Path("results"))
    assert (ended.code, ended.err.count("--results runs/sweeps")) == (2, 1)


def test_a_broken_probe_is_named(tmp_path: Path) -> None:
    folder = write_export(tmp_path)
    write_probe(folder)
    probe = folder / "probes" / "entropy.csv"
    probe.write_text(probe.read_text()[:-9])
    ended = report("--results", tmp_path)
    assert ended.code == 2
    assert "entropy.csv: line 13 has" in ended.err
    probe.write_text("row,seed\nmedian,0\n")
    ended = report("--results", tmp_path)
    assert ended.code == 2
    assert "entropy.csv: 'median' is no row of this sweep" in ended.err
    probe.write_text("row,seed\nmean,0\n")
    export = read_export(folder)
    with pytest.raises(UserError, match="entropy: the frame has no column"):
        pictures(export, documents(export)[0], folder)[-1].draw(width=3.3)
