"""Claims of later papers: every file loads, and names rows that its sweeps have."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, tracked

from hymba_lab.claims.file import load_claims
from hymba_lab.config.yaml_file import read_yaml
from hymba_lab.sweep.question.file import load_sweep

FILES = tracked("analysis/claims/*.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_rows_of_a_claim_are_rows_of_its_sweep(path: Path) -> None:
    for name, claim in load_claims(path).file.claims.items():
        sweep = load_sweep(ROOT / "sweeps" / f"{claim.sweep}.yaml")
        rows = {row for axis in sweep.file.axes.values() for row in axis}
        assert {in_words(row) for row in (claim.row, *claim.others)} <= rows, name


def in_words(row: str) -> str:
    """A row with the words of the scale nano, which its sweep is loaded at."""
    words = read_yaml(ROOT / "sweeps" / "scales" / "nano.yaml").data["words"]
    return re.sub(r"\$(\w+)", lambda found: str(words[found[1]]), row)


def test_there_is_a_file_for_each_paper_whose_axes_are_here() -> None:
    assert {path.stem for path in FILES} >= {
        "2505.06708", "2507.22448", "2510.04800", "2510.26692",
    }  # fmt: skip
