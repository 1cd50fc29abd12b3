"""What pages say of files, rows and laws is so: the cluster's file, data sources, laws, recipes."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, tracked

from hymba_lab.commands import verdict
from hymba_lab.config import load_config, load_document
from hymba_lab.data.source import datasets
from hymba_lab.sweep.question.designs import design_choices
from hymba_lab.sweep.question.file import load_sweep
from hymba_lab.sweep.resources import load_resources
from hymba_lab.testing import battery

DOCS = ROOT / "docs"


def block(page: str, part: str) -> str:
    """Return the fenced block of a page that has `part` in it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return next(found for found in re.findall(r"^```\w+\n(.*?)^```", text, re.M | re.S)
                if part in found)  # fmt: skip


def test_the_clusters_file_is_of_the_sweep_that_the_page_runs(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(block("clusters.md", "# cluster.yaml"))
    resources = load_resources(file, None)
    lines = [line for line in block("clusters.md", "--detach").splitlines() if "cluster" in line]
    assert len(lines) == 2 and all("sweeps/roadmap.yaml --scale 125m" in line for line in lines)
    sweep = load_sweep(ROOT / "sweeps" / "roadmap.yaml", [], "125m")
    labels = list(design_choices(sweep.file))
    resources.check(labels, sweep)
    assert {resources.needs(sweep.base.scale, row).gpus for row in labels} == {1}
    assert f"status {sweep.name}-{sweep.base.scale};" in block("clusters.md", "--detach")


@pytest.mark.usefixtures("no_plugin_stays")
def test_the_pages_data_source_shares_its_rows(tmp_path: Path) -> None:
    (tmp_path / "mirror.py").write_text((DOCS / "examples" / "mirror.py").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: hymba_lab:nano\nname: mine\n" + block("your_own_component.md", "[mirror.py]")
    )
    config = load_config(file)
    batch = datasets.build(config.data["recall"], config.training.seq_len).train_batch(0, 0)
    assert batch.group.bincount().tolist() == [20, 20, 20]


def test_the_page_tells_of_every_law() -> None:
    axes = [*battery.OTHERS, "model.fusion", "model.ssm", "model.attention"]
    laws = {law.name for axis in axes for law in battery.laws_of_axis(axis)}
    page = (DOCS / "your_own_component.md").read_text(encoding="utf-8")
    told = {name for cell in re.findall(r"^\| ([a-z0-9, ]+) \|", page, re.M)
            for name in cell.split(", ")}  # fmt: skip
    assert laws - told == set()


@pytest.mark.parametrize(
    "recipe", tracked("experiments/recipes/*.yaml"), ids=lambda file: file.stem
)
def test_a_recipe_reads_what_the_corpora_files_write(recipe: Path) -> None:
    made = {
        (file.parent / load_document(file).data["out"]).resolve()
        for file in tracked("experiments/corpora/*.yaml")
    }
    config = load_config(recipe)
    folders = [Path(one.folder) for one in config.data["text"].options()["corpora"].values()]
    assert folders and {folder.resolve() for folder in folders} <= made


def test_judged_runs_are_judged_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "judge_runs.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tables = re.findall(r"`(\w+\.csv)`:\n\n```csv\n(.*?)```", page, re.S)
    asked = re.findall(r"```sh\nhymba-lab verdict (.*?)\n```\n\n```text\n(.*?)```", page, re.S)
    assert len(tables) == len(asked) == 2
    for name, text in tables:
        (tmp_path / name).write_text(text, encoding="utf-8")
    for words, said in asked:
        assert verdict.main(shlex.split(words)) == 0
        assert capsys.readouterr().out.split() == said.split()
