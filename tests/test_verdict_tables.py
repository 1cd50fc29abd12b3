"""Other people's files through `hymba-lab verdict`: they are read, or refused with a place.

Every file here is small and told in a line; whatever it holds, the command ends with 0 or with 2
and one message, JSON is strict, and no line is wider than 80 columns.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

from hymba_lab import cli
from hymba_lab.commands.verdict import main
from hymba_lab.stats import compare
from hymba_lab.tables.verdict import verdict

BASE, X, Y = [3.0, 3.02, 2.98, 3.01], [2.9, 2.91, 2.89, 2.92], [3.0, 3.05, 2.97, 3.01]
ROWS: Mapping[str, list[float]] = {"base": BASE, "x": X, "y": Y}
ASKED = "--row arch --seed seed --metric loss --baseline base"


def table(rows: Mapping[str, Iterable[object]], head: str = "arch,seed,loss") -> str:
    lines = [f"{row},{seed},{v}" for row, own in rows.items() for seed, v in enumerate(own)]
    return "\n".join([head, *lines]) + "\n"


class Ended:
    """What the command said of a file: its code, its lines, and its verdicts by row."""

    def __init__(
        self, path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, asked: str
    ) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        argv = [str(path), *asked.split()]
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda _: main(argv))
        self.code, shown = ended.value.code, capsys.readouterr()
        self.out, self.err = shown.out, shown.err
        assert "Traceback" not in self.out + self.err
        assert all(c.isprintable() or c == "\n" for c in self.out + self.err)
        assert all(cell_len(line) <= 80 for line in self.out.splitlines())
        self.rows: dict[str, dict[str, Any]] = {}
        if self.code == 0:
            assert main([*argv, "--json"]) == 0
            found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
            self.rows = {line["row"]: line for line in found}
        else:
            assert (self.code, self.out, self.err.count("error: ")) == (2, "", 1)
            assert len(self.err) < 700, "a sentence, not a list of everything"

    @property
    def kinds(self) -> list[object]:
        return [line["verdict"] for line in self.rows.values()]

    @property
    def text(self) -> str:
        return " ".join((self.out + self.err).split())


class Judge:
    """The command, to be given a file's content and what is asked of it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._path, self._capsys = path, capsys

    def __call__(self, content: str | bytes, asked: str = ASKED) -> Ended:
        return Ended(self._path, self._capsys, content, asked)


@pytest.fixture
def ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    return Judge(tmp_path / "runs.csv", capsys)


PLAIN = table(ROWS)
SAME_TABLE = {
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "semicolons": PLAIN.replace(",", ";"),
    "Excel's semicolons": "sep=;\n" + PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "blanks after commas": PLAIN.replace(",", ", "),
    "quotes": "\n".join(f'"{line}"'.replace(",", '","') for line in PLAIN.split()),
    "empty lines, and lines of commas": PLAIN.replace("\n", "\n,,\n\n"),
    "columns without a name": "".join(f"{line},,\n" for line in PLAIN.split()),
    "another column twice": "".join(f"{line},z,z\n" for line in PLAIN.split()),
    "a state that is no state": PLAIN.replace("\n", ",CA\n").replace("loss,CA", "loss,state"),
    "states": PLAIN.replace("\n", ",COMPLETE\n").replace("loss,COMPLETE", "loss,status"),
    "a parent run without a label": PLAIN + ",9,1.5\n",
}


@pytest.mark.parametrize("content", SAME_TABLE.values(), ids=SAME_TABLE)
def test_the_same_table_however_it_is_written(ended: Judge, content: str | bytes) -> None:
    assert ended(content).rows == ended(PLAIN).rows
    assert ended(content).kinds == ["baseline", "better", "undecided"]


LABELS = {
    "words that pandas takes for nothing": ["None", "NA", "null"],
    "numbers that are the same and labels that are not": ["0.10", "0.1", "1e-1"],
    "a leading zero": ["001", "01", "1"],
    "what a terminal, Markdown or a spreadsheet would act on": ["\x1b[31mr", "[bold]", "=1|$<`"],
    "very long ones": ["x" * 300, "y z " * 80 + "w", "\u65e5\u672c" * 40],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_label_stays_what_it_is(ended: Judge, labels: list[str]) -> None:
    rows = {"base": BASE, **dict(zip(labels, (X, Y, X), strict=True))}
    found = ended(table(rows))
    assert list(found.rows) == list(rows)
    assert found.kinds == ["baseline", "better", "undecided", "better"]


def test_a_baseline_is_found_as_the_file_writes_it(ended: Judge) -> None:
    asked = ASKED.replace("--baseline base", "--baseline 1")
    assert list(ended(table({"1.0": BASE, "2.0": X}), asked).rows) == ["1.0", "2.0"]


MISSING = ["", "NA", "NaN", "nan", "None", "null", "N/A", "#N/A", " ", "inf", "-Infinity"]


@pytest.mark.parametrize("field", MISSING)
def test_what_is_missing_is_counted_and_never_zero(ended: Judge, field: str) -> None:
    found = ended(table({"base": BASE, "x": [2.9, field, 2.89, 2.92]}))
    known = compare(
        {"base": dict(enumerate(BASE)), "x": {0: 2.9, 2: 2.89, 3: 2.92}}, "base", goal="minimize"
    )[0]
    assert (found.rows["x"]["n"], found.rows["x"]["effect"]) == (3, known.effect)
    assert "x: 1 runs have" in found.text
    assert ("did not diverge" in found.text) == ("inf" in field.lower())


TIMED = "--row arch --seed seed --metric t --baseline base --solved ok"
SOLVED = "".join(f"base,{i},0.{7 + i},1\n" for i in range(3))
LINES = "arch,seed,loss\nbase,0,1\nbase,1,1.1\nbase,2,0.9\n"
REFUSED = {
    "UTF-16": (PLAIN.encode("utf-16"), ASKED, "no text in UTF-8 (byte 0xff at 0)"),
    "UTF-16 without its mark": (PLAIN.encode("utf-16-le"), ASKED, "holds NUL bytes"),
    "Latin-1": (PLAIN.replace("x", "\xb5").encode("latin-1"), ASKED, "save the table as CSV"),
    "an image": (b"\x89PNG\r\n\x1a\n", ASKED, "no text in UTF-8"),
    "nothing": ("\n\n", ASKED, "is empty; give a CSV file"),
    "a header alone": ("arch,seed,loss\n", ASKED, "the table has no runs"),
    "a cut line": (PLAIN + "x,7\n", ASKED, "line 14 has 2 fields, the header 3: it was cut"),
    "decimal commas": ("arch,seed,loss\nbase,0,3,1\n", ASKED, "line 2 has 4 fields"),
    "an open quote": (LINES + '"x,0,2\n', ASKED, "line 5: unexpected end of data; close every"),
    "1,5": (LINES + 'x,0,"1,5"\n', ASKED, "line 5: column 'loss': '1,5' is not a number; write"),
    "45%": (LINES + "x,0,45%\n", ASKED, "'45%' is not a number; leave the % away"),
    "1_000": (LINES + "x,0,1_000\n", ASKED, "'1_000' is not a number"),
    "1e400": (LINES + "x,0,1e400\n", ASKED, "line 5: column 'loss': 1e400 lies outside"),
    "-": (LINES + "x,0,-\n", ASKED, "'-' is not a number; leave the field empty"),
    "a seed is missing": (LINES + "x,,1\n", ASKED, "line 5: a run of 'x' has no seed"),
    "a seed twice": (LINES + "base,1.0,1\n", ASKED, "lines 3 and 5: arch 'base' has more than one"),
    "one run's steps": (
        "run_id,arch,loss\nr,base,1\nr,base,2\n", ASKED.replace("--seed seed ", ""),
        "lines 2 and 3: run_id 'r' has more than one line: a line is to be a run",
    ),
    "a chart of W&B": (
        "Step,a - loss,a - loss__MIN,a - loss__MAX\n1,2,2,2\n", ASKED, "export the table of runs",
    ),
    "two columns of a name": (
        "arch,seed,params.loss,metrics.loss\nbase,0,ce,1\n", ASKED,
        "'loss' may be 'params.loss' or 'metrics.loss'; name one of them whole",
    ),
    "a thousand rows": (
        table({f"row {i}": [i] for i in range(1000)}), ASKED, "row 39 and 960 more",
    ),
    "more is better": (PLAIN, ASKED.replace("loss", "val/accuracy"), "give --goal maximize"),
    "times to maximize": (
        f"arch,seed,t,ok\n{SOLVED}", f"{TIMED} --goal maximize", "sooner is better"),
    "a floor of times": (f"arch,seed,t,ok\n{SOLVED}", f"{TIMED} --floor 0.3", "those of a level"),
    "a factor below 1": (f"arch,seed,t,ok\n{SOLVED}", f"{TIMED} --margin 0.5", "give one above 1"),
    "a time of 0": (f"arch,seed,t,ok\n{SOLVED}x,0,0,1\n", TIMED, "line 5: column 't': a time"),
    "no word of the end": (
        f"arch,seed,t,ok\n{SOLVED}x,0,9,\n", TIMED, "an empty field is neither 1 (yes) nor 0 (no)"),
    "unsolved, no time": (
        f"arch,seed,t,ok\n{SOLVED}x,0,,0\n", TIMED, "a run that ended without solving has no time"),
    "unsolved, endless": (
        f"arch,seed,t,ok\n{SOLVED}x,0,inf,False\n", TIMED, "else only runs that solved would"),
    "the wrong way round": (
        f"arch,seed,t,censored\n{SOLVED}", TIMED.replace("ok", "censored"), "with --censored"),
    "both ways": (
        f"arch,seed,t,ok\n{SOLVED}", f"{TIMED} --censored ok", "say the same of a run"),
    "a floor above": (PLAIN, f"{ASKED} --floor 2 --solved-at 3", "give a level below the floor"),
    "a floor outside": (PLAIN, f"{ASKED} --floor 9 --limits 0 4", "the metric's limits are 0 to 4"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "asked", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_judged_is_said_in_a_sentence(
    ended: Judge,
    content: str | bytes,
    asked: str,
    said: str,
) -> None:
    found = ended(content, asked)
    assert found.code == 2 and said in found.text, found.text


# --- what the verdicts of such tables are


def test_lines_that_are_sorted_by_the_result_are_not_paired() -> None:
    """Without seeds the k-th line of every row has nothing in common but its rank."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(40):
        lines = [{"arch": str(row), "y": y} for row in range(4) for y in rng.normal(size=6)]
        found = verdict(
            pd.DataFrame(lines).sort_values("y"), row="arch", metric="y", goal="minimize",
            baseline="0",
        )  # fmt: skip
        assert any("independent groups" in note for note in found.notes)
        wrong += any(one.verdict in ("better", "worse") for one in found.rows)
    assert wrong <= 5, "of 40 tables of nothing half were decided when lines counted as seeds"


def test_a_row_whose_runs_all_crashed_is_told_and_unpairs_nothing(ended: Judge) -> None:
    rng = np.random.default_rng(5)
    shared = 10 * rng.normal(size=4)
    rows = {name: shared + rng.normal(size=4) for name in ("base", "x", "y")}
    lines = table(rows, "arch,seed,loss").replace("\n", ",finished\n")
    lines = lines.replace("loss,finished", "loss,State")
    found = ended(lines + "".join(f"z,{i},1,crashed\n" for i in range(4)))
    assert {row: line["n"] for row, line in found.rows.items()} == dict.fromkeys(rows, 4) | {"z": 0}
    assert found.kinds[-1] == "too_few_seeds"
    assert "seed by seed" in found.text and "left out (z: 4 crashed)" in found.text
    without = ended(lines).rows
    assert {row: found.rows[row] for row in rows} == without


def test_a_censored_column_is_a_solved_one_turned_around(ended: Judge) -> None:
    times = {"base": [0.7, 0.8, 0.75, 0.71, 0.9, 1.1], "x": [1.2, 1.0, 1.4, 1.4, 1.4, 1.4]}
    rows = [(row, i, t) for row, own in times.items() for i, t in enumerate(own)]
    yes = "arch,seed,t,ok\n" + "".join(f"{r},{i},{t},{t < 1.4}\n" for r, i, t in rows)
    no = "arch,seed,t,censored\n" + "".join(f"{r},{i},{t},{int(t >= 1.4)}\n" for r, i, t in rows)
    found = ended(yes, TIMED)
    assert found.rows == ended(no, TIMED.replace("--solved ok", "--censored censored")).rows
    line = found.rows["x"]
    assert (line["verdict"], line["effect"], line["high"]) == ("worse", None, None)
    assert f"> {int(100 * line['low']) / 100:.2f} times" in found.text
    assert "crowned" not in found.text, "who wins is not known where a run did not solve"


def test_an_accuracy_has_its_range_without_being_told(ended: Judge) -> None:
    content = table({"base": [0.98, 1.0, 0.99], "x": [0.2, 0.9, 0.7]}, "arch,seed,accuracy")
    asked = ASKED.replace("loss", "accuracy") + " --goal maximize"
    line = ended(content, asked).rows["x"]
    half = 0.01 / 3**0.5 * 4.302653  # t for 2 degrees of freedom: the baseline's mean is 0.99 -+ so
    assert (line["low"], line["high"]) == pytest.approx((-1.0, 0.01 + half))
    percents = content.replace("0.", "70.")
    assert ended(percents, asked).rows["x"]["high"] > 1, "percents have no such range"


NOTES = {
    "copies": ({"base": [1.0] * 5, "x": [2.0] * 5}, "copies of one run are no evidence"),
    "no digits left": ({"base": [1e9, 1e9 + 1, 1e9 + 2]}, "agree in seven digits count as equal"),
    "alone": ({"base": BASE}, "no row to hold against it"),
    "a goal": (ROWS, "Smaller loss counts as better"),
}


@pytest.mark.parametrize(("rows", "said"), NOTES.values(), ids=NOTES)
def test_what_must_be_known_is_told(
    ended: Judge, rows: Mapping[str, list[float]], said: str
) -> None:
    assert said in ended(table(rows)).text


def test_copied_lines_are_told_where_no_column_names_the_runs(ended: Judge) -> None:
    lines = PLAIN.splitlines()
    found = ended("\n".join([*lines, *lines[1:]]), ASKED.replace("--seed seed ", ""))
    assert "12 lines are letter for letter as others; copies of one run" in found.text
    assert "no column of seeds is named" in found.text


def test_numbers_of_any_size_are_short(ended: Judge) -> None:
    for scale in (1e-12, 1e-9, 1e60, 1e98):
        found = ended(table({row: [scale * v for v in own] for row, own in ROWS.items()}))
        assert found.kinds == ["baseline", "better", "undecided"]
        assert "0.000000" not in found.text and ",000," not in found.text


@pytest.mark.parametrize("how", ["timeout", "killed", "failed"])
def test_a_run_that_took_too_long_is_no_run_that_was_not_made(ended: Judge, how: str) -> None:
    """Half of a row's runs end unsolved: the others alone would look sooner than the baseline."""
    lines = "arch,seed,t,ok,status\n"
    lines += "".join(f"base,{s},{1000 + 20 * s},1,finished\n" for s in range(6))
    lines += "".join(f"x,{s},{700 + 10 * s},1,finished\n" for s in range(3))
    lines += "".join(f"x,{s},5000,0,{how}\n" for s in range(3, 6))
    lines += f"x,0,300,0,{how}\nx,4,200,0,{how}\n"  # attempts that were made again
    lines += f"y,0,,,{how}\n"
    found = ended(lines, TIMED)
    assert (found.rows["x"]["n"], found.rows["x"]["verdict"]) == (6, "censored")
    assert f"3 runs that ended otherwise count as unsolved until then (3 {how})" in found.text
    assert f"3 runs that did not finish are left out (x: 2 {how}, y: 1 {how})" in found.text


@pytest.mark.parametrize("kind", ["Int64", "Float64"])
def test_frames_of_pandas_own_missing_values(kind: str) -> None:
    frame = pd.DataFrame(
        {
            "arch": ["base"] * 3 + ["x"] * 3,
            "seed": [0, 1, 2] * 2,
            "loss": [3, 4, 5, 1, 2, None],
            "status": ["finished"] * 5 + [None],
        }
    )
    own = frame.astype({"loss": kind, "status": "string"})
    said = [
        str(verdict(one, row="arch", seed="seed", metric="loss", goal="minimize", baseline="base"))
        for one in (frame, own)
    ]
    assert said[0] == said[1]
