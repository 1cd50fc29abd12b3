"""What is shipped works as it stands: every YAML loads and plans, the README's examples run."""

import math
import re
from pathlib import Path

import pytest
from conftest import ROOT, tracked

from hymba_lab.config import load_config
from hymba_lab.cost import measure_costs
from hymba_lab.data.source import build_sources
from hymba_lab.model import plan_layers
from hymba_lab.stages.chain import metrics_of_stages
from hymba_lab.sweep.question.file import load_sweep
from hymba_lab.sweep.session import open_session
from hymba_lab.training.fit import fit

EXPERIMENTS = tracked("experiments/*.yaml")
SWEEPS = tracked("sweeps/*.yaml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_plans_and_pays_for_a_step(path: Path) -> None:
    config = load_config(path)
    mixture = build_sources(config.data, config.training.seq_len)
    assert len(plan_layers(config.model)) == config.model.n_layers
    assert measure_costs(config.model, mixture.vocab, config.training.seq_len).params > 0
    assert config.n_steps >= 1


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_plans_rows_of_equal_budget(path: Path, tmp_path: Path) -> None:
    plan(path, tmp_path)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_question_of_recall_names_a_row_that_is_known_to_solve_it(path: Path) -> None:
    file = load_sweep(path).file
    if file.stop is not None and path.stem != "aa_floor":  # which ends before that on purpose
        assert file.control


def plan(path: Path, root: Path, scale: str | None = None) -> None:
    """Open the sweep: different rows, and where it asks for equal budgets, equal they are."""
    session = open_session(path, overrides=[], scale=scale, root=root)
    assert len(session.cells) > 1
    assert len({cell.config.digest for cell in session.cells}) == len(session.cells)
    match = session.sweep.file.match
    if match and match.params:
        asked = match.params if isinstance(match.params, int) else session.cells[0].costs.params
        for cell in session.cells:
            assert abs(cell.costs.params / asked - 1) <= match.fraction


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_row_of_every_sweep_trains_to_its_metrics(path: Path, tmp_path: Path) -> None:
    """One step, then what a run ends with: no row waits for its hour to say that it cannot."""
    session = open_session(path, overrides=[], scale=None, root=tmp_path)
    if max(cell.costs.params for cell in session.cells) > 5_000_000:
        pytest.skip("of a size for GPUs")
    file, mixture = session.sweep.file, session.mixture
    asked = {file.metric.name, *file.also} - set(metrics_of_stages(session.sweep.base))
    for number, cell in enumerate(session.cells):
        per_step = mixture.rows * cell.config.training.seq_len
        training = cell.config.training.model_copy(update={"tokens": per_step, "val_every": 1})
        config = cell.config.model_copy(update={"training": training, "stages": {}})
        found = fit(config, seed=0, folder=tmp_path / str(number), mixture=mixture)
        assert {name for name in asked if not name.startswith("eval/")} <= found.metrics.keys()
        for name in asked & found.metrics.keys():
            assert math.isfinite(found.metrics[name]), (cell.label, name)


def test_the_readmes_fusion_works_as_written(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n# my_fusion.py\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    (tmp_path / "my_fusion.py").write_text(code.group(1))
    (tmp_path / "mine.yaml").write_text(
        f"extends: {ROOT / 'experiments' / 'nano.yaml'}\n"
        "plugins: [my_fusion.py]\n"
        "model: {fusion: {name: product}}\n"
    )
    config = load_config(tmp_path / "mine.yaml")
    assert config.model.fusion.options() == {"bias": False}
    costs = measure_costs(config.model, 384, config.training.seq_len)
    mean = measure_costs(load_config(ROOT / "experiments" / "nano.yaml").model, 384, 64)
    n_norms = 2 * 2 * 128  # the mean's two norms of d_inner in two layers, which the product lacks
    assert costs.params == mean.params - n_norms


def test_the_readme_is_short_and_names_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    linked = re.findall(r"\]\(((?!http)[^)#]+)\)", readme)
    named = re.findall(r"`((?:sweeps|experiments|hymba_lab|results)/[\w./-]+)`", readme)
    missing = [name for name in [*linked, *named] if not (ROOT / name).exists()]
    assert missing == []
