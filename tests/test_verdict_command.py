"""Anybody's table: three exports against scipy and statsmodels, traps, and refusals."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from judging import judged
from moderated_by_hand import t_tests
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from hymba_lab.commands.verdict import main
from hymba_lab.errors import StoreError, UserError
from hymba_lab.tables.given_csv import read_given
from hymba_lab.tables.verdict import verdict

JSON = ("row", "n", "effect", "low", "high", "p", "verdict")


def command(
    path: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> list[dict[str, object]]:
    assert main([str(path), *options, "--json"]) == 0
    lines: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    assert all(tuple(line) == JSON for line in lines)
    return lines


def alike(rng: np.random.Generator, shifts: list[float], n: int) -> np.ndarray:
    """Rows of about equal spread, so that Smyth's prior is the pooled variance."""
    noise = rng.normal(size=n)
    return np.array([shift + rng.permutation(noise) for shift in shifts])


def test_a_plain_csv_agrees_with_the_pooled_t_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = alike(np.random.default_rng(5), [3.0, 2.0, 3.4, 5.0], 5)
    lines = [
        {"arch": name, "seed": seed, "val_loss": value}
        for name, row in zip(("base", "a", "b", "c"), rows, strict=True)
        for seed, value in enumerate(row)
    ]
    pd.DataFrame(lines).to_csv(tmp_path / "results.csv", index=False)
    found = command(
        tmp_path / "results.csv", capsys, "--row", "arch", "--seed", "seed", "--metric",
        "val_loss", "--goal", "minimize", "--baseline", "base",
    )  # fmt: skip
    assert found[0] == dict.fromkeys(JSON) | {"row": "base", "n": 5, "verdict": "baseline"}
    error = math.sqrt(rows.var(axis=1, ddof=1).mean() * 2 / 5)
    for line, row in zip(found[1:], rows[1:], strict=True):
        assert line["effect"] == pytest.approx(row.mean() - rows[0].mean(), rel=1e-9, abs=1e-12)
    alone = [2 * reference.t.sf(abs(r.mean() - rows[0].mean()) / error, 16) for r in rows[1:]]
    corrected = multipletests(alone, method="holm")[1]
    assert [line["p"] for line in found[1:]] == pytest.approx(list(corrected), rel=1e-9)
    half = reference.t.isf(0.05 / 6, 16) * error
    assert found[2]["low"] == pytest.approx(rows[2].mean() - rows[0].mean() - half, rel=1e-9)
    assert [line["verdict"] for line in found[1:]] == ["undecided", "undecided", "worse"]


def test_an_mlflow_export_of_common_seeds_agrees_with_scipys_paired_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    rows = 10 * rng.normal(size=6) + rng.normal(size=(2, 6)) + np.array([[0.0], [3.0]])
    lines = [
        {
            "run_id": f"{label}{seed}", "status": "FINISHED", "params.model": label,
            "params.seed": str(seed), "metrics.val/accuracy": value,
        }
        for label, row in zip(("base", "new"), rows, strict=True)
        for seed, value in enumerate(row)
    ]  # fmt: skip
    lines.append({**lines[0], "status": "FAILED", "metrics.val/accuracy": 99.0})
    path = tmp_path / "runs.csv"
    pd.DataFrame(lines).to_csv(path, index=False)
    options = ["--row", "model", "--seed", "seed", "--metric", "val/accuracy"]
    options += ["--goal", "maximize", "--baseline", "base"]
    _, line = command(path, capsys, *options)
    expected = reference.ttest_rel(rows[1], rows[0])
    interval = expected.confidence_interval(0.95)
    assert line["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert main([str(path), *options]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 runs that did not finish are left out (base: 1 failed)" in text
    assert "seed by seed" in text
    assert "times in a hundred" in text


def test_a_wandb_export_of_censored_times_agrees_with_scipys_log_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early, late = [0.7, 0.8, 0.75, 0.71, 0.9, 1.1], [1.2, 1.0, 1.4, 1.4, 1.4, 1.4]
    lines = [
        {"Name": f"{label}-{i}", "State": "finished", "arch": label, "tokens": t, "ok": t < 1.4}
        for label, times in (("base", early), ("parent", late))
        for i, t in enumerate(times)
    ]
    path = tmp_path / "wandb.csv"
    pd.DataFrame(lines).to_csv(path, index=False)
    _, line = command(
        path, capsys, "--row", "arch", "--metric", "tokens", "--solved", "ok", "--baseline", "base"
    )
    everyone = [*early, *late]

    def statistic(chosen: set[int]) -> float:
        sides = [
            reference.CensoredData.right_censored(
                [t for i, t in enumerate(everyone) if (i in chosen) is inside],
                [t >= 1.4 for i, t in enumerate(everyone) if (i in chosen) is inside],
            )
            for inside in (True, False)
        ]
        return float(reference.logrank(*sides).statistic ** 2)

    seen = statistic(set(range(6)))
    squares = [statistic(set(own)) for own in itertools.combinations(range(12), 6)]
    expected = np.mean([square >= seen * (1 - 1e-9) for square in squares])
    assert line["p"] == pytest.approx(expected, rel=1e-9)
    assert (line["verdict"], line["high"]) == ("worse", None)


# --- what must be known beside verdicts


def test_twenty_looks_at_nothing_find_nothing() -> None:
    rng = np.random.default_rng(2)
    rows = {f"r{i}": (0.5 + 0.05 * rng.normal(size=3)).tolist() for i in range(20)}
    found = judged({"base": [0.50, 0.55, 0.45], **rows})
    assert {one.verdict for one in found.rows[1:]} == {"undecided"}


def test_missing_runs_are_counted_and_told() -> None:
    found = judged({"base": [0.5, 0.52, 0.48, math.nan], "x": [0.51, math.nan, 0.49, 0.5]})
    assert [(one.row, one.n, one.n_missing) for one in found.rows] == [("base", 3, 1), ("x", 3, 1)]
    assert "x: 1 runs have no y." in found.notes
    ours, (error, _, _) = (
        found.rows[1],
        t_tests(np.array([[0.5, 0.52, 0.48], [0.51, 0.49, 0.5]]))[0],
    )
    assert ours.effect == pytest.approx(0.0, abs=1e-12)
    assert ours.high - ours.low > 2 * error


def test_a_draw_of_one_run_often_crowns_the_wrong_row() -> None:
    found = judged({"base": [0.1, 0.9, 0.2], "x": [0.5, 0.5, 0.5]})
    assert found.wrong_winner == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "acc"}, "no column 'acc'; choose one of"),
        ({"baseline": "bse"}, r"no row 'bse'.*Did you mean 'base'"),
        ({"solved": "arch", "goal": "minimize"}, "'base' is neither 1"),
        ({"metric": "arch"}, "'base' is not a number"),
    ],
)
def test_refusals_say_what_to_do(change: dict[str, str], said: str) -> None:
    frame = pd.DataFrame({"arch": ["base", "x"], "seed": [0, 0], "y": [1.0, 2.0]})
    options = {"row": "arch", "metric": "y", "goal": "maximize", "baseline": "base", **change}
    with pytest.raises(UserError, match=said):
        verdict(frame, **options)  # type: ignore[arg-type]


OUT_OF_BOUNDS: dict[str, tuple[dict[str, object], str]] = {
    "no chance": ({"alpha": 0.0}, "alpha = 0: give a chance between 1e-12 and 1"),
    "certainty": ({"alpha": 1.0}, "alpha = 1: give a chance"),
    "no margin": ({"margin": 0.0}, "margin = 0.0: give a number above 0"),
    "limits turned around": ({"limits": (1.0, 0.0)}, "limits = 1 0: give the least value first"),
    "a value outside": ({"limits": (0.0, 1.5)}, "'y': 2 lies outside the metric's limits 0 to 1.5"),
    "no parameter": ({"params": 0.0}, "params = 0: give a count of parameters"),
    "a yes for a number": ({"metric": "ok"}, "column 'ok': True is not a number"),
    "a number that has no square": ({"metric": "huge"}, "column 'huge': 1e[+]308 lies outside"),
}


@pytest.mark.parametrize(("options", "said"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_numbers_out_of_bounds_are_refused(options: dict[str, object], said: str) -> None:
    columns = {"arch": ["base", "base", "x", "x"], "y": [1.0, 1.1, 2.0, 1.2]}
    frame = pd.DataFrame({**columns, "ok": [True] * 4, "huge": [1e308, -1e308] * 2})
    asked = {"row": "arch", "metric": "y", "goal": "maximize", "baseline": "base", **options}
    with pytest.raises(UserError, match=said):
        verdict(frame, **asked)  # type: ignore[arg-type]


def test_a_column_twice_is_refused_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("row,row,loss\na,b,1\n")
    asked = [str(path), "--row", "row", "--metric", "loss", "--baseline", "a"]
    with pytest.raises(UserError, match="the header names 'row' twice; rename one"):
        main(asked)
    path.write_text("\ufeffrow,loss\na,1\na,2\nb,3\nb,4\n", encoding="utf-8")
    assert main(asked) == 0


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        main([str(tmp_path / "no.csv"), "--row", "a", "--metric", "b", "--baseline", "c"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row,m\na,1,\na,2,\nb,2,\n", "line 2 has 3 fields, the header 2; name every column"),
        ("row,m\na,1\n\nb,2,3\n", "line 4 has 3 fields"),
    ],
)
def test_a_line_longer_than_the_header_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Pandas takes the first field for the line's name then: every column moves by one."""
    file = tmp_path / "runs.csv"
    file.write_text(text)
    with pytest.raises(StoreError, match=said):
        main([str(file), "--row", "row", "--metric", "m", "--baseline", "a"])


def test_a_header_that_is_no_header_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("x" * 200_000 + ",y\n1,2\n")
    with pytest.raises(StoreError, match=r"runs\.csv: the header: field larger"):
        read_given(path)
