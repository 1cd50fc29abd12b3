"""Shares that a match holds, and reference numbers out of tables with one number a line."""

from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from sweeping import Lab

from hymba_lab.errors import ConfigError
from hymba_lab.sweep.question.file import load_sweep

HEADS = {"name": "hybrid", "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_head_v": 4, "d_inner": 9}
FUSION = {"name": "concat", "norms": False}
LONG = """# where from
paper,table,row,column,value,scale,seen_in
1,a,plain,ppl,5.5,small,paper text (stored conversion)
1,a,gate,ppl,5.25,small,second-hand: research note that quotes the paper
2,a,plain,ppl,9.5,small,paper text
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, base=TINY)


def shares(lab: Lab, **hold: Any) -> None:
    row = {"model.heads": HEADS, "model.fusion": FUSION}
    lab.edit(
        axes={"shares": {"plain": {"model.fusion": {"name": "mean"}}, "held": row}},
        match={"params": "baseline", "by": "model.mlp.d_ff", "tolerance": "5%", "hold": hold},
    )


def test_what_is_held_keeps_its_ratio_to_the_free_integer(lab: Lab) -> None:
    held = {"model.heads.d_inner": {"ratio": 0.8}, "model.heads.d_head_v": {"ratio": 0.2, "of": 2}}
    shares(lab, held=held)
    plain, row = lab.session().cells
    assert abs(row.costs.params / plain.costs.params - 1) < 0.05
    d_ff, heads = row.document.get("model.mlp.d_ff"), row.config.model.heads.options()
    assert heads["d_inner"] == round(0.8 * d_ff) != HEADS["d_inner"]
    assert heads["d_head_v"] == 2 * round(0.1 * d_ff)


def test_a_held_row_that_is_not_there_is_named(lab: Lab) -> None:
    shares(lab, hold={"model.heads.d_inner": {"ratio": 0.8}})
    with pytest.raises(ConfigError, match=r"match\.hold\.hold: no row 'hold'"):
        lab.session()


def paper_of(lab: Lab, **more: Any) -> Any:
    lab.write("long.csv", LONG)
    lab.edit(paper={"label": "a paper", "table": "long.csv", "of": "ppl", **more})
    return load_sweep(lab.folder / "sweep.yaml").file.paper


def test_a_table_of_many_papers_gives_the_lines_that_are_meant(lab: Lab) -> None:
    paper = paper_of(lab, only={"paper": "1"}, cells={"mean": "plain"})
    assert (paper.values, paper.label) == ({"mean": 5.5}, "a paper")
    assert paper_of(lab, only={"paper": "2"}, cells={"mean": "plain"}).values == {"mean": 9.5}


def test_a_number_that_was_not_read_in_the_paper_says_so(lab: Lab) -> None:
    paper = paper_of(lab, only={"paper": "1"}, cells={"mean": "plain", "gate": "gate"})
    assert paper.values == {"mean": 5.5, "gate": 5.25}
    assert paper.label == "a paper (quoted by a note)"


def test_no_line_is_an_error(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"long\.csv has no line with \{'paper': '3'\}"):
        paper_of(lab, only={"paper": "3"}, cells={"mean": "plain"})
