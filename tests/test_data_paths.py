"""Paths of data in experiments and sweeps: relative to the file that names them, everywhere."""

import json
from pathlib import Path

import pytest
import torch

from hymba_lab.config import from_resolved, load_config
from hymba_lab.data.prepare.run import tokenize
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.data.source import build_sources
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.registry import Located

NANO = Path(__file__).parents[1] / "experiments" / "nano.yaml"
TEXT = "".join(f"line {n} of a text that is long enough\n" for n in range(400))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))
    for folder in ("experiments", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "experiments" / "t.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(folder: Path, data: str, more: str = "") -> Path:
    file = folder / "x.yaml"
    base = "\n".join(
        line
        for line in NANO.read_text().splitlines()
        if not line.startswith(("  recall:", "  text:"))
    )
    file.write_text(base.replace("data:", f"{more}\ndata:\n{data}"))
    return file


def mixture(config):
    return build_sources(config.data, 16)


def test_a_path_is_that_of_its_file_from_any_folder(project, monkeypatch):
    file = experiment(project / "experiments", "  text: {name: files, rows: 2, paths: [t.txt]}")
    fingerprints, digests = set(), set()
    for folder in (project, project / "elsewhere", Path("/")):
        monkeypatch.chdir(folder)
        config = load_config(file)
        fingerprints.add(mixture(config).fingerprint)
        digests.add(config.digest)
        again = from_resolved(json.loads(json.dumps(config.resolved())))
        assert again.digest == config.digest
        assert mixture(again).fingerprint in fingerprints
        assert config.data["text"].paths == ["t.txt"]  # as data it stays as written
    assert len(fingerprints) == len(digests) == 1


def test_digest_is_that_of_the_path_as_written(project):
    config = load_config(experiment(project, "  text: {name: files, rows: 2, paths: [t.txt]}"))
    data = config.resolved()["data"]["text"]
    assert data["paths"] == ["t.txt"] and str(project) not in json.dumps(config.canonical()["data"])


def test_a_child_and_an_override_name_their_own(project):
    (project / "elsewhere" / "t.txt").write_text(TEXT[::-1])
    experiment(project / "experiments", "  text: {name: files, rows: 2, paths: [t.txt]}")
    child = project / "elsewhere" / "child.yaml"
    child.write_text("extends: ../experiments/x.yaml\nname: child\n")
    inherited = mixture(load_config(child))
    child.write_text(
        "extends: ../experiments/x.yaml\nname: child\n"
        "data: {text: {name: files, rows: 2, paths: [t.txt]}}\n"
    )
    own = mixture(load_config(child))
    assert inherited.fingerprint == mixture(load_config("experiments/x.yaml")).fingerprint
    assert own.fingerprint != inherited.fingerprint
    overridden = load_config("experiments/x.yaml", ["data.text.paths=[elsewhere/t.txt]"])
    assert mixture(overridden).fingerprint == own.fingerprint


def test_a_moved_project_finds_its_data(project, monkeypatch):
    file = experiment(project / "experiments", "  text: {name: files, rows: 2, paths: [t.txt]}")
    written = load_config(file).resolved()
    (project / "experiments").rename(project / "moved")
    monkeypatch.chdir(project / "moved")
    assert mixture(from_resolved(written)).vocab == 256


FAULTS = {
    "{name: files, rows: 2, paths: [none.txt]}": (
        r"x\.yaml:\d+:\d+: files\.paths\[0\]: 'none\.txt' does not exist \(looked from"
    ),
    "{name: files, rows: 2, paths: [old.txt]}": (
        r"paths are relative to the file that names them.*write \.\./old\.txt"
    ),
    "{name: shards, rows: 2, train: 'a*.bin', val: t.txt, vocab: 9}": (
        r"x\.yaml:\d+:\d+: shards\.train\[0\]: 'a\*\.bin' matches no file"
    ),
    "{name: corpora, rows: 2, corpora: {web: {folder: tok}}}": (
        r"x\.yaml:\d+:\d+: corpora\.web: .*experiments/tok: is no folder"
    ),
    "{name: files, rows: 2, paths: [t.txt], tokenizer_file: no.json}": (
        r"x\.yaml:\d+:\d+: tokenizer: .*no\.json: cannot be read"
    ),
}


@pytest.mark.parametrize(("data", "message"), FAULTS.items())
def test_what_is_not_there_is_said_at_its_line(project, data, message):
    (project / "old.txt").write_text(TEXT)
    with pytest.raises(DataError, match=message):
        mixture(load_config(experiment(project / "experiments", f"  text: {data}")))


def test_located_paths_are_paths():
    path = Located("/a/b")
    assert Path(path) == Path("/a/b") and path == "/a/b"


class TestOneTokenizer:
    @pytest.fixture
    def tokens(self, project):
        for name in ("web", "code"):
            (project / name).mkdir()
            for number in range(60):
                (project / name / f"{number}.txt").write_text(f"{name} {number} " + TEXT[:900])
        tokenizer = {"n_bpe": 300, "sample_mb": 0.05}
        for name in ("web", "code"):
            config = TokenizeConfig(
                name=name, out=str(project / "tokens" / name), paths=[str(project / name)],
                tokenizer=tokenizer, val_fraction=0.2,
            )  # fmt: skip
            tokenize(config, workers=1, report=lambda *_: None)
            tokenizer = {"file": str(project / "tokens" / "web" / "tokenizer.json")}
        return project / "tokens"

    DATA = """
  text:
    name: corpora
    rows: 3
    corpora: {web: {folder: ../tokens/web}, code: {folder: ../tokens/code}}
  own: {name: files, rows: 2, paths: [t.txt]}
  recall: {name: mqar, rows: 4, vocab: 32, n_pairs: [2]}
  letters: {name: files, rows: 2, paths: [t.txt], tokenizer: bytes}
"""

    def test_all_text_shares_its_ids(self, tokens, project):
        file = experiment(
            project / "experiments", self.DATA, "tokenizer: ../tokens/web/tokenizer.json"
        )
        config = load_config(file)
        mixed = mixture(config)
        assert mixed.offsets == {"text": 0, "own": 0, "recall": 300, "letters": 332}
        assert mixed.vocab == 332 + 256
        text = mixed.sources["own"].tokenizer.decode(mixed.train_batch(0, 0).tokens[3].tolist())
        assert text.decode("utf-8", "replace") in TEXT
        again = from_resolved(config.resolved())
        assert again.digest == config.digest and mixture(again).fingerprint == mixed.fingerprint
        assert torch.equal(mixture(again).train_batch(1, 2).tokens, mixed.train_batch(1, 2).tokens)

    def test_another_tokenizer_is_refused(self, tokens, project):
        other = json.loads((tokens / "web" / "tokenizer.json").read_text())
        other["truncation"] = None
        (project / "other.json").write_text(json.dumps(other, indent=3))
        file = experiment(project / "experiments", self.DATA, "tokenizer: ../other.json")
        with pytest.raises(ConfigError, match=r"web \(.*\) was not made with .*other\.json"):
            mixture(load_config(file))

    def test_fingerprint_of_a_file_source_is_that_of_the_tokenizer(self, tokens, project):
        prints = []
        for more in ("", "tokenizer: ../tokens/web/tokenizer.json"):
            file = experiment(
                project / "experiments", "  own: {name: files, rows: 2, paths: [t.txt]}", more
            )
            prints.append(mixture(load_config(file)).fingerprint)
        file = experiment(
            project / "experiments",
            "  own: {name: files, rows: 2, paths: [t.txt], "
            "tokenizer_file: ../tokens/web/tokenizer.json}",
        )
        assert mixture(load_config(file)).fingerprint == prints[1] != prints[0]

    def test_a_tokenizer_with_an_end_of_another_name(self, tmp_path, project):
        """The message said to name it, and no source of text took the name."""
        for number in range(60):
            (tmp_path / f"text-{number}.txt").write_text(f"{number} " + TEXT[:900])
        own = {"n_bpe": 300, "end_of_text": "<stop>"}
        made = TokenizeConfig(
            name="odd", out=str(tmp_path / "out"), paths=[str(tmp_path / "text-*.txt")],
            tokenizer=own, val_fraction=0.2,
        )  # fmt: skip
        tokenize(made, workers=1, report=lambda *_: None)
        odd = tmp_path / "out" / "tokenizer.json"
        source = "name: files, rows: 2, paths: [t.txt], tokenizer_file: " + str(odd)
        file = experiment(project / "experiments", f"  own: {{{source}}}")
        with pytest.raises(DataError, match=r"set end_of_text to one of its own: '<stop>'"):
            mixture(load_config(file))
        file = experiment(project / "experiments", f"  own: {{{source}, end_of_text: <stop>}}")
        found = mixture(load_config(file)).sources["own"].tokenizer
        assert found.model.id_to_token(found.end_of_text) == "<stop>"
        bare = "  own: {name: files, rows: 2, paths: [t.txt], end_of_text: <stop>}"
        with pytest.raises(DataError, match="end_of_text: <stop> is for a tokenizer_file"):
            mixture(load_config(experiment(project / "experiments", bare)))
