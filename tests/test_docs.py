"""The pages of docs/: generated ones are current, links lead somewhere, what they show works."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from hymba_lab.config.schema import Config, Layers, ModelConfig, TrainingConfig
from hymba_lab.config.yaml_file import parse_yaml
from hymba_lab.sweep.question.file import SweepFile

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import reference  # noqa: E402
import schema_table  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))
WHOLE = {
    "question": "q", "base": "b.yaml", "metric": {"name": "val/loss", "goal": "minimize"},
    "seeds": [0], "axes": {"fusion": {"mean": {}}},
}  # fmt: skip


def test_generated_pages_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, text in reference.pages().items():
        stands = (reference.FOLDER / name).read_text(encoding="utf-8")
        assert stands == text, f"docs/reference/{name} is old: make docs-reference"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["one_run_and_race", "noise_of_the_scale"])
def test_a_page_about_the_committed_runs_is_what_they_say(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "analysis" / f"{page}.py"), run_name="__main__")
    stands = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert stands == capsys.readouterr().out, f"python analysis/{page}.py > docs/{page}.md"


@pytest.mark.parametrize(
    "model",
    [SweepFile, *schema_table.models_below(SweepFile), Config, ModelConfig, Layers, TrainingConfig],
)
def test_every_key_says_what_it_is(model: type[BaseModel]) -> None:
    silent = [name for name, said in schema_table.comments(model).items() if not said]
    assert not silent, f"{model.__name__}: say behind it what {silent} is"


@pytest.mark.parametrize("key", SweepFile.model_fields)
def test_every_key_of_a_sweep_has_an_example_that_the_schema_takes(key: str) -> None:
    example = parse_yaml(reference.EXAMPLES[key], "example").data
    assert list(example) == [key]
    SweepFile.model_validate_json(json.dumps({**WHOLE, **example}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links {target}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "sweep_file.html").is_file()
