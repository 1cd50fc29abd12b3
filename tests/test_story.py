"""The story's data follow from the documentation, its page says what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "story"))
import data
import tell

pytestmark = pytest.mark.slow  # the documentation of every module is read
PAGE = (ROOT / "docs" / "story.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("story"))


def written(folder: Path) -> Path:
    """As the command does, in a process whose `sys` no test has changed."""
    subprocess.run([sys.executable, str(ROOT / "story" / "data.py"), str(folder)], check=True)
    return folder


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_held_facts_are_in_no_data_of_tuning(made: Path) -> None:
    texts = "".join((made / f"{name}.jsonl").read_text() for name in ("sft1", "sft2", "dpo"))
    asked = records(made / "questions" / "module_held.jsonl")
    assert len(asked) == data.N_ASKED
    for one in asked:
        name = str(one["question"]).removeprefix("Which module has ").rstrip("?")
        for said in (f"has {name}?", f"is {name}?", f"import {name}?", f".{name} for?"):
            assert said not in texts
        assert f'"content": "{name}"' not in texts


@pytest.mark.parametrize("part", data.PARTS)
@pytest.mark.parametrize("kind", ["module", "purpose"])
def test_every_question_has_one_right_choice(kind: str, part: str, made: Path) -> None:
    text = (made / "text" / "documentation.jsonl").read_text()
    for one in records(made / "questions" / f"{kind}_{part}.jsonl"):
        choices = one["choices"]
        assert isinstance(choices, list)
        assert isinstance(one["answer"], int)
        assert len(set(choices)) == data.N_CHOICES
        assert choices[one["answer"]] == one["right"]
        assert kind == "purpose" or f"{one['right']}\\n" in text


def test_the_same_python_makes_the_same_data(made: Path, tmp_path: Path) -> None:
    written(tmp_path)
    for path in made.rglob("*.jsonl"):
        assert (tmp_path / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_wilson_s_interval_is_that_of_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for k, n in ((0, 10), (37, 150), (150, 150)):
        theirs = proportion.proportion_confint(k, n, method="wilson")
        assert tell.interval(k / n, n) == pytest.approx(theirs, abs=1e-6)


def test_the_page_says_what_was_measured() -> None:
    results = json.loads((ROOT / "story" / "results.json").read_text("utf-8"))
    assert tell.table(results) in PAGE
    assert results["chat"] in PAGE
    for said in (results["commit"][:10], f"{results['params']:,}", f"{results['tokens']:,}"):
        assert said in PAGE
