"""Claims about recall are judged by time; floors, controls; equal evidence counts once."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from claiming import CURVES, HYBRID, REMOVAL, Desk
from conftest import ROOT
from scipy import stats as reference

from hymba_lab.claims.file import load_all
from hymba_lab.claims.schema import ReproducedIf
from hymba_lab.claims.sides import Asked
from hymba_lab.claims.timed import by_time, region_of_times, words_of_times
from hymba_lab.errors import ConfigError
from hymba_lab.stats import MARGIN, Run

STOP = {"stop": {"metric": "val/recall_accuracy", "at": 0.95}}
BUDGET = 1000.0
TASK = {
    "training": {"seq_len": 32},
    "data": {"recall": {"name": "mqar", "n_pairs": [1, 2, 4, 8], "power": 1.0, "vocab": 64}},
}  # of which a guess from position alone reaches 0.27


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def export(desk: Desk, times: dict[str, list[float]], level: float = 0.96, **more: Any) -> None:
    """Runs that solved at these tokens, or ended at `BUDGET` with 0.3 above or below the guess."""
    rows = {
        row: [level if t <= BUDGET else more.get("floor", 0.2) for t in own]
        for row, own in times.items()
    }
    solved = {row: [t if t <= BUDGET else math.nan for t in own] for row, own in times.items()}
    ended = {row: [math.nan if t <= BUDGET else BUDGET for t in own] for row, own in times.items()}
    curves = more.get("curves") or "".join(
        f"{row},{seed},1,10,val/recall_accuracy,0.2\n"
        for row, own in rows.items()
        for seed in range(len(own))
    )
    desk.export(
        rows, sweep={**STOP, **more.get("sweep", {})}, base=TASK, curves=curves,
        tokens_to_solve=solved, censored_at=ended, **more.get("columns", {}),
    )  # fmt: skip


EARLY, LATE, NEVER = [400.0, 420, 410], [800.0, 780, 820], [math.inf] * 3


def status(desk: Desk) -> str:
    (line,) = desk.run()
    return line["status"]


def test_recalls_more_is_solved_sooner_by_what_factor(desk: Desk) -> None:
    export(desk, {"hybrid": EARLY, "mamba": LATE})
    (line,) = desk.run()
    logs = np.log([EARLY, LATE])
    effect = math.exp(logs[0].mean() - logs[1].mean())
    assert float(line["effect"]) == pytest.approx(effect)
    assert (line["status"], line["effect_is"]) == ("reproduced", "ratio of tokens")
    pooled = reference.ttest_ind(*logs).confidence_interval(0.95)  # two rows of about one variance
    assert math.log(float(line["high"])) == pytest.approx(pooled.high, rel=0.1)
    assert (
        f"{effect:.3f} [{float(line['low']):.3f}, {float(line['high']):.3f}] times the tokens"
        in desk.text("md")
    )
    export(desk, {"hybrid": LATE, "mamba": EARLY})
    assert status(desk) == "contradicted"
    export(desk, {"hybrid": EARLY, "mamba": [390.0, 440, 400]})
    assert status(desk) == "undecided"


@pytest.mark.parametrize(
    ("hybrid", "mamba", "said"),
    [
        (EARLY, NEVER, "censored"),
        (NEVER, EARLY, "censored"),
        (EARLY, [700.0, math.inf, 900], "censored"),
        (NEVER, NEVER, "not learned"),
    ],
)
def test_who_did_not_solve_is_not_judged(
    desk: Desk, hybrid: list[float], mamba: list[float], said: str
) -> None:
    export(desk, {"hybrid": hybrid, "mamba": mamba})
    assert status(desk) == said
    assert "**0 of 1 independent comparisons hold" in desk.text("md")


def test_a_row_that_ended_above_the_guess_is_censored_not_unlearned(desk: Desk) -> None:
    export(desk, {"hybrid": NEVER, "mamba": NEVER}, floor=0.6)
    assert status(desk) == "censored"


def test_where_the_control_fails_nothing_was_learned(desk: Desk) -> None:
    control = {"sweep": {"control": "llama"}}
    export(desk, {"hybrid": EARLY, "mamba": NEVER, "llama": NEVER}, **control)
    assert status(desk) == "not learned"
    export(desk, {"hybrid": EARLY, "mamba": NEVER, "llama": EARLY}, **control)
    assert status(desk) == "censored"
    export(desk, {"hybrid": EARLY, "mamba": LATE, "llama": NEVER}, **control)
    assert status(desk) == "reproduced"  # both solved: recipe and budget do teach the task


def test_six_seeds_say_which_was_sooner_but_not_what_the_other_can_do(desk: Desk) -> None:
    export(desk, {"hybrid": EARLY * 2, "mamba": NEVER * 2})
    (line,) = desk.run()
    assert line["status"] == "censored"
    assert float(line["p"]) == pytest.approx(2 / math.comb(12, 6))
    assert float(line["high"]) < 0.5 and float(line["low"]) == 0
    assert "censored; which was sooner holds *" in desk.text("md")
    assert "1 says which row learned the task sooner, while some run did not" in desk.text("md")


@pytest.mark.parametrize(
    ("condition", "inside", "outside"),
    [
        ({"above": 0}, 0.9, 1.1),
        ({"below": 0}, 1.1, 0.9),
        ({"above": -0.05}, 1.15, 1.25),
        ({"within": 0.05}, 1.15, 0.8),
        ({"above": 0.05}, 0.8, 0.9),
    ],
)
def test_a_margin_of_the_level_is_a_factor_of_the_time(
    condition: dict[str, float], inside: float, outside: float
) -> None:
    given = ReproducedIf(**condition)
    assert math.log(inside) in region_of_times(given)
    assert math.log(outside) not in region_of_times(given)
    assert ("1.2" in words_of_times(given) or "0.83" in words_of_times(given)) == (
        0 not in condition.values()
    )
    assert MARGIN == 1.2


TEXT = "val/text_bits_per_byte"


def test_text_is_compared_where_the_first_of_both_rows_ended(desk: Desk) -> None:
    """A run that stopped has seen less text: its last value is of another number of tokens."""
    lines = [
        f"{row},{seed},{step},{100 * step},{TEXT},{bits + 0.01 * seed - 0.1 * step}\n"
        for row, bits, steps in (("hybrid", 2.0, 4), ("mamba", 2.5, 9))
        for seed in range(3)
        for step in range(1, steps + 1)
    ]
    desk.claim(
        HYBRID.replace("    against:", f"    metric: {TEXT}\n    against:").replace(
            "{above: 0}", "{below: 0}"
        )
    )
    last = {"hybrid": [1.6, 1.61, 1.62], "mamba": [1.6, 1.61, 1.62]}  # equal at their ends
    export(
        desk, {"hybrid": EARLY, "mamba": LATE}, curves="".join(lines),
        sweep={"also": [TEXT]}, columns={TEXT: last},
    )  # fmt: skip
    (line,) = desk.run()
    assert float(line["effect"]) == pytest.approx(-0.5)
    assert (line["status"], line["at"][:16]) == ("reproduced", "after 400 tokens")


ENTROPY = """\
  entropy:
    claim: Hybrids look less around.
    source: figure 15
    sweep: heads
    row: hybrid
    against: mamba
    probe: entropy
    relative_to: uniform
    reproduced_if: {below: 0}
"""


def probe(desk: Desk, name: str, text: str) -> None:
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.9, 0.9, 0.8]})
    desk.write(f"results/heads-nano/probes/{name}.csv", text)


def test_entropy_is_a_share_of_a_uniform_maps(desk: Desk) -> None:
    desk.claim(ENTROPY)
    lines = [
        f"heads,{row},{seed},recall,0,attention,0,{share * uniform + seed / 100},{uniform}\n"
        for row, share, uniform in (("hybrid", 0.6, 4.0), ("mamba", 0.9, 2.0))
        for seed in range(3)
    ]
    probe(desk, "entropy", "sweep,row,seed,data,layer,branch,head,value,uniform\n" + "".join(lines))
    (line,) = desk.run()
    seeds = np.arange(3) / 100
    expected = np.mean(0.6 + seeds / 4) - np.mean(0.9 + seeds / 2)
    assert float(line["effect"]) == pytest.approx(expected)  # the entropy itself rose
    assert line["status"] == "reproduced"


def test_a_share_is_one_of_what_others_leave(desk: Desk) -> None:
    desk.claim(
        ENTROPY.replace("entropy", "mass").replace(
            "    relative_to: uniform",
            "    where: {category: BOS}\n    apart_from: {category: Meta}",
        )
    )
    lines = [
        f"heads,{row},{seed},recall,0,attention,0,{category},{value + seed / 1000}\n"
        for row, shares in (("hybrid", (0.5, 0.1)), ("mamba", (0.0, 0.2)))
        for seed in range(3)
        for category, value in zip(("Meta", "BOS"), shares, strict=True)
    ]
    probe(desk, "mass", "sweep,row,seed,data,layer,branch,head,category,value\n" + "".join(lines))
    (line,) = desk.run()
    seeds = np.arange(3) / 1000
    expected = np.mean((0.1 + seeds) / (0.5 - seeds)) - np.mean((0.2 + seeds) / (1 - seeds))
    assert float(line["effect"]) == pytest.approx(expected, rel=1e-9)
    assert line["status"] == "undecided"  # diluted only


PER_LAYER = REMOVAL.replace("    reproduced_if", "    per: layer\n    reproduced_if")


def test_layers_are_compared_one_by_one(desk: Desk) -> None:
    change = {("ssm", 0): -0.1, ("ssm", 1): -0.6, ("ssm", 2): 0.0, ("attention", 1): 0.01}
    lines = [
        f"heads,hybrid,{seed},{layer},{branch},val/recall_accuracy,0.9,0.5,{value + seed / 500}\n"
        for seed in range(3)
        for (branch, layer), value in change.items()
    ]
    text = "sweep,row,seed,layer,branch,metric,whole,value,change\n" + "".join(lines)
    desk.claim(PER_LAYER)
    probe(desk, "removal", text)
    first, second = desk.run()
    assert [float(first["effect"]), float(second["effect"])] == pytest.approx([0.5, -0.1])
    found = [line["comparison_status"] for line in (first, second)]
    assert found == ["contradicted", "reproduced"]
    assert "| layer 0 vs layer 1 in hybrid |" in desk.text("md")
    each = PER_LAYER.replace("{branch: ssm, layer: 0}", "{branch: ssm}").replace(
        "{branch: ssm, layer: {not: 0}}", "{branch: attention}"
    )
    desk.claim(each)
    (line,) = desk.run()
    assert (line["at"], float(line["effect"])) == ("layer 1", pytest.approx(-0.61))


@pytest.mark.parametrize("answered", [True, False])
def test_the_needle_says_how_often_it_was_answered(desk: Desk, answered: bool) -> None:
    desk.claim(ENTROPY.replace("entropy", "needle").replace("    relative_to: uniform\n", ""))
    lines = [
        f"heads,{row},{seed},32,0,32,64,0.25,{value}{',0.75' if answered else ''}\n"
        for row, value in (("hybrid", 0.5), ("mamba", 0.25))
        for seed in range(3)
    ]
    head = "sweep,row,seed,length,depth,trained_length,n,chance,value"
    probe(desk, "needle", head + (",answered\n" if answered else "\n") + "".join(lines))
    (line,) = desk.run()
    told = "0.75 and 0.75" if answered else "not measured"
    assert f"correct 0.50 and 0.25, answered {told}" in desk.text("md")
    assert line["answered_row"] == ("0.75" if answered else "")


def test_named_evidence_counts_once_by_its_largest_p(desk: Desk) -> None:
    named = "    same_evidence: parents that do not learn\n    reproduced_if"
    claim = HYBRID.replace("against: mamba", "against: [mamba, llama]")
    desk.export(
        {"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2], "llama": [0.6, 0.3, 0.5]},
    )
    desk.claim(claim)
    apart = desk.run()
    assert "of 2 independent comparisons" in desk.text("md")
    desk.claim(claim.replace("    reproduced_if", named))
    once = desk.run()
    assert "**1 of 1 independent comparisons hold" in desk.text("md")
    largest = max(float(line["p"]) for line in apart)
    assert [float(line["p_holm"]) for line in once] == [largest, largest]
    each = claim.replace(
        "    reproduced_if", "    same_evidence: {mamba: a, llama: b}\n    reproduced_if"
    )
    desk.claim(each)
    desk.run()
    assert "of 2 independent comparisons" in desk.text("md")
    desk.claim(each.replace("llama: b", "lama: b"))
    with pytest.raises(ConfigError, match=r"no other row 'lama'.*Did you mean 'llama'"):
        desk.run()


def test_the_headline_says_what_one_more_test_would_undo(desk: Desk) -> None:
    """Holm's price is the number of tests, and what else a page asks is somebody's choice."""
    desk.claim(HYBRID.replace("against: mamba", "against: [mamba, llama]"))
    said = "1 would not be so with one more test on this page that decides nothing"
    seen = set()
    for shift in np.linspace(0.05, 0.5, 10):
        hybrid = np.array([0.9, 0.7, 0.8])
        desk.export({"hybrid": hybrid, "mamba": hybrid - shift, "llama": [0.9, 0.8, 0.7]})
        smaller, larger = sorted(float(line["p"]) for line in desk.run())
        assert larger > 0.5
        barely = 2 * smaller <= 0.05 < 3 * smaller
        assert (said in desk.text("md")) == barely, shift
        seen.add(barely)
    assert seen == {True, False}


def test_a_folder_is_read_as_a_whole(desk: Desk) -> None:
    text = (desk.folder / "claims.yaml").read_text()
    (desk.folder / "claims.yaml").unlink()
    for number, other in enumerate(("mamba", "llama")):
        own = text.replace("A paper", f"Paper {number}").replace("hybrid:", f"hybrid_{number}:")
        own = own.replace("paper: paper", "paper: ../paper").replace("sweeps: s", "sweeps: ../s")
        desk.write(f"all/{number}.yaml", own.replace("against: mamba", f"against: {other}"))
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2], "llama": [0.1, 0.1, 0.3]})
    first, second = desk.run(claims="all")
    assert [first["paper"], second["paper"]] == ["Paper 0", "Paper 1"]
    assert float(first["p_holm"]) > float(first["p"])  # corrected over both papers
    assert "## Paper 0" in desk.text("md") and "## Paper 1" in desk.text("md")
    twice = (desk.folder / "all" / "0.yaml").read_text()
    desk.write("all/2.yaml", twice)
    with pytest.raises(ConfigError, match=r"2\.yaml:5:3: claims\.hybrid_0: stands in .*0\.yaml"):
        desk.run(claims="all")
    (desk.folder / "none").mkdir()
    with pytest.raises(ConfigError, match="holds no file of claims"):
        load_all(desk.folder / "none")


def test_the_shipped_folder_loads_as_one() -> None:
    files = load_all(ROOT / "analysis" / "claims")
    assert len(files) >= 5 and files[0].file.title.startswith("Hymba")
    assert CURVES.startswith("row,seed")


def test_a_look_spends_its_share_once() -> None:
    """At a third of alpha the interval of a ratio is that of a third, not of a ninth."""
    rows = {
        "a": {seed: Run(1000.0 + 30 * seed, True) for seed in range(6)},
        "b": {seed: Run(900.0 + 50 * seed, True) for seed in range(6)},
    }
    condition = ReproducedIf(above=0.0)
    third = by_time(rows, "a", "b", condition, 0.05, 1 / 3).found
    whole = by_time(rows, "a", "b", condition, 0.05 / 3, 1.0).found
    assert (third.low, third.high) == pytest.approx((whole.low, whole.high))


def test_less_of_a_metric_to_be_minimized_is_sooner() -> None:
    """A loss that falls to its level: the row that is later was "reproduced"."""
    below = ReproducedIf(below=0)
    assert math.log(0.5) in region_of_times(below, "minimize")
    assert math.log(2.0) not in region_of_times(below, "minimize")
    assert math.log(2.0) in region_of_times(below)
    assert words_of_times(below, "minimize") == "< 1 times the tokens"
    within = ReproducedIf(within=0.05)
    assert region_of_times(within, "minimize") == region_of_times(within)


def test_luck_is_of_the_two_rows_that_are_compared() -> None:
    """A claim against several rows lent the luck of one of them to all its comparisons."""
    sweep = SimpleNamespace(tuned_by_one_run=False)
    asked: Any = SimpleNamespace(
        _export=lambda claim: SimpleNamespace(sweep=sweep), _unraced=lambda claim: ["Mamba"]
    )

    def pair(row: str, other: str) -> Any:
        return SimpleNamespace(row=SimpleNamespace(row=row), against=SimpleNamespace(row=other))

    claim: Any = None
    assert Asked.is_lucky(asked, claim, pair("Hymba", "Mamba"))
    assert not Asked.is_lucky(asked, claim, pair("Hymba", "Llama-like"))
    sweep.tuned_by_one_run = True
    assert Asked.is_lucky(asked, claim, pair("Hymba", "Llama-like"))


def test_the_page_names_the_claims_that_it_judged(desk: Desk) -> None:
    """It said analysis/claims/ of whatever file was given."""
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.2, 0.1]})
    desk.run()
    folder = desk.folder
    assert f"--claims {folder}` from `{folder}/` and the exports" in desk.text("md")
