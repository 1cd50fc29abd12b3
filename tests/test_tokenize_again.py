"""Tokenizing into a folder that is there already, and text or files that nobody expects."""

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_tokenize import TEXTS, config, fresh_cache, jsonl, make

from hymba_lab.commands.tokenize import load_tokenize_config
from hymba_lab.config import load_config
from hymba_lab.data import index as index_module
from hymba_lab.data.draws import choose_weighted, generator
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.index import INDEX, read_index
from hymba_lab.data.prepare.documents import documents
from hymba_lab.data.prepare.hub import commit_of
from hymba_lab.data.prepare.inputs import Piece, found
from hymba_lab.data.prepare.pinned import note
from hymba_lab.data.prepare.schema import Hub as HubSection
from hymba_lab.data.prepare.unit import Place
from hymba_lab.data.token_formats import stretch_of
from hymba_lab.errors import ConfigError, DataError, UserError

__all__ = ["fresh_cache"]  # a fixture


def test_text_that_changed_is_not_taken_for_what_was_made_of_it(tmp_path: Path) -> None:
    """Names and sizes were all that was compared: the old tokens came back."""
    source = jsonl(tmp_path / "a.jsonl", TEXTS)
    given, first = config(tmp_path, source), make(config(tmp_path, source))
    elsewhere = shutil.copy(source, tmp_path / "b.jsonl")
    source.touch()
    assert make(given) == first  # the same text
    source.write_text(source.read_text().replace("quick", "QUICK"))
    with pytest.raises(DataError, match="other text or other settings"):
        make(given)
    shutil.move(elsewhere, source)
    assert make(given) == first


def test_files_of_a_local_builder_are_text_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    source = jsonl(tmp_path / "a.jsonl", TEXTS)
    hub = {"dataset": "json", "data_files": [str(source)]}
    given = config(tmp_path, paths=[], hub=hub)
    assert make(given) == make(given)
    source.write_text(source.read_text().replace("quick", "QUICK"))
    with pytest.raises(DataError, match="other text or other settings"):
        make(given)


@pytest.mark.parametrize("value", [7, {"a": "b"}, ["words"]])
def test_a_column_of_a_hub_that_holds_no_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": value}) + "\n" for _ in range(9)))
    hub = {"dataset": "json", "data_files": [str(source)]}
    with pytest.raises(DataError, match=r"column 'text' holds (int|dict|list), not text"):
        make(config(tmp_path, paths=[], hub=hub))


def test_a_folder_with_another_ones_files_is_refused(tmp_path: Path) -> None:
    """Its tokenizer was taken for the one that was asked for."""
    source = jsonl(tmp_path / "a.jsonl", TEXTS)
    make(config(tmp_path, source, out=str(tmp_path / "one")))
    (tmp_path / "out").mkdir()
    shutil.copy(tmp_path / "one/tokenizer.json", tmp_path / "out")
    with pytest.raises(DataError, match=r"out: holds tokenizer\.json, and nothing that says"):
        make(config(tmp_path, source, tokenizer={"n_bpe": 300}))


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": 1}'])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    given = config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS))
    make(given)
    (tmp_path / "out" / INDEX).write_text(text)
    with pytest.raises(DataError, match=r"index\.json: not an index of shards"):
        make(given)


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    jsonl(inner / "a.jsonl", TEXTS[:3])
    (outer / "link").symlink_to(inner)
    (inner / "back").symlink_to(outer)  # goes round
    (outer / "again").symlink_to(inner)
    assert [path.name for path in found([str(outer)])] == ["a.jsonl"]


def test_what_json_lines_are_is_told_by_the_end_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.json.txt"
    file.write_text("no object at all")
    piece = Piece(str(file), 0, 1, file.stat().st_size)
    assert list(documents(piece, config(tmp_path, file))) == ["no object at all"]


def test_a_packed_file_that_was_damaged_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in TEXTS).encode())
    file = tmp_path / "a.jsonl.gz"
    n_refused = 0
    for place in range(12, len(whole), 41):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(UserError):
            list(documents(Piece(str(file), 0, 1, 1), config(tmp_path, file)))
            continue
        n_refused += 1
    assert n_refused > 5


def test_a_file_of_arrays_that_is_none_is_named(tmp_path: Path) -> None:
    empty, archive, header = (tmp_path / f"{name}.npy" for name in ("empty", "archive", "header"))
    empty.write_bytes(b"")
    with archive.open("wb") as stream:
        np.savez(stream, ids=np.arange(4))
    np.save(header, np.arange(9))
    header.write_bytes(header.read_bytes().replace(b"'descr'", b"'''escr"))
    for file in (empty, archive, header):
        with pytest.raises(DataError, match=f"{file.name}: not a readable token file"):
            stretch_of(file, None, 100)


def test_a_tokenizer_that_can_encode_nothing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    words: dict[str, int] = {"</s>": 0}
    for vocab, said in (({}, "has no token"), (words, "cannot encode the text .*UNK")):
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
        file.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
        with pytest.raises(DataError, match=rf"tokenizer\.json: {said}"):
            GivenTokenizer(file).encode([b"words"])


def test_a_text_that_spells_an_end_which_is_not_special_is_refused(tmp_path: Path) -> None:
    """It was cut there into documents."""
    make(config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS)))
    file = tmp_path / "out/tokenizer.json"
    facts = json.loads(file.read_text())
    (end,) = facts["added_tokens"]
    spelled = f"one {end['content']} two".encode()
    assert GivenTokenizer(file).encode([spelled]).tolist().count(end["id"]) == 1
    end["special"] = False
    file.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"spells '<\|endoftext\|>', which ends documents"):
        GivenTokenizer(file).encode([spelled])


def test_faults_stand_at_their_line(tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    text = "name: a\nout: out\npaths: [no.jsonl]\ntokenizer: {n_bpe: 300}\n"
    file.write_text(text)
    with pytest.raises(DataError, match=r"corpus\.yaml:3:9: paths\[0\]: .*does not exist"):
        make(load_tokenize_config(file))
    file.write_text(text.replace("n_bpe: 300", "file: none.json").replace("no.", "a."))
    jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"corpus\.yaml:4:\d+: tokenizer: .*cannot be read"):
        make(load_tokenize_config(file))
    file.write_text(text.replace("paths: [no.jsonl]\n", ""))
    with pytest.raises(ConfigError, match=r"corpus\.yaml.*paths: give the text as"):
        load_tokenize_config(file)


def test_a_user_that_is_not_there_and_links_that_go_round(tiny: Path) -> None:
    """Python raises what no handler of files expects."""
    nobody = tiny.with_name("nobody.yaml")
    nobody.write_text(tiny.read_text() + "start_from: ~nobody-of-this-name/run\n")
    with pytest.raises(ConfigError, match=r"~nobody-of-this-name/run is neither a run"):
        load_config(nobody)
    round_ = tiny.with_name("round.yaml")
    round_.symlink_to("round.yaml")
    child = tiny.with_name("child.yaml")
    child.write_text("extends: round.yaml\n")
    for file in (round_, child):
        with pytest.raises(UserError, match=r"round\.yaml"):
            load_config(file)
    child.write_text('extends: "a\\0b.yaml"\n')
    with pytest.raises(ConfigError, match=r"child\.yaml:1:1: extends: .* holds a NUL"):
        load_config(child)


def test_a_steep_preference_stays_one() -> None:
    """Weights beyond float32 made all slots alike."""
    steep = np.power(np.arange(1, 249, dtype=np.float64), 24)
    drawn = choose_weighted(generator("a", 0, 0), 400, steep, 1)
    expected = (np.arange(248) * steep).sum() / steep.sum()
    assert drawn.mean() == pytest.approx(expected, abs=3)


def test_copies_on_the_disks_of_several_machines_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cache, one path, other inodes: every start read every copy whole, in turn."""
    make(config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS)))
    folder, read = tmp_path / "out", []
    monkeypatch.setattr(index_module, "verify", lambda shards, _: read.extend(shards))
    for name in ("n1", "n2"):
        shutil.copytree(folder, tmp_path / name)
    for _ in range(2):
        for name in ("n1", "n2"):
            monkeypatch.setattr(index_module.socket, "gethostname", lambda name=name: name)
            folder.rename(tmp_path / "before")
            (tmp_path / name).rename(folder)
            read_index(folder)
            folder.rename(tmp_path / name)
            (tmp_path / "before").rename(folder)
    assert not [shard for shard in read if shard]


class Hub:
    """A hub whose data set grows between two looks."""

    def __init__(self) -> None:
        self.commits = ["a" * 40]
        self.read: list[str | None] = []
        self.breaks_off = False

    def dataset_info(self, dataset: str, revision: str | None = None) -> Any:
        return SimpleNamespace(sha=self.commits[-1])

    def load_dataset(self, *_: Any, revision: str | None, **__: Any) -> "Hub":
        self.read.append(revision)
        return self

    num_shards = 1

    def __iter__(self) -> Iterator[dict[str, str]]:
        grown = self.commits.index(self.read[-1]) if self.read[-1] else len(self.commits) - 1
        for number, text in enumerate([*TEXTS, *("more " * n for n in range(50 * grown))]):
            if self.breaks_off and number == 100:
                raise ConnectionError("the network is gone")
            yield {"text": text}


def test_text_of_a_hub_is_that_of_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that changed between a kill and the next start was mixed into the old text."""
    datasets, huggingface = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    monkeypatch.setattr(huggingface, "HfApi", lambda: hub)
    given = config(tmp_path, paths=[], hub={"dataset": "lab/web"})
    hub.breaks_off = True
    with pytest.raises(DataError, match="the network is gone"):
        make(given)
    hub.breaks_off = False
    hub.commits.append("b" * 40)
    first = make(given)
    noted = {"dataset": "lab/web", "revision": None, "commit": "a" * 40}
    assert json.loads((tmp_path / "out" / INDEX).read_text())["hub"] == noted
    assert make(given) == first  # finished: it stays what it was made of
    assert set(hub.read) == {"a" * 40}
    elsewhere = config(tmp_path, paths=[], hub={"dataset": "lab/web"}, out=str(tmp_path / "new"))
    assert make(elsewhere).fingerprint != first.fingerprint
    assert hub.read[-1] == "b" * 40


def test_two_that_begin_with_other_commits_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.work.mkdir()
    pin: dict[str, str | None] = {"dataset": "lab/web", "revision": None, "commit": "a" * 40}
    note(place, pin)
    note(place, pin)
    with pytest.raises(DataError, match="begun with another commit of lab/web; run the same"):
        note(place, {**pin, "commit": "b" * 40})


@pytest.mark.parametrize(
    ("dataset", "revision", "commit"),
    [("json", None, None), ("lab/web", "c" * 40, "c" * 40), ("lab/web", "main", "a" * 40)],
)
def test_a_hub_is_asked_only_for_what_it_alone_knows(
    dataset: str, revision: str | None, commit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder of the package has no commits; one that is given is taken at its word."""
    pytest.importorskip("datasets")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub"), "HfApi", Hub)
    assert commit_of(HubSection(dataset=dataset, revision=revision)) == commit


def test_a_hub_that_does_not_say_its_commit_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub"), "HfApi", dict)
    with pytest.raises(DataError, match=r"hub: lab/web: cannot be read .*is there a network"):
        commit_of(HubSection(dataset="lab/web"))
