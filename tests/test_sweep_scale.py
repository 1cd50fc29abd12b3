"""One sweep at several scales: words, defaults, budgets in numbers, and what can go wrong."""

from pathlib import Path

import pytest
from conftest import ROOT, TINY, tracked
from sweeping import Lab
from test_shipped import SWEEPS

from hymba_lab.config import resolve
from hymba_lab.errors import ConfigError
from hymba_lab.model import plan_layers
from hymba_lab.sweep.question.checks import check_sweep
from hymba_lab.sweep.question.designs import design_choices
from hymba_lab.sweep.question.file import load_sweep
from hymba_lab.sweep.question.level import level_of

SCALE = """
base: ../tiny.yaml
defaults: {seeds: [3, 4], metric: {name: val/recall_loss, goal: minimize}}
words: {n_meta: 4, few: 2}
"""
SWEEP = """
question: Are $n_meta meta tokens enough?
scale: small
axes:
  meta tokens:
    none: {model.meta_tokens: {name: none}}
    $n_meta of them: {model.meta_tokens: {name: learned, n_meta: $n_meta}}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, base=TINY)
    lab.write("sweep.yaml", SWEEP)
    lab.write("scales/small.yaml", SCALE)
    lab.write("scales/large.yaml", SCALE.replace("n_meta: 4", "n_meta: 16"))
    return lab


def n_meta(lab: Lab, scale: str | None) -> dict[str, int]:
    sweep = load_sweep(lab.folder / "sweep.yaml", [], scale)
    choices = sweep.file.axes["meta tokens"]
    return {label: patch["model.meta_tokens"].get("n_meta", 0) for label, patch in choices.items()}


def test_words_stand_in_values_labels_and_the_question(lab: Lab) -> None:
    assert n_meta(lab, None) == {"none": 0, "4 of them": 4}
    assert n_meta(lab, "large") == {"none": 0, "16 of them": 16}
    assert load_sweep(lab.folder / "sweep.yaml", [], "large").file.question.startswith("Are 16 ")


def test_the_sweeps_own_keys_win_over_the_scales(lab: Lab) -> None:
    sweep = load_sweep(lab.folder / "sweep.yaml")
    assert (sweep.file.seeds, sweep.file.metric.name) == ([3, 4], "val/recall_loss")
    lab.write("sweep.yaml", SWEEP + "seeds: [7]\n")
    assert load_sweep(lab.folder / "sweep.yaml").file.seeds == [7]


def test_the_command_line_wins_over_both(lab: Lab) -> None:
    assert load_sweep(lab.folder / "sweep.yaml", ["seeds=[8]"]).file.seeds == [8]


def test_a_number_of_parameters_gives_two_sweeps_the_same_rows(lab: Lab) -> None:
    """Matched to a number, a row's configuration does not depend on the sweep's baseline."""
    match = "match: {params: 30000, by: model.mlp.d_ff, tolerance: 2%}\n"
    lab.write("sweep.yaml", SWEEP + match)
    one = {cell.label: cell for cell in lab.session().cells}
    lab.write("sweep.yaml", SWEEP + match + "baseline: 4 of them\n")
    other = {cell.label: cell for cell in lab.session().cells}
    assert list(one) == ["none", "4 of them"] and list(other) == ["4 of them", "none"]
    for label, cell in one.items():
        assert cell.config.digest == other[label].config.digest
        assert abs(cell.costs.params / 30000 - 1) <= 0.02


def test_a_row_may_free_another_integer(lab: Lab) -> None:
    thin = "    thin: {model.mlp: {name: none}}\n"
    match = "match: {params: 30000, by: model.mlp.d_ff, rows: {thin: model.d_model}, tolerance: 9%}"
    lab.write("sweep.yaml", SWEEP + thin + match)
    cells = {cell.label: cell for cell in lab.session().cells}
    assert cells["thin"].config.model.d_model > cells["none"].config.model.d_model
    assert abs(cells["thin"].costs.params / 30000 - 1) <= 0.09


FAULTS: list[tuple[str, dict[str, str], str | None, list[str]]] = [
    ("an unknown scale", {}, "huge", ["sweep.yaml:3:", "no scale 'huge'", "large, small"]),
    ("an unknown word", {"scales/small.yaml": SCALE.replace("n_meta: 4, ", "n_met: 4, ")}, None,
     ["sweep.yaml:2:", "no word $n_meta in the scale", "Did you mean 'n_met'?"]),
    ("an unknown key in a scale", {"scales/small.yaml": SCALE + "word: {}\n"}, None,
     ["small.yaml:5:", "word", "Did you mean 'words'?"]),
    ("a base beside a scale", {"sweep.yaml": SWEEP + "base: tiny.yaml\n"}, None,
     ["sweep.yaml:8:", "writes scale: in its place"]),
    ("a scale whose base is missing", {"scales/small.yaml": SCALE.replace("tiny", "tinny")}, None,
     ["tinny.yaml: there is no such file", "small.yaml:2:"]),
    ("a default that is no key of a sweep",
     {"scales/small.yaml": SCALE.replace("seeds:", "sedes:")}, None,
     ["small.yaml:3:", "sedes", "Did you mean 'seeds'?"]),
    ("a row to match that is not there", {"sweep.yaml": SWEEP
     + "match: {params: 30000, by: model.mlp.d_ff, rows: {nome: model.d_model}}\n"}, None,
     ["match.rows.nome: no row 'nome'", "Did you mean 'none'?"]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "scale", "says"), [case[1:] for case in FAULTS],
                         ids=[case[0] for case in FAULTS])  # fmt: skip
def test_a_fault_names_its_place(
    lab: Lab, files: dict[str, str], scale: str | None, says: list[str]
) -> None:
    for name, text in files.items():
        lab.write(name, text)
    with pytest.raises(ConfigError) as error:
        lab.session(scale=scale)
    for part in says:
        assert part in str(error.value)


def test_a_sweep_with_a_base_has_one_scale(lab: Lab) -> None:
    lab.write("sweep.yaml", SWEEP.replace("scale: small", "base: tiny.yaml"))
    with pytest.raises(ConfigError, match="has one size"):
        lab.session(scale="large")


SCALED = [path for path in SWEEPS if "\nscale: " in path.read_text()]
LARGE = sorted({path.stem for path in tracked("sweeps/scales/*.yaml")} - {"nano"})


def test_a_scale_and_the_label_of_its_base_are_one_name() -> None:
    """`--scale NAME` is NAME in the folder of results, in `cluster.yaml`, and for `claims`."""
    for scale in ("nano", *LARGE):
        assert load_sweep(SCALED[0], [], scale).base.scale == scale


@pytest.mark.parametrize("scale", ["nano", *sorted({*LARGE} - {"nano_short"})])  # kept as it was
def test_what_a_guess_reaches_is_known_and_no_row_is_tuned_by_one_run(scale: str) -> None:
    """Without the guess there is no level, and rows would be judged by where a budget cut them."""
    sweep = load_sweep(ROOT / "sweeps" / "roadmap.yaml", [], scale)
    level = level_of(sweep.file, sweep.base.resolved())
    assert level is not None and 0 < level.guess < level.at
    assert not sweep.file.tuned_by_one_run and not sweep.file.metric.name.endswith("_auc")


@pytest.mark.slow
@pytest.mark.parametrize("scale", LARGE)
def test_every_row_of_every_sweep_is_a_model_at_every_scale(scale: str) -> None:
    """Only the plan in integers: building 1.5B parameters for every row would take minutes."""
    assert len(SCALED) == 18
    for path in SCALED:
        sweep = load_sweep(path, [], scale)
        check_sweep(sweep)
        for choice in design_choices(sweep.file).values():
            document = sweep.base_document
            for axis, label in choice.items():
                for where, value in sweep.file.axes[axis][label].items():
                    document = document.patched(where, value, "row")
            config = resolve(document)
            assert len(plan_layers(config.model)) == config.model.n_layers
