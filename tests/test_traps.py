"""Tables in which a naive lab is wrong: the lab says the right thing in each of them.

Twenty are tables of values or of times; the others are of the whole lab: sweeps with a control,
tuned values, probes, claims.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from claiming import HYBRID, Desk
from conftest import ROOT
from judging import judged

from hymba_lab.errors import UserError
from hymba_lab.stats import Run, compare_times
from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import parse_export, read_export
from hymba_lab.tables.sentence import sentence
from hymba_lab.tables.solving import Task, control_note, edge_notes
from hymba_lab.tables.verdict import Verdicts, verdict


def timed(rows: dict[str, list[float]], end: float, **options: object) -> Verdicts:
    lines = [
        {"arch": label, "seed": seed, "t": min(t, end), "ok": t <= end}
        for label, values in rows.items()
        for seed, t in enumerate(values)
    ]
    return verdict(
        pd.DataFrame(lines), row="arch", seed="seed", metric="t", goal="minimize",
        baseline="base", solved="ok", **options,  # type: ignore[arg-type]
    )  # fmt: skip


nan = math.nan
SOLVED, FLOOR, LUCKY = [0.99, 1.0, 0.98], [0.31, 0.30, 0.32], [0.36, 0.36, 0.3601]
TIMES = [0.72, 0.75, 0.70]
LEVELS = {"floor": 0.337, "solved_at": 0.95, "limits": (0.0, 1.0)}
judged_, timed_ = judged, timed  # a test puts others here
TRAPS = [
    ("a parent stopped before its jump, by level",
     lambda: judged_({"base": SOLVED, "x": FLOOR}, **LEVELS), "censored"),
    ("a parent stopped before its jump, by time",
     lambda: timed_({"base": TIMES, "x": [9.0] * 3}, 1.02), "censored"),
    ("the same the other way round",
     lambda: timed_({"base": [9.0] * 3, "x": TIMES}, 1.02), "censored"),
    ("some seeds stopped, few seeds",
     lambda: timed_({"base": TIMES, "x": [0.8, 9.0, 0.9]}, 1.02), "censored"),
    ("floor against floor, reached by one of them sooner",
     lambda: judged_({"base": [0.27, 0.271, 0.269], "x": FLOOR}, **LEVELS), "not_learned"),
    ("floor against floor, by time",
     lambda: timed_({"base": [9.0] * 6, "x": [9.0] * 6}, 1.0), "not_learned"),
    ("two rows cut while they rise",
     lambda: judged_({"base": [0.5, 0.7, 0.6], "x": [0.6, 0.8, 0.9]}, **LEVELS), "censored"),
    ("one seed of three late: a mean of a jump",
     lambda: judged_({"base": SOLVED, "x": [0.99, 0.98, 0.42]}, **LEVELS), "censored"),
    ("a luckily small spread among noisy rows",
     lambda: judged_({"base": [0.1, 0.9, 0.5], "x": [0.93, 0.931, 0.929], "z": [0.2, 0.8, 0.6],
                     "w": [0.3, 0.9, 0.2]}), "undecided"),
    ("a noisy baseline and one lucky run",
     lambda: judged_({"base": [0.50, 0.52, 0.48], "x": [0.49, 0.51, 0.75]}), "undecided"),
    ("two seeds", lambda: judged_({"base": [0.5, 0.51], "x": [0.9, 0.91]}), "too_few_seeds"),
    ("one seed", lambda: judged_({"base": [0.5], "x": [0.9]}), "too_few_seeds"),
    ("missing values are not zeros",
     lambda: judged_({"base": [0.50, 0.51, 0.49, 0.50], "x": [0.90, nan, 0.91, 0.89]}), "better"),
    ("all but two runs missing",
     lambda: judged_({"base": [0.5, 0.52, 0.48], "x": [0.9, nan, 0.91]}), "too_few_seeds"),
    ("a loss is better when it is smaller",
     lambda: judged_({"base": [3.0, 3.01, 2.99], "x": [2.0, 2.01, 1.99]}, "minimize"), "better"),
    ("equal rows without any spread",
     lambda: judged_({"base": [1.0] * 3, "x": [1.0] * 3}), "undecided"),
    ("different rows without any spread, three seeds",
     lambda: judged_({"base": [1.0] * 3, "x": [0.9] * 3}), "too_few_seeds"),
    ("detected, and too small to matter",
     lambda: timed_({"base": [1.0, 1.001, 0.999] * 2, "x": [1.05, 1.051, 1.049] * 2}, 9), "worse"),
    ("many seeds, and no difference that matters",
     lambda: timed_({"base": [1.0, 1.05, 0.95] * 4, "x": [1.01, 0.94, 1.06] * 4}, 9), "equivalent"),
    ("six seeds against a parent that never solves",
     lambda: timed_({"base": TIMES * 2, "x": [9.0] * 6}, 1.02), "worse"),
    ("a third row diverged",
     lambda: judged_({"base": [2.0, 2.1, 1.9], "x": [1.0, 1.05, 0.95], "z": [1.5, 1.45, 1.55],
                      "w": [40.0, 300.0, 1000.0]}, "minimize"), "better"),
    ("a third row says 1e9 where it has no value",
     lambda: judged_({"base": [2.0, 2.1, 1.9], "x": [1.0, 1.05, 0.95], "w": [1e9] * 3},
                     "minimize"), "better"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "table", "said"), TRAPS, ids=[trap[0] for trap in TRAPS])
def test_traps(name: str, table: Callable[[], Verdicts], said: str) -> None:
    line = next(one for one in table().rows if one.row == "x")
    assert line.verdict == said, f"{name}: {line.says}"


Rows = dict[str, list[float]]
Options = dict[str, Any]


def mirrored(rows: Rows, options: Options) -> tuple[Rows, Options]:
    """The same table with less for better."""
    turned = {name: -value for name, value in options.items() if name in ("floor", "solved_at")}
    if "limits" in options:
        turned["limits"] = tuple(-end for end in reversed(options["limits"]))
    turned["goal"] = "minimize" if options["goal"] == "maximize" else "maximize"
    return {row: [-v for v in own] for row, own in rows.items()}, options | turned


def scaled(factor: float) -> Callable[[Rows, Options], tuple[Rows, Options]]:
    """The same table in another unit."""

    def twist(rows: Rows, options: Options) -> tuple[Rows, Options]:
        numbers = {
            name: factor * options[name] for name in ("floor", "solved_at") if name in options
        }
        if "limits" in options:
            numbers["limits"] = tuple(factor * end for end in options["limits"])
        return {row: [factor * v for v in own] for row, own in rows.items()}, options | numbers

    return twist


def among_others(rows: Rows, options: Options) -> tuple[Rows, Options]:
    """The same table with the baseline last and a row beside it that has no run."""
    return {"none": [nan], **dict(reversed(rows.items()))}, options


TWISTS = {
    "less is better": mirrored, "percents": scaled(100.0), "tiny units": scaled(1e-9),
    "among others": among_others,
}  # fmt: skip


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS)
@pytest.mark.parametrize(("name", "table", "said"), TRAPS, ids=[trap[0] for trap in TRAPS])
def test_twisted_traps_are_traps(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    table: Callable[[], Verdicts],
    said: str,
    twist: Callable[[Rows, Options], tuple[Rows, Options]],
) -> None:
    """Neither the unit, the direction of better nor the order of rows makes a verdict."""

    def levels(rows: Rows, goal: str = "maximize", **options: Any) -> Verdicts:
        rows, options = twist(rows, {"goal": goal, **options})
        return judged(rows, **options)

    def times(rows: Rows, end: float, **options: Any) -> Verdicts:
        if twist is mirrored:
            return timed(rows, end, **options)
        (unit,) = twist({"": [1.0]}, {})[0][""]
        twisted = twist(rows, {})[0]
        return timed({row: twisted[row] for row in twisted if row in rows}, unit * end, **options)

    monkeypatch.setitem(globals(), "judged_", levels)
    monkeypatch.setitem(globals(), "timed_", times)
    line = next(one for one in table().rows if one.row == "x")
    assert line.verdict == said, f"{name}: {line.says}"


def test_there_are_twenty_and_two() -> None:
    assert len(TRAPS) == len({trap[0] for trap in TRAPS}) == 22


# --- traps of a whole lab


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_control_that_fails_is_said_before_anything_else() -> None:
    never, solved = {s: Run(1e6, False) for s in range(3)}, {s: Run(4e5, True) for s in range(3)}
    rows = {"hybrid": never, "control": {**solved, 2: Run(1e6, False)}}
    (said,) = control_note(Task("m", 0.7, 0.3, rows, []), "control")
    assert "control 'control' solved 2 of 3" in said.replace("positive ", "")
    assert "no row's failure says anything of its architecture" in said
    assert control_note(Task("m", 0.7, 0.3, {**rows, "control": solved}, []), "control") == []


def test_where_the_control_failed_nobody_who_failed_is_judged() -> None:
    """Six seeds say who was sooner, and the recipe may still be what did not teach the task."""
    never, early = ({s: Run(t, t < 1e6) for s in range(6)} for t in (1e6, 4e5))
    late = {s: Run(6e5 + s, True) for s in range(6)}
    rows = {"base": early, "x": never, "y": late, "control": never}
    task = Task("m", 0.7, 0.3, rows, [])
    timed = [one.comparison for one in compare_times(rows, "base")]
    assert [one.kind for one in timed] == ["worse", "worse", "worse"]
    found = [task.taught(one, "control", "base") for one in timed]
    assert [one.kind for one in found] == ["not_learned", "worse", "not_learned"]
    assert found[0].verdict == "not learned: the positive control did not solve the task"
    assert [task.taught(one, "y", "base") for one in timed] == timed
    assert [task.taught(one, None, "base") for one in timed] == timed


def test_a_control_that_failed_is_said_before_the_luck_of_tuning() -> None:
    folder = ROOT / "results/parents-nano"
    files = {path.name: path.read_text() for path in folder.glob("*.*") if path.suffix != ".html"}
    resolved = files["sweep.resolved.json"]
    control = '"control": "attention only and windows"'
    assert control in resolved
    files["sweep.resolved.json"] = resolved.replace(control, '"control": "SSM only"')
    table = documents(parse_export(folder, files))[0]
    assert table.notes[0].startswith("The positive control 'SSM only' solved 1 of 6")
    assert "one run a value chose" in table.notes[1]
    verdicts = dict(zip(table.frame["row"], table.frame["verdict"], strict=True))
    assert verdicts["SSM only"] == "not learned: the positive control did not solve the task"
    assert verdicts["attention only"].startswith("worse")
    assert "“SSM only” is not judged: the positive control did not" in sentence(table)


def test_a_winner_at_the_edge_of_the_grid_is_said() -> None:
    runs = pd.DataFrame({"row": ["a", "b", "c"], "lr": [1e-3, 2e-3, 4e-3]})
    (said,) = edge_notes(runs, {"lr": [1e-3, 2e-3, 4e-3]})
    assert said.endswith("the best may lie beyond (`widen: true` goes on): a, c.")


def test_two_choices_have_no_inside() -> None:
    """Every winner of two is at an edge: the table says it of every row."""
    runs = pd.DataFrame({"row": ["a", "b"], "lr": [4e-3, 8e-3]})
    (said,) = edge_notes(runs, {"lr": [4e-3, 8e-3]})
    assert said.endswith("the best may lie beyond (`widen: true` goes on): a, b.")


CALLED = [  # how many rows are called better, and how many worse
    ("one_run/sinks-nano", 3, 0), ("sinks-nano", 0, 0), ("one_run/head_ratio-nano", 2, 2),
    ("head_ratio-nano", 0, 2), ("until_decided/head_ratio-nano", 0, 2),
    ("one_run/fusion-nano", 0, 4), ("fusion-nano", 0, 3),
    ("one_run/sliding_window-nano", 1, 3), ("sliding_window-nano", 1, 3),
    ("one_run/same_recipe-nano", 1, 3), ("same_recipe-nano", 1, 4),
    ("one_run/kv_sharing-nano", 0, 3), ("kv_sharing-nano", 0, 3),
    ("one_run/ssm_state-nano", 0, 0), ("ssm_state-nano", 0, 0),
    ("positions-nano", 4, 0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "n_better", "n_worse"), CALLED)
def test_a_rate_that_one_run_chose_is_said_first(folder: str, n_better: int, n_worse: int) -> None:
    """What two ways of tuning call better and worse, of one question by the same seeds."""
    export = read_export(ROOT / "results" / folder)
    table, files = documents(export)
    by_luck = folder.startswith("one_run")
    assert ("was chosen by one run a value" in table.notes[0]) == by_luck
    called = [str(verdict).split(":")[0] for verdict in table.frame["verdict"]]
    assert (called.count("better"), called.count("worse")) == (n_better, n_worse)
    assert files["table.md"] == (ROOT / "results" / folder / "table.md").read_text()


ENTROPY = """\
  entropy:
    claim: Meta tokens lower the entropy of the maps.
    source: figure 15
    sweep: heads
    row: hybrid
    against: mamba
    probe: entropy
    reproduced_if: {below: 0}
"""


def test_dilution_by_columns_is_no_effect(desk: Desk) -> None:
    """Maps with more columns have more entropy: as a share of a uniform map's there is nothing."""
    lines = [
        f"heads,{row},{seed},recall,0,attention,0,{(0.8 + seed / 100) * uniform},{uniform}\n"
        for row, uniform in (("hybrid", 2.67), ("mamba", 2.264))
        for seed in range(3)
    ]
    head = "sweep,row,seed,data,layer,branch,head,value,uniform\n"
    status = []
    for further in ("", "    relative_to: uniform\n"):
        desk.claim(ENTROPY.replace("    reproduced_if", f"{further}    reproduced_if"))
        desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.9, 0.9, 0.8]})
        desk.write("results/heads-nano/probes/entropy.csv", head + "".join(lines))
        status.append(desk.run()[0]["status"])
    assert status == ["contradicted", "undecided"]


def test_duplicated_evidence_counts_once(desk: Desk) -> None:
    """Two claims of the same runs are one comparison, also where rows are named the other way."""
    other = HYBRID.replace("hybrid:", "again:", 1).replace("row: hybrid", "row: mamba")
    other = other.replace("against: mamba", "against: hybrid").replace("{above: 0}", "{below: 0}")
    desk.claim(HYBRID, other)
    desk.export({"hybrid": [0.9, 0.8, 0.9], "mamba": [0.1, 0.1, 0.2]})
    assert [line["status"] for line in desk.run()] == ["reproduced", "reproduced"]
    assert "**1 of 1 independent comparisons hold" in desk.text("md")


def test_a_run_counted_twice_and_unequal_runs_are_refused() -> None:
    lines = pd.DataFrame({"arch": ["base", "x"] * 3, "seed": [0, 0, 1, 1, 2, 2], "y": [1.0] * 6})
    options = {"row": "arch", "seed": "seed", "metric": "y", "goal": "maximize"}
    twice = pd.concat([lines, lines.iloc[[1]]])
    with pytest.raises(UserError, match="'x' has more than one run with seed 0"):
        verdict(twice, **options, baseline="base")  # type: ignore[arg-type]
    unequal = lines.assign(tokens=[1000, 2000] * 3)
    with pytest.raises(UserError, match=r"runs differ in 'tokens' \(1000: base; 2000: x\)"):
        verdict(unequal, **options, baseline="base", same=["tokens"])  # type: ignore[arg-type]
