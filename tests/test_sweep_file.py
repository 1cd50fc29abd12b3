"""A sweep file becomes rows: what a design compares, equal budgets, one owner per path."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from sweeping import SEARCH, SWEEP, Lab

from hymba_lab.errors import ConfigError
from hymba_lab.sweep.match import budget

TWO_AXES = {
    "fusion": {
        "mean": {"model.fusion": {"name": "mean"}},
        "sum": {"model.fusion": {"name": "sum"}},
        "gate": {"model.fusion": {"name": "gate"}},
    },
    "meta": {
        "none": {"model.meta_tokens": {"name": "none"}},
        "4": {"model.meta_tokens": {"name": "learned", "n_meta": 4}},
    },
}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, base=TINY)


def rows(lab: Lab, **keys: Any) -> dict[str, tuple[str, str]]:
    """Label -> (fusion, number of meta tokens) in the configuration of the row."""
    lab.edit(axes=TWO_AXES, **keys)
    return {
        cell.label: (
            cell.config.model.fusion.name,
            str(getattr(cell.config.model.meta_tokens, "n_meta", 0)),
        )
        for cell in lab.session().cells
    }


# --- designs


def test_one_factor_changes_one_choice_at_a_time(lab: Lab) -> None:
    assert rows(lab) == {
        "baseline": ("mean", "0"),
        "fusion: sum": ("sum", "0"),
        "fusion: gate": ("gate", "0"),
        "meta: 4": ("mean", "4"),
    }


def test_one_axis_needs_no_prefix(lab: Lab) -> None:
    assert [cell.label for cell in lab.session().cells] == ["mean", "gate"]


def test_factorial_takes_every_combination(lab: Lab) -> None:
    assert rows(lab, design="factorial") == {
        "mean / none": ("mean", "0"),
        "mean / 4": ("mean", "4"),
        "sum / none": ("sum", "0"),
        "sum / 4": ("sum", "4"),
        "gate / none": ("gate", "0"),
        "gate / 4": ("gate", "4"),
    }


def test_cumulative_keeps_what_came_before(lab: Lab) -> None:
    assert rows(lab, design="cumulative") == {
        "baseline": ("mean", "0"),
        "+ fusion: sum": ("sum", "0"),
        "+ fusion: gate": ("gate", "0"),
        "+ meta: 4": ("gate", "4"),
    }


def test_leave_one_out_takes_single_choices_back(lab: Lab) -> None:
    assert rows(lab, design="leave_one_out") == {
        "all": ("gate", "4"),
        "without fusion: gate": ("mean", "4"),
        "without meta: 4": ("gate", "0"),
    }


def test_a_search_can_reach_every_combination(lab: Lab) -> None:
    assert len(rows(lab, design="search", n_trials=3)) == 6


def test_the_baseline_stands_first_and_is_the_one_named(lab: Lab) -> None:
    assert next(iter(rows(lab, baseline="meta: 4"))) == "meta: 4"


def test_a_choice_replaces_and_never_merges(lab: Lab) -> None:
    lab.edit(
        axes={
            "ssm": {
                "small": {"model.ssm": {"name": "mamba1", "d_state": 2}},
                "default": {"model.ssm": {"name": "mamba1"}},
            }
        }
    )
    states = [cell.config.model.ssm.options()["d_state"] for cell in lab.session().cells]
    assert states == [2, 16]  # the base says 4; nothing of it is left


def test_a_default_that_the_base_leaves_out_can_be_varied(lab: Lab) -> None:
    lab.edit(
        axes={"clip": {"on": {"training.grad_clip": 1.0}, "off": {"training.grad_clip": None}}}
    )
    assert [cell.config.training.grad_clip for cell in lab.session().cells] == [1.0, None]


def test_overrides_reach_the_sweep_and_its_base(lab: Lab) -> None:
    session = lab.session("seeds=[5, 6, 7]", "model.d_model=32", "optimizer.lr=1.0e-4")
    assert session.sweep.file.seeds == [5, 6, 7]
    assert {cell.config.model.d_model for cell in session.cells} == {32}
    assert {cell.config.optimizer.options()["lr"] for cell in session.cells} == {1e-4}


def test_the_name_is_the_file_and_the_scale(lab: Lab) -> None:
    session = lab.session("scale=huge")
    assert session.name == "sweep-huge"
    assert session.folder == lab.folder / "runs" / "sweeps" / "sweep-huge"


# --- equal budgets


@pytest.mark.parametrize("what", ["params", "flops"])
def test_match_gives_every_row_the_baselines_budget(lab: Lab, what: str) -> None:
    lab.edit(
        axes=TWO_AXES,
        match={what: "baseline", "by": "model.mlp.d_ff", "tolerance": "2%"},
    )
    session = lab.session()
    wanted = budget(session.sweep, session.cells[0])
    for cell in session.cells:
        assert abs(budget(session.sweep, cell) / wanted - 1) <= 0.02
        assert cell.residual == pytest.approx(budget(session.sweep, cell) / wanted - 1)
    widths = {cell.label: cell.config.model.mlp.options()["d_ff"] for cell in session.cells}
    assert widths["baseline"] == 24  # the baseline stays as it is
    assert widths["fusion: gate"] < 24


def test_match_takes_the_best_integer(lab: Lab) -> None:
    lab.edit(match={"params": "baseline", "by": "model.mlp.d_ff", "tolerance": "2%"})
    session = lab.session()
    gate = session.cells[1]
    best = gate.config.model.mlp.options()["d_ff"]
    target = session.cells[0].costs.params
    per_unit = 2 * 3 * 16  # layers * (gate, up, down) * d_model
    unmatched = gate.costs.params + per_unit * (24 - best)
    assert unmatched == 9538  # d_ff 24, as --plan shows it without match
    assert gate.costs.params == target == 8482


def test_an_impossible_match_names_every_row_that_misses(lab: Lab) -> None:
    lab.edit(
        axes=TWO_AXES,
        match={"params": "baseline", "by": "model.mlp.d_ff", "tolerance": "0.001%"},
    )
    with pytest.raises(ConfigError) as error:
        lab.session()
    said = str(error.value)
    assert "8,482 parameters within 0.001%" in said
    assert "'meta: 4': model.mlp.d_ff = 23 gives 8,450, -0.38%" in said
    assert "'fusion: gate'" not in said  # 11 units less of the MLP pay for the gate to the unit


def test_a_searched_width_is_paid_for_by_its_own_trial(lab: Lab) -> None:
    lab.write("sweep.yaml", SWEEP + SEARCH.replace("optimizer.lr", "model.mlp.d_ff"))
    lab.edit(search={"model.mlp.d_ff": {"choices": [8, 48]}}, sampler={"name": "grid"})
    jobs = lab.session().planner.jobs({})
    params = {job.config.model.mlp.options()["d_ff"]: job.cell.costs.params for job in jobs[:2]}
    assert params[48] - params[8] == 2 * 3 * 16 * 40


def test_what_gives_a_row_its_budget_is_no_trials_to_change(lab: Lab) -> None:
    width, state = "model.mlp.d_ff", "model.ssm.d_state"
    lab.write("sweep.yaml", SWEEP + SEARCH.replace("optimizer.lr", width))
    lab.edit(search={width: {"choices": [8, 48]}}, sampler={"name": "grid"})
    lab.edit(match={"params": "baseline", "by": state, "rows": {"gate": width}, "tolerance": "9%"})
    with pytest.raises(ConfigError, match=r"match\.rows\.gate: model\.mlp\.d_ff is set by search"):
        lab.session()
    hold = {"gate": {width: {"ratio": 2}}}
    lab.edit(match={"params": "baseline", "by": state, "hold": hold, "tolerance": "9%"})
    with pytest.raises(ConfigError, match=r"match\.hold\.gate.*model\.mlp\.d_ff is set by search"):
        lab.session()
    lab.edit(match={"params": "baseline", "by": state, "tolerance": "9%"})
    with pytest.raises(ConfigError, match=r"d_ff = 8 changes the budget of row 'mean' by -\d.*9%"):
        lab.session()


def test_a_searched_value_that_some_row_refuses_is_refused_before_anything_trains(
    lab: Lab,
) -> None:
    """It was tried in the baseline alone: the sweep stopped at that trial, again and again."""
    lab.write("sweep.yaml", SWEEP + SEARCH)
    lab.edit(axes={"heads": {n: {"model.heads.n_heads": int(n)} for n in ("4", "2")}})
    searched = "model.heads.n_kv_heads"
    tried: list[tuple[dict[str, object], str, int]] = [
        ({"choices": [1, 2, 4]}, "2", 4),
        ({"low": 2, "high": 4}, "4", 3),  # between the ends
    ]
    for span, row, value in tried:
        lab.edit(search={searched: span})
        with pytest.raises(ConfigError) as error:
            lab.session()
        said = str(error.value)
        assert f"row '{row}' with {searched} = {value} of " in said and "sweep.yaml:" in said
        assert f"n_heads = {row} is no multiple of n_kv_heads = {value}" in said


@pytest.mark.parametrize(
    "given", ["optimizer.lr=0.5", "optimizer={name: adamw, lr: 0.5}", "model.fusion.name=gate"]
)
def test_an_override_of_what_runs_set_themselves_is_refused(lab: Lab, given: str) -> None:
    """It was lost without a word, and stood in the command that is printed with the results."""
    lab.write("sweep.yaml", SWEEP + SEARCH)
    with pytest.raises(ConfigError, match=r"--set .*: (search|axis 'fusion') of .*sweep\.yaml:\d"):
        lab.session(given)


# --- one owner per path


def test_places_are_named_by_line(lab: Lab) -> None:
    lab.write(
        "sweep.yaml", SWEEP.replace("model.fusion: {name: gate}", "model.fusoin: {name: gate}")
    )
    with pytest.raises(ConfigError, match=r"sweep\.yaml:8:\d+: .*no key 'fusoin'.*'fusion'"):
        lab.session()


def test_a_component_refusing_a_row_names_the_row_and_the_line(lab: Lab) -> None:
    lab.edit(
        axes={
            "heads": {
                "two": {"model.heads": {"name": "hybrid", "n_heads": 2, "d_head": 8}},
                "three": {"model.heads": {"name": "hybrid", "n_heads": 3, "d_head": 8}},
            }
        }
    )
    with pytest.raises(ConfigError) as error:
        lab.session()
    said = str(error.value)
    assert "row 'three' of " in said
    (line,) = re.findall(r"sweep\.yaml:(\d+):\d+: model\.heads: .* n_heads = 3", said)
    lines = (lab.folder / "sweep.yaml").read_text().splitlines()
    assert '"three": {' in lines[int(line) - 2]


def test_a_metric_that_comes_after_the_runs_chooses_no_values(lab: Lab) -> None:
    lab.write("sweep.yaml", SWEEP + SEARCH)
    late = {"name": "eval/digits/acc", "goal": "maximize"}
    lab.edit(metric=late)
    with pytest.raises(ConfigError, match=r"metric\.name: eval/digits/acc.*too late to choose"):
        lab.session()
    lab.edit(search={}, trials_per_cell=0)
    assert len(lab.session().planner.jobs({})) == 4  # rows are compared by it, as it comes
