"""Claims: what becomes of them, what is refused, and the shipped file against paper and sweeps."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claiming import HYBRID, REMOVAL, Desk
from conftest import ROOT
from moderated_by_hand import t_tests
from scipy import stats as reference

from hymba_lab.claims.__main__ import main
from hymba_lab.claims.file import load_claims
from hymba_lab.claims.judge import together
from hymba_lab.claims.page import ratio
from hymba_lab.claims.schema import COSTS
from hymba_lab.claims.write import write_claims
from hymba_lab.errors import ConfigError, StoreError, UserError
from hymba_lab.probes.measure import COLUMNS
from hymba_lab.sweep.question.designs import design_choices
from hymba_lab.sweep.question.file import load_sweep

SHIPPED = ROOT / "analysis" / "claims" / "2411.13676.yaml"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("hybrid", "status"),
    [
        ([0.90, 0.92, 0.91], "reproduced"),
        ([0.05, 0.92, 0.51], "undecided"),
        ([0.01, 0.03, 0.01], "contradicted"),
        ([math.nan, math.nan, math.nan], "not run"),
    ],
)
def test_what_became_of_a_claim(desk: Desk, hybrid: list[float], status: str) -> None:
    desk.export({"hybrid": hybrid, "mamba": [0.10, 0.11, 0.10]})
    (line,) = desk.run()
    assert line["status"] == status
    if status != "not run":
        assert f"| {status}" in desk.text("md")
        effect = sum(hybrid) / 3 - 0.31 / 3
        assert float(line["effect"]) == pytest.approx(effect)
        assert "[heads-nano](heads-nano/table.md), 6 runs" in desk.text("md")
        assert line["runs"].split()[0] == "hybrid-0".ljust(20, "0")
        assert line["seeds"] == "3"


def test_it_is_the_interval_of_the_moderated_test(desk: Desk) -> None:
    hybrid, mamba = [0.6, 0.7, 0.9, 0.4], [0.1, 0.3, 0.2, 0.2]
    desk.export({"hybrid": hybrid, "mamba": mamba})
    (line,) = desk.run()
    ((error, freedom, p),) = t_tests(np.array([mamba, hybrid]))
    low, high = reference.t(freedom, 0.45, error).interval(0.95)
    assert float(line["low"]) == pytest.approx(low, rel=1e-4)
    assert float(line["high"]) == pytest.approx(high, rel=1e-4)
    assert float(line["p"]) == pytest.approx(p, rel=1e-4)


def test_the_papers_effect_comes_from_its_cells(desk: Desk) -> None:
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    (line,) = desk.run()
    assert (line["paper_effect"], line["paper_cells"]) == ("10.25", "50.25 - 40.0, recall")
    desk.write("paper/one.csv", "row,recall\na,51.25\nb,40.0\n")
    assert desk.run()[0]["paper_effect"] == "11.25"


def test_failed_runs_are_left_out(desk: Desk) -> None:
    desk.export({"hybrid": [0.9, math.nan, 0.7, 0.8], "mamba": [0.1, 0.2, math.nan, 0.2]})
    (line,) = desk.run()
    assert line["seeds"] == "3"
    assert float(line["effect"]) == pytest.approx(0.8 - 0.5 / 3)


def test_a_claim_about_several_rows_needs_all_of_them(desk: Desk) -> None:
    desk.claim(HYBRID.replace("against: mamba", "against: [mamba, llama]"))
    high, low = [0.9, 0.91, 0.92], [0.1, 0.12, 0.11]
    desk.export({"hybrid": high, "mamba": low, "llama": low})
    assert [line["status"] for line in desk.run()] == ["reproduced"] * 2
    desk.export({"hybrid": high, "mamba": low, "llama": [0.99, 0.995, 0.999]})
    lines = desk.run()
    assert [line["status"] for line in lines] == ["contradicted"] * 2
    assert [line["comparison_status"] for line in lines] == ["reproduced", "contradicted"]
    assert together(["reproduced", "undecided"]) == "undecided"


def test_a_margin_counts_on_its_own_side(desk: Desk) -> None:
    rows = {"hybrid": [0.49, 0.50, 0.48], "mamba": [0.500, 0.512, 0.492]}
    for condition, status in [
        ("{above: -0.05}", "reproduced"),
        ("{within: 0.05}", "reproduced"),
        ("{above: 0}", "contradicted"),
        ("{within: 0.001}", "contradicted"),
    ]:
        desk.claim(HYBRID.replace("{above: 0}", condition))
        desk.export(rows)
        assert desk.run()[0]["status"] == status, condition


def test_seeds_added_until_decided_are_paid_for(desk: Desk) -> None:
    """p = 0.02 at six seeds: enough for one look, not for the second of two."""
    steps = [0.9, 0.4, 0.8, 0.65, 0.9, 0.1]
    rows = {"hybrid": [0.1 + step for step in steps], "mamba": [0.1] * 6}
    desk.export(rows)
    (plain,) = desk.run()
    assert plain["status"] == "reproduced"
    desk.export(rows, until_decided=6)
    (line,) = desk.run()
    assert line["seeds"] == "6"
    assert float(line["p"]) == pytest.approx(float(plain["p"]) / (2 / 9))
    assert float(line["low"]) < float(plain["low"])
    assert line["status"] == "undecided"
    clear = {"hybrid": [0.9, 0.95, 0.92, 0.1, 0.1, 0.1], "mamba": [0.1] * 6}
    desk.export(clear, until_decided=6)
    (line,) = desk.run()
    assert (line["seeds"], line["status"]) == ("3", "reproduced")  # decided at the first look


def test_costs_are_exact_ratios(desk: Desk) -> None:
    cache = {"hybrid": 250, "mamba": 1000}
    desk.export({"hybrid": [0.5, 0.6], "mamba": [0.5, 0.6]}, cache_bytes=cache)
    for condition, status in [("{below: 0.5}", "reproduced"), ("{below: 0.2}", "contradicted")]:
        claim = HYBRID.replace("reproduced_if: {above: 0}", f"reproduced_if: {condition}")
        desk.claim(claim.replace("    against:", "    metric: cache_bytes\n    against:"))
        (line,) = desk.run()
        assert (line["effect"], line["low"], line["status"]) == ("0.25", "", status)
        assert "## Costs" in desk.text("md")
        assert f"| 0.25 times | cache bytes \\< {condition[8:-1]} times |" in desk.text("md")
        assert "**0 of 0 independent comparisons hold" in desk.text("md")


def test_a_cost_against_several_rows_has_a_line_for_each(desk: Desk) -> None:
    """The first said yes, and that the second was contradicted stood nowhere."""
    rows = {"hybrid": [0.5, 0.6], "mamba": [0.5, 0.6], "other": [0.5, 0.6]}
    desk.export(rows, cache_bytes={"hybrid": 250, "mamba": 1000, "other": 251})
    claim = HYBRID.replace("reproduced_if: {above: 0}", "reproduced_if: {below: 0.5}")
    several = claim.replace("against: mamba", "metric: cache_bytes\n    against: [mamba, other]")
    desk.claim(several)
    desk.run()
    said = [line for line in desk.text("md").splitlines() if "cache bytes" in line]
    assert [line.split(" | ")[4] for line in said] == ["yes", "no"]


def test_ratios_near_one_show_their_side() -> None:
    shown = [ratio(value) for value in (0.99963, 1.00106, 1.0, 0.957028, 3.64)]
    assert shown == ["0.99963", "1.0011", "1", "0.957", "3.64"]


def test_words_of_the_scale_stand_in_labels(desk: Desk) -> None:
    desk.claim(HYBRID.replace("row: hybrid", "row: all of $window"))
    desk.export({"all of 9": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    assert desk.run()[0]["row"] == "all of 9"


def removal(change: dict[tuple[str, int], float]) -> str:
    """Three seeds; the first SSM branch's change varies twice as much as the others'."""
    lines = []
    for seed in range(3):
        for (branch, layer), value in change.items():
            own = value + seed / (50 if (branch, layer) == ("ssm", 0) else 100)
            lines.append(f"heads,hybrid,{seed},{layer},{branch},val/recall_accuracy,0.9,0.5,{own}")
    return "\n".join(["sweep,row,seed,layer,branch,metric,whole,value,change", *lines]) + "\n"


def test_probes_compare_conditions_within_a_row(desk: Desk) -> None:
    desk.claim(REMOVAL)
    desk.export({"hybrid": [0.9, 0.8, 0.9]})
    (line,) = desk.run()
    assert (line["status"], line["missing"]) == ("not run", "heads-nano has no probe removal")
    change = {("ssm", 0): -0.8, ("ssm", 1): -0.1, ("ssm", 2): -0.2, ("attention", 0): -0.9}
    desk.write("results/heads-nano/probes/removal.csv", removal(change))
    (line,) = desk.run()
    assert line["status"] == "reproduced"
    first = [-0.8 + seed / 50 for seed in range(3)]
    later = [-0.15 + seed / 100 for seed in range(3)]
    assert float(line["effect"]) == pytest.approx((sum(first) - sum(later)) / 3)
    assert "| layer 0 vs layer not 0 in hybrid |" in desk.text("md")


def test_probes_compare_rows_under_one_condition(desk: Desk) -> None:
    claim = REMOVAL.replace("    against_where: {branch: ssm, layer: {not: 0}}\n", "")
    desk.claim(claim.replace("    probe:", "    against: mamba\n    probe:"))
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.9, 0.9, 0.8]})
    text = removal({("ssm", 0): -0.8})
    desk.write("results/heads-nano/probes/removal.csv", text)
    assert "no line for “mamba”" in desk.run()[0]["missing"]
    other = removal({("ssm", 0): -0.2}).split("\n", 1)[1].replace("hybrid", "mamba")
    desk.write("results/heads-nano/probes/removal.csv", text + other)
    (line,) = desk.run()
    assert float(line["effect"]) == pytest.approx(-0.6)
    assert line["status"] == "reproduced"


@pytest.mark.parametrize(
    ("missing", "said"),
    [("export", "no export heads-nano"), ("row", "heads-nano has no row “hybrid”")],
)
def test_what_was_not_run_is_told(desk: Desk, missing: str, said: str) -> None:
    if missing == "row":
        desk.export({"mamba": [0.1, 0.2]})
    else:
        desk.write("results/another-nano/runs.csv", "")
    (line,) = desk.run()
    assert (line["status"], line["missing"], line["effect"]) == ("not run", said, "")
    assert said in desk.text("md")


def test_another_scale_has_a_page_of_its_own(desk: Desk) -> None:
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    assert desk.run("125m")[0]["status"] == "not run"
    assert "at scale 125m" in desk.text("md", "125m")


def test_the_page_corrects_over_all_its_comparisons(desk: Desk) -> None:
    desk.claim(HYBRID, HYBRID.replace("hybrid:", "again:").replace("{above: 0}", "{below: 0}"))
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    first, second = desk.run()
    assert float(first["p_holm"]) == float(first["p"])  # the same runs and metric: one test
    assert [first["status"], second["status"]] == ["reproduced", "contradicted"]
    desk.claim(
        HYBRID, HYBRID.replace("hybrid:", "again:").replace("against: mamba", "against: llama")
    )
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2], "llama": [0.1, 0.1, 0.1]})
    first, second = desk.run()
    assert float(first["p_holm"]) == pytest.approx(max(float(second["p_holm"]), float(first["p"])))
    assert float(second["p_holm"]) == pytest.approx(2 * float(second["p"]))
    assert "**2 of 2 independent comparisons hold" in desk.text("md")


def test_same_results_same_bytes(desk: Desk) -> None:
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    desk.run()
    first = (desk.text("md"), desk.text("csv"))
    desk.run()
    assert (desk.text("md"), desk.text("csv")) == first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    sweep: heads\n", "", r"claims\.yaml:5:3: claims\.hybrid\.sweep: is missing"),
        ("source: table 1", "sorce: x", r"claims\.yaml:7:5: .*no key 'sorce'.*'source'"),
        ("{above: 0}", "{above: 0, within: 1}", r"claims\.yaml:11:5: .*one of above, below"),
        ("{above: 0}", "{within: -1}", r"claims\.yaml:11:21: .*greater than 0"),
        ("    against: mamba\n", "", r"claims\.yaml:5:3: .*give against"),
        ("table: one", "table: two", r"claims\.yaml:12:13: .*no table 'two'; choose one of one"),
        ("[a, recall]", "[c, recall]", r"claims\.yaml:12:25: .*no row 'c'"),
        ("[a, recall]", "[a, recal]", r"claims\.yaml:12:25: .*no column 'recal'.*'recall'"),
        ("[b, recall]", "[b, cache]", r"claims\.yaml:12:44: .*'', no number"),
        ("[a, recall]", "[a]", r"claims\.yaml:12:\d+: .*at least 2"),
        ("minus: [b, recall]", "minus: [b, recall], over: [b, recall]", "minus or over"),
        ("    against: mamba", "    probe: xray\n    against: mamba", r":10:5: .*no probe 'xray'"),
        ("    against: mamba", "    where: {a: b}\n    against: mamba", r"where: is for claims"),
    ],
)
def test_a_bad_file_names_file_and_line(desk: Desk, old: str, new: str, said: str) -> None:
    assert old in HYBRID
    desk.claim(HYBRID.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        desk.load()


def test_an_unknown_metric_names_what_there_is(desk: Desk) -> None:
    desk.claim(HYBRID.replace("    against:", "    metric: val/recall\n    against:"))
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"claims\.yaml:10:5.*'val/recall'.*val/recall_accuracy"):
        desk.run()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"row,value\nhybrid,1\n", "no columns row and seed"),
        (b"\xff\xfe", "cannot be read"),
        (b"sweep,row,seed,change\nheads,hybrid,0\n", "line 2 has 3 fields"),
        (b"sweep,row,seed,value\nheads,hybrid,0,1\n", "no column 'change'"),
    ],
)
def test_a_broken_probe_is_told(desk: Desk, text: bytes, said: str) -> None:
    desk.claim(REMOVAL)
    desk.export({"hybrid": [0.9, 0.8, 0.9]})
    desk.write("results/heads-nano/probes/removal.csv", "").write_bytes(text)
    with pytest.raises(UserError, match=said):
        desk.run()


def test_a_scale_is_a_name(desk: Desk) -> None:
    with pytest.raises(UserError, match="names files"):
        desk.run("../x")


def test_no_results_folder_is_told(desk: Desk) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        main(["--claims", str(desk.folder / "claims.yaml"), "--results", str(desk.folder / "no")])


# --- the shipped file


def test_every_claim_is_about_a_row_of_a_shipped_sweep() -> None:
    claims, words = load_claims(SHIPPED), load_words(ROOT / "sweeps" / "scales" / "nano.yaml")
    assert len(claims.file.claims) >= 20
    sweeps = {
        name: load_sweep(ROOT / "sweeps" / f"{name}.yaml")
        for name in {claim.sweep for claim in claims.file.claims.values()}
    }
    for name, claim in claims.file.claims.items():
        sweep = sweeps[claim.sweep]
        rows = set(design_choices(sweep.file))
        for row in (claim.row, *claim.others):
            for word, value in words.items():
                row = row.replace(f"${word}", str(value))
            assert row in rows, f"{name}: {sorted(rows)}"
        if claim.probe is None and claim.metric not in (None, *COSTS):
            assert claim.metric in (sweep.file.metric.name, *sweep.file.also), name


def test_probes_are_those_that_are_written() -> None:
    for name, claim in load_claims(SHIPPED).file.claims.items():
        if claim.probe is not None:
            asked = {claim.value, *claim.where, *(claim.against_where or {})}
            assert asked <= set(COLUMNS[claim.probe]), name


def load_words(path: Path) -> dict[str, Any]:
    from hymba_lab.config.yaml_file import read_yaml

    words = read_yaml(path).data["words"]
    return dict(sorted(words.items(), key=lambda pair: -len(pair[0])))


def test_the_papers_own_effects_have_the_claimed_sign() -> None:
    """A claim that the paper's own numbers contradict would be read wrongly."""
    claims = load_claims(SHIPPED)
    better_is_less = {
        name
        for name, claim in claims.file.claims.items()
        if claim.metric == "val/text_bits_per_byte" and "ppl" not in claims.paper[name][1]
    }
    for name, (effect, _) in claims.paper.items():
        claim = claims.file.claims[name]
        condition = claim.reproduced_if
        if claim.exact:
            assert effect in condition.region, name
        elif condition.within is None and 0 in (condition.above, condition.below):
            sign = -1 if name in better_is_less else 1
            assert sign * effect in condition.region, name


@pytest.mark.slow
def test_the_command_loads_no_torch(desk: Desk) -> None:
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    options = ["--claims", str(desk.folder / "claims.yaml"), "--results", "results"]
    code = (
        "import sys\nfrom hymba_lab.claims.__main__ import main\n"
        f"main({options!r})\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=desk.folder,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    bad = ["-m", "hymba_lab.claims", "--claims", "none.yaml"]
    done = subprocess.run(
        [sys.executable, *bad], capture_output=True, text=True, cwd=desk.folder,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: none.yaml: there is no such file" in done.stderr


def test_a_folder_without_exports_is_refused(desk: Desk) -> None:
    (desk.folder / "empty").mkdir()
    with pytest.raises(StoreError, match="empty: holds no export of a sweep; write one with"):
        write_claims(desk.folder / "claims.yaml", desk.folder / "empty", "nano")
    assert list((desk.folder / "empty").iterdir()) == []
