"""Every code block of README and docs/ is tried: commands are taken, names exist, YAML is read."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import tracked

from hymba_lab.__main__ import COMMANDS
from hymba_lab.config import all_registries, load_config, plugins
from hymba_lab.config.yaml_file import parse_yaml
from hymba_lab.sweep.question.file import SweepFile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *tracked("docs/**/*.md")]
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}


class Block(NamedTuple):
    """One fenced block: its page, the line it begins at, and its text."""

    page: str
    line: int
    text: str


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text.count("\n", 0, block.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, block[1]))
    return found


def name(block: Block) -> str:
    return f"{Path(block.page).name}:{block.line}"


def commands(text: str) -> list[list[str]]:
    """Return the words of every command of a block, comments and continued lines resolved."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set(";|&<>") and words:
                found.append(words)
                words = []
            elif not set(word) <= set(";|&<>"):
                words.append(word)
    return found


@pytest.mark.parametrize("block", blocks("sh"), ids=name)
def test_commands_are_taken(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(block.text):
        program, given = words[0], words[1:]
        if program == "python" and given[:1] == ["-m"] and given[1].startswith("hymba_lab."):
            program, given = "hymba-lab", [given[1].removeprefix("hymba_lab."), *given[2:]]
        if program != "hymba-lab":
            continue
        if not given or given[0] == "--print-completion":
            continue
        parser = importlib.import_module(MODULES[given[0]]).arguments()
        try:
            parser.parse_known_args(given[1:]) if given[0] == "lm_eval" else parser.parse_args(
                given[1:]
            )
        except SystemExit:
            pytest.fail(f"{name(block)}: {shlex.join(words)}: {capsys.readouterr().err}")
        for word in given[1:]:
            if re.fullmatch(r"(sweeps|experiments|docs)/\S+\.(yaml|py)", word):
                assert (ROOT / word).is_file(), f"{name(block)}: there is no {word}"


@pytest.mark.parametrize("block", blocks("python"), ids=name)
def test_python_is_python_and_what_it_imports_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(whole(block.text))):
        if isinstance(node, ast.Import):
            for one in node.names:
                importlib.import_module(one.name)
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for one in node.names:
                assert hasattr(module, one.name), f"{node.module} has no {one.name}"


def whole(text: str) -> str:
    """Return a block as a module: a head that stands alone gets a body."""
    only_head = text.lstrip().startswith("def ") and text.count("\n") <= 1
    return text.split("#")[0].rstrip() + " ..." if only_head else text


def test_whole_examples_are_the_files() -> None:
    text = (ROOT / "docs" / "your_own_component.md").read_text(encoding="utf-8")
    pattern = r"`(docs/examples/\w+\.py)`, whole:\n\n```python\n(.*?)^```"
    shown = re.findall(pattern, text, re.M | re.S)
    assert len(shown) == 3
    for path, code in shown:
        assert code == (ROOT / path).read_text(encoding="utf-8"), f"{path} is another one"


@pytest.mark.parametrize("block", blocks("yaml"), ids=name)
def test_yaml_is_read(block: Block) -> None:
    data = parse_yaml(block.text, name(block)).data
    assert data
    if "axes" in data and "question" in data:
        SweepFile.model_validate_json(json.dumps(data))


def test_the_blocks_of_an_experiment_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registries = all_registries().values()
    before = {registry.path: set(registry) for registry in registries}
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    fusion = next(b.text for b in blocks("python") if 'register("product")' in b.text)
    (tmp_path / "my_fusion.py").write_text(fusion)
    for file in (ROOT / "docs" / "examples").glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    tried = 0
    try:
        for block in blocks("yaml"):
            if not block.page.endswith(("README.md", "first_question.md", "your_own_component.md")):
                continue
            if "axes" in parse_yaml(block.text, "block").data:
                continue
            head = "" if "extends:" in block.text else "extends: hymba_lab:nano\nname: mine\n"
            path = tmp_path / f"block_{tried}.yaml"
            path.write_text(head + block.text)
            load_config(path)
            tried += 1
    finally:
        for registry in registries:
            for entry in set(registry) - before[registry.path]:
                registry.remove(entry)
    assert tried == 4


NOT_RUN = {
    "hymba-lab sweep sweep.yaml": "ten times the line above it, which is run",
}


@pytest.mark.campaign
@pytest.mark.slow
def test_the_first_question_runs_as_it_is_written(tmp_path: Path) -> None:
    written = [block for block in blocks("sh") if block.page == "docs/first_question.md"]
    folder, ran = tmp_path, []
    for words in (words for block in written for words in commands(block.text)):
        if words[0] == "cd":
            folder = folder / words[1]
            data = next(b.text for b in blocks("yaml") if b.page == "docs/first_question.md")
            put_text(folder, data)
        if words[:1] != ["hymba-lab"] or words[1] == "--print-completion":
            continue
        if shlex.join(words) in NOT_RUN:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "hymba_lab", *words[1:]],
            cwd=folder, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        ran.append(words[1])
    assert ran == ["init", "sweep", "sweep", "report"]
    assert (folder / "runs" / "sweeps" / "sweep-nano" / "table.md").is_file()
    assert (folder / "runs" / "sweeps" / "index.html").is_file()


def put_text(folder: Path, data: str) -> None:
    """Do what the page asks for under "Your text": three kinds of file, named in `data:`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"Document {n} is about the number {n * n}. " * 20 for n in range(40)]
    (folder / "text" / "mine.txt").write_text("".join(texts))
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "text" / "mine.jsonl").write_text("".join(lines))
    pq.write_table(pa.table({"text": texts}), folder / "text" / "mine.parquet")
    path = folder / "experiment.yaml"
    old = path.read_text()
    new = re.sub(r"^data:\n(?:  .*\n)+", data, old, flags=re.M)
    assert new != old
    path.write_text(new)
