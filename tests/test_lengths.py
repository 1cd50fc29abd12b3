"""Cache against length: the paper's cells at 8000 tokens, straight lines without windows."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from examples import model_config

from hymba_lab.commands.lengths import main
from hymba_lab.config import load_config
from hymba_lab.cost.lengths import LENGTHS, cache_by_length
from hymba_lab.cost.peers import read_peers
from hymba_lab.errors import UserError

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "analysis" / "paper" / "peers.csv"
HYMBA = ROOT / "experiments" / "hymba_1p5b.yaml"


def test_the_printed_column_is_the_line_at_8000_tokens() -> None:
    config = load_config(HYMBA).model
    frame = cache_by_length({"Hymba-1.5B": config}, read_peers(PEERS), [8000])
    with (ROOT / "analysis" / "paper" / "table2_sub2b.csv").open(encoding="utf-8") as file:
        printed = {row["model"]: row["cache_mb"] for row in csv.DictReader(file)}
    compared = 0
    for name, n_bytes in zip(frame["model"], frame["cache_bytes"], strict=True):
        if cell := printed.get("Hymba" if name == "Hymba-1.5B" else name):
            digits = len(cell.partition(".")[2])
            assert f"{n_bytes / 1e6:.{digits}f}" == cell, name
            compared += 1
    assert compared >= 8


def test_a_transformer_grows_with_the_tokens_an_ssm_not_at_all() -> None:
    models = {
        "all keys": model_config(heads={"name": "attention_only", "n_heads": 4, "d_head": 4}),
        "no keys": model_config(heads={"name": "ssm_only"}),
    }
    frame = cache_by_length(models, [], [1000, 2000, 3000])
    table = frame.pivot(index="model", columns="tokens", values="cache_bytes")
    assert (table.loc["all keys"] / table.columns).nunique() == 1
    assert table.loc["no keys"].nunique() == 1


@pytest.mark.slow
def test_the_command_writes_the_numbers_and_their_figure(tmp_path: Path) -> None:
    arguments = [f"Hymba-1.5B={HYMBA}", "--peers", str(PEERS), "--out", str(tmp_path)]
    assert main(arguments) == 0
    frame = pd.read_csv(tmp_path / "cache_against_length.csv")
    assert sorted(frame["tokens"].unique()) == sorted(LENGTHS)
    assert set(frame["kind"]) == {"hybrid", "transformer"}
    written = sorted(path.suffix for path in tmp_path.iterdir())
    assert written == [".csv", ".pdf", ".png", ".svg"]


@pytest.mark.parametrize("given", [str(HYMBA), "=x.yaml", "name="])
def test_a_model_without_a_name_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write NAME=FILE"):
        main([given, "--peers", str(PEERS), "--out", str(tmp_path)])
