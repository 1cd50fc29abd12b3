"""What is printed is what was written: no text is read as a style or a picture."""

import io
from pathlib import Path

import pytest
from rich.table import Table
from sweeping import SWEEP, Lab

from hymba_lab.cli import plain_console

WORDS = "Is [/mean] better than [red]a gate[/red] :smile:?"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, SWEEP)


def test_brackets_and_colons_are_letters() -> None:
    shown = io.StringIO()
    console = plain_console(file=shown, width=200)
    table = Table("run", title="[b]")
    table.add_row(WORDS)
    console.print(WORDS)
    console.print(table)
    assert shown.getvalue().count(WORDS) == 2 and "[b]" in shown.getvalue()


def test_a_plan_says_the_question_and_the_rows_as_they_stand(lab: Lab) -> None:
    """It ended in a traceback."""
    lab.write("sweep.yaml", SWEEP.replace("mean: {", '"mean [/b]": {'))
    lab.edit(question=WORDS)
    ended = lab.run("--plan")
    assert ended.code == 0 and WORDS in ended.out and "mean [/b]" in ended.out
