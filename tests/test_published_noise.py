"""The noise of public runs: a prior where nothing is measured, unknown where nothing is public."""

import csv
import json
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hymba_lab.commands.verdict import main
from hymba_lab.stats import detectable_effect
from hymba_lab.tables.noise_notes import prior_notes
from hymba_lab.tables.published import prior, sets, unit_of


def test_a_prior_is_the_mean_square_within_sets() -> None:
    found = prior(124e6, "nats")
    assert found is not None
    text = files("hymba_lab.tables").joinpath("noise.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    own = [(float(x["sd"]), int(x["n"])) for x in lines if float(x["params"]) == 124e6]
    drawn = []  # runs with just these means of squares
    rng = np.random.default_rng(0)
    for sd, n in own:
        y = rng.normal(size=n)
        drawn.append(sd * (y - y.mean()) / y.std(ddof=1))
    freedom = sum(len(y) - 1 for y in drawn)
    pooled = math.sqrt(sum(float((y**2).sum()) for y in drawn) / freedom)
    assert (found.sd, found.freedom) == (pytest.approx(pooled), freedom)
    assert found.n_runs == sum(n for _, n in own) and found.n_sets == len(own)
    assert found.least < found.sd < found.most
    assert 0.0018 < found.sd < 0.0020  # nats: a difference of 0.0057 takes three seeds
    assert found.spread == (found.sd**2, freedom)


def test_sizes_of_which_nothing_is_public_are_unknown() -> None:
    assert prior(1.5e9, "nats") is None
    assert prior(250e3, "nats") is None
    assert prior(124e6, "bits_per_byte") is None
    assert prior(math.nan, "nats") is None and prior(0, "nats") is None
    larger, smaller = prior(360e6, "nats"), prior(110e6, "nats")
    assert larger is not None and smaller is not None
    assert (larger.params, smaller.params) == (350e6, 124e6)
    assert larger.sd < smaller.sd
    assert all(one.n > 1 and one.sd > 0 for one in sets())


def test_the_unit_is_by_the_metrics_name() -> None:
    assert unit_of("val/text_loss") == unit_of("val_loss") == "nats"
    assert unit_of("val/text_bits_per_byte") == unit_of("val_bpb") == "bits_per_byte"
    assert unit_of("val/recall_accuracy") is None


def rows(n: int) -> dict[str, dict[int, float]]:
    return {label: dict.fromkeys(range(n), 3.28) for label in ("base", "x", "z")}


def test_it_is_told_only_where_nobody_has_seeds_enough() -> None:
    (said,) = prior_notes(rows(1), "val_loss", 124e6)
    known = prior(124e6, "nats")
    assert known is not None and str(known) in said and "a prior, not measured here" in said
    assert f"would detect {detectable_effect(known.sd, 3, 2):.4f} with 80 %" in said
    assert prior_notes(rows(3), "val_loss", 124e6) == []
    assert prior_notes(rows(1), "val/recall_accuracy", 124e6) == []
    (said,) = prior_notes(rows(2), "val_loss", 1.5e9)
    assert "not published at 1500M parameters: unknown" in said
    (said,) = prior_notes(rows(2), "val_loss", math.nan)
    assert "not published at unknown size" in said


def test_the_command_tells_it_and_makes_no_verdict_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"arch": ["base", "x"], "seed": [0, 0], "val_loss": [3.28, 3.20]}
    pd.DataFrame(lines).to_csv(tmp_path / "runs.csv", index=False)
    asked = [str(tmp_path / "runs.csv"), "--row", "arch", "--metric", "val_loss"]
    asked += ["--baseline", "base", "--params", "124e6"]
    assert main(asked) == 0
    assert "a prior, not measured here" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in found] == ["baseline", "too_few_seeds"]
