"""The reference column: cells of the paper's tables, found by row and column."""

from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from sweeping import Lab

from hymba_lab.errors import ConfigError
from hymba_lab.sweep.question.file import load_sweep

ROOT = Path(__file__).parents[1]
TABLE = "row,acc,cache\n1,40.5,7\n2,,8\n"


def values(lab: Lab, **paper: Any) -> dict[str, float]:
    lab.write("table.csv", TABLE)
    lab.edit(paper={"label": "a paper", "table": "table.csv", **paper})
    file = load_sweep(lab.folder / "sweep.yaml").file
    assert file.paper is not None
    return file.paper.values


def planned(lab: Lab, **paper: Any) -> None:
    values(lab, **paper)
    lab.session()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, base=TINY)


def test_a_cell_is_named_by_its_row_or_by_its_column(lab: Lab) -> None:
    assert values(lab, of="cache", cells={"mean": "1", "gate": "2"}) == {"mean": 7, "gate": 8}
    assert values(lab, of="1", cells={"mean": "acc", "gate": "cache"}) == {"mean": 40.5, "gate": 7}


def test_what_the_paper_does_not_print_has_no_value(lab: Lab) -> None:
    assert values(lab, of="acc", cells={"mean": "1", "gate": "2"}) == {"mean": 40.5}


@pytest.mark.parametrize(
    ("paper", "says"),
    [
        ({"of": "acc", "cells": {"mean": "3"}}, "table.csv has no row '3'; choose one of 1, 2."),
        ({"of": "1", "cells": {"mean": "ac"}}, "has no column 'ac'"),
        ({"of": "acc"}, "needs of: and cells:"),
        ({"table": "none.csv", "of": "acc", "cells": {"mean": "1"}}, "none.csv: No such file"),
        ({"of": "acc", "cells": {"nome": "1"}}, "no row 'nome'"),
    ],
)
def test_a_cell_that_is_not_there(lab: Lab, paper: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.yaml:\d+:\d+: .*") as error:
        planned(lab, **paper)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("row,acc\n1,gef\xe4hr\n".encode("latin-1"), "table.csv is no CSV file in UTF-8"),
        (b"row,acc\n1,about 40\n", "table.csv [1, acc] holds 'about 40', no number."),
        (b"row,acc,cache_mb\n1,40,7 MB\n", "table.csv [1, cache_mb] holds '7 MB', no number."),
        (b"\x00\x01\x02", "table.csv holds no line"),
        (b"", "table.csv holds no line below its columns."),
    ],
)
def test_a_table_that_is_none_is_one_message(lab: Lab, content: bytes, says: str) -> None:
    lab.write("table.csv", content)
    lab.edit(paper={"label": "p", "table": "table.csv", "of": "acc", "cells": {"mean": "1"}})
    with pytest.raises(ConfigError, match=r"sweep\.yaml:\d+:\d+: .*") as error:
        lab.session()
    assert says in str(error.value)


def test_the_shipped_sweeps_show_the_printed_recall() -> None:
    file = load_sweep(ROOT / "sweeps" / "roadmap.yaml").file
    assert file.paper is not None
    assert file.paper.values["Transformer"] == 39.98 and file.paper.values["Mamba"] == 19.23
    assert load_sweep(ROOT / "sweeps" / "swa_placement.yaml").file.paper is None
