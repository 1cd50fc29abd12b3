"""Text sources: splits, tokens, cache, and a clear word for every bad input."""

import json
import math
import os
import pickle
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hymba_lab.data import cache
from hymba_lab.data.corpus import Corpus, Split, load, split_documents
from hymba_lab.data.source import Source, datasets
from hymba_lab.data.streams import TokenFile, count_ids, unigram_entropy
from hymba_lab.data.text import stdlib_files
from hymba_lab.data.tokenizers import BPE, Bytes, train_bpe
from hymba_lab.errors import DataError

T = 16
SENTENCES = [f"{n}: the quick brown fox n\u00b0 {n} jumps over the lazy dog\n" for n in range(400)]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small standard library in place of the real one."""
    root = tmp_path / "lib"
    for number in range(40):
        file = root / ("json" if number % 2 else ".") / f"module_{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(SENTENCES[number * 10 : number * 10 + 10]), "utf-8")
    for left_out in (
        "site-packages/a.py",
        "test/b.py",
        "json/tests/c.py",
        "idlelib/idle_test/d.py",
        "__pycache__/e.py",
        "config-3.11-x/f.py",
        "_sysconfigdata__linux.py",
        "json/data.bin",
    ):
        (root / left_out).parent.mkdir(parents=True, exist_ok=True)
        (root / left_out).write_text("LEFT OUT " * 50)
    (root / "latin.py").write_bytes(b"# LEFT OUT caf\xe9\n" * 50)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    return root


def build(name: str, seq_len: int = T, **options: object) -> Source:
    return datasets.build(datasets.spec(name, **{"rows": 4, **options}), seq_len)


def text_of(tokens: TokenFile) -> bytes:
    return Bytes().decode(tokens.ids.tolist())


class TestStdlib:
    def test_takes_the_library_and_nothing_else(self, library):
        source = build("stdlib")
        both = text_of(source.train) + text_of(source.val)
        assert b"LEFT OUT" not in both
        assert Counter(both.decode().replace("\0", "").splitlines(keepends=True)) == Counter(
            SENTENCES
        )

    def test_files_are_in_one_part_only(self, library):
        source = build("stdlib", val_fraction=0.3)
        train, val = (
            set(text_of(part).split(b"\0")) - {b""} for part in (source.train, source.val)
        )
        assert train and val and not train & val
        assert len(train) + len(val) == 40

    def test_split_of_a_file_does_not_depend_on_the_others(self, library):
        before = text_of(build("stdlib", val_fraction=0.3).val)
        (library / "new_module.py").write_text("new\n")
        after = text_of(build("stdlib", val_fraction=0.3).val)
        before, after = ({*text.split(b"\0")} for text in (before, after))
        assert before <= after <= before | {b"new\n"}

    def test_batches_are_windows_of_the_text(self, library):
        source = build("stdlib")
        text = text_of(source.train)
        batch = source.train_batch(0, 0)
        assert batch.tokens.shape == batch.targets.shape == (4, T)
        assert {part.dtype for part in batch[:3]} == {torch.int64}
        assert batch.tokens.is_contiguous() and batch.targets.is_contiguous()
        for row, target in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            assert row[1:] == target[:-1]
            assert bytes([*row, target[-1]]) in text

    def test_pure_in_seed_and_step(self, library):
        one, two = build("stdlib"), build("stdlib")
        assert torch.equal(one.train_batch(1, 2).tokens, two.train_batch(1, 2).tokens)
        for seed, step in ((1, 3), (2, 2), (2, 1)):
            assert not torch.equal(one.train_batch(1, 2).tokens, one.train_batch(seed, step).tokens)

    def test_fingerprint_follows_contents_version_and_options(self, library, monkeypatch):
        prints = [build("stdlib").fingerprint]
        assert build("stdlib", rows=8).fingerprint == prints[0]
        for options in ({"val_fraction": 0.2}, {"max_mb": 0.02}, {"n_val": 3}, {"seq_len": 8}):
            prints.append(build("stdlib", **options).fingerprint)
        prints.append(build("stdlib", tokenizer="bpe", n_bpe=300).fingerprint)
        prints.append(build("stdlib", tokenizer="bpe", n_bpe=301).fingerprint)
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
        prints.append(build("stdlib").fingerprint)
        file = library / "module_0.py"
        file.write_bytes(b"X" + file.read_bytes()[1:])
        prints.append(build("stdlib").fingerprint)
        assert len(set(prints)) == len(prints)

    def test_fingerprint_does_not_depend_on_time_or_cache(self, library, monkeypatch, tmp_path):
        before = build("stdlib").fingerprint
        os.utime(library / "module_0.py", ns=(1, 1))
        assert build("stdlib").fingerprint == before
        monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "elsewhere"))
        assert build("stdlib").fingerprint == before

    def test_cap_takes_less_of_both_parts(self, library):
        whole, part = (
            build("stdlib", val_fraction=0.3),
            build("stdlib", val_fraction=0.3, max_mb=0.01),
        )
        for all_of, some in ((whole.train, part.train), (whole.val, part.val)):
            documents = set(text_of(some).split(b"\0"))
            assert documents <= set(text_of(all_of).split(b"\0"))
            assert 0 < len(some) < len(all_of)
        assert len(part.train) + len(part.val) <= 10_000 + 40  # one end per document

    def test_cap_that_leaves_nothing_is_refused(self, library):
        with pytest.raises(DataError, match="larger max_mb"):
            build("stdlib", max_mb=1e-4)

    def test_library_without_sources_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"no \*\.py file under"):
            stdlib_files(tmp_path)

    def test_real_library_is_found(self):
        files = stdlib_files(Path(sysconfig.get_paths()["stdlib"]))
        names = {file.name for file in files}
        assert {"argparse.py", "topics.py"} <= names
        assert not any("site-packages" in file.parts for file in files)


class TestReference:
    def test_entropy_against_a_direct_computation(self, library):
        source = build("stdlib")
        train, val = source.train.ids.tolist(), source.val.ids.tolist()
        counts = Counter(train)
        loss = [-math.log((counts[token] + 1) / (len(train) + 256)) for token in val]
        assert source.reference["loss"] == pytest.approx(sum(loss) / len(val), rel=1e-12)

    def test_entropy_of_two_equal_ids_is_log_two(self):
        counts = np.array([10**9, 10**9])
        assert unigram_entropy(counts, counts) == pytest.approx(math.log(2))

    def test_long_files_are_counted_in_parts(self):
        ids = np.arange((1 << 22) + 5, dtype=np.int64) % 7
        assert count_ids(ids, 9).tolist() == np.bincount(ids, minlength=9).tolist()

    def test_bytes_per_token(self, library):
        assert build("stdlib").bytes_per_token == 1.0
        source = build("stdlib", tokenizer="bpe", n_bpe=300)
        size = len(text_of(build("stdlib").val))
        assert source.bytes_per_token == size / len(source.val) > 1.0


class TestTokenizers:
    @given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4))
    def test_bytes_round_trip(self, texts):
        documents = [text.encode() for text in texts]
        ids = Bytes().encode(documents)
        assert ids.dtype == np.uint8
        assert Bytes().decode(ids.tolist()).split(b"\0")[:-1] == documents

    def test_bpe_round_trip(self, tmp_path):
        documents = ["".join(SENTENCES).encode()]
        train_bpe(documents, 300, tmp_path / "tokenizer.json")
        tokenizer = BPE(tmp_path / "tokenizer.json")
        assert tokenizer.vocab == 300
        unseen = ["\u4f60\u597d  <|end|>\n\tdef f(x):", "", " leading space \u00e9"]
        ids = tokenizer.encode([*documents, *(text.encode() for text in unseen)])
        assert ids.dtype == np.uint16 and ids.max() < 300
        assert (ids == 0).sum() == 4  # nothing but the end of a document is id 0
        assert tokenizer.decode(ids.tolist()).decode().split("\0") == [
            "".join(SENTENCES),
            *unseen,
            "",
        ]

    def test_bpe_is_trained_on_the_training_part(self, tmp_path):
        (tmp_path / "train.txt").write_text("ab cd " * 2000)
        (tmp_path / "val.txt").write_text("xy zz " * 2000)
        options = {"paths": [f"{tmp_path}/train.txt"], "val_paths": [f"{tmp_path}/val.txt"]}
        source = build("files", tokenizer="bpe", n_bpe=400, **options)
        assert len(source.train) < 5000 and len(source.val) == 12_001

    @pytest.mark.slow
    def test_large_documents_are_encoded_in_pieces(self, tmp_path):
        text = ("some words and a number 12345\n" * 80_000).encode()  # 2.4 MB: three pieces
        train_bpe([text[:3000]], 300, tmp_path / "tokenizer.json")
        tokenizer = BPE(tmp_path / "tokenizer.json")
        assert tokenizer.decode(tokenizer.encode([text]).tolist()) == text + b"\0"


class TestSplit:
    def test_one_document_is_cut_at_its_tail(self):
        text = ("\u00e9" * 1000).encode()
        split = split_documents([text], ["a"], 0.1005)
        (train,), (val,) = split
        assert train + val == text and abs(len(val) - 201) <= 1
        assert train.decode() and val.decode()  # no character is cut in two

    def test_two_documents_give_one_each(self):
        for marks in (["a", "b"], ["b", "a"], ["c", "d"]):
            split = split_documents([b"first", b"second"], marks, 0.01)
            assert sorted([*split.train, *split.val]) == [b"first", b"second"]
            assert len(split.val) == 1

    def test_equal_documents_stay_together(self):
        texts = [b"%d" % (n % 50) for n in range(500)]
        split = split_documents(texts, [text.decode() for text in texts], 0.2)
        assert not set(split.train) & set(split.val)

    def test_share_is_about_the_fraction(self):
        texts = [b"%06d" % n for n in range(4000)]
        split = split_documents(texts, [text.decode() for text in texts], 0.1)
        assert 300 < len(split.val) < 500

    def test_one_long_document_does_not_fill_validation(self):
        texts = [b"x" * 1000, *(b"%06d" % n for n in range(200))]
        for salt in range(30):
            split = split_documents(texts, [f"{salt} {n}" for n in range(201)], 0.2)
            assert texts[0] in split.train


FOUR_BUILDERS = """
import os
from multiprocessing import get_context
from hymba_lab.data.source import datasets

def build(start):
    spec = datasets.spec("files", rows=2, paths=["a.txt"], tokenizer="bpe", n_bpe=400)
    start.wait()
    source = datasets.build(spec, 16)
    facts = f"{source.fingerprint} {source.vocab} {source.train.ids.sum()}\\n"
    os.write(1, facts.encode())  # one line in one piece, which print does not promise

forks = get_context("fork")
start = forks.Barrier(4)
workers = [forks.Process(target=build, args=(start,)) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert [worker.exitcode for worker in workers] == [0] * 4
"""


class TestCache:
    def recipe(self, root: Path, calls: list[int] | None = None) -> Corpus:
        file = root / "a.txt"
        if not file.exists():
            file.write_text("".join(SENTENCES), "utf-8")

        def read() -> Split:
            (calls if calls is not None else []).append(1)
            text = file.read_bytes()
            return Split([text[:5000]], [text[5000:]])

        return load("test", [file], read, encoding="bytes", n_bpe=300, options={})

    def test_second_time_reads_nothing(self, tmp_path):
        calls: list[int] = []
        first, second = self.recipe(tmp_path, calls), self.recipe(tmp_path, calls)
        assert first == second and calls == [1]
        assert isinstance(second.stream("test", T, rows=1, n_val=1).train.ids.base, np.memmap)

    def test_an_edit_is_seen(self, tmp_path):
        first = self.recipe(tmp_path)
        (tmp_path / "a.txt").write_text("Y" * 6000)
        assert self.recipe(tmp_path).fingerprint != first.fingerprint

    @pytest.mark.parametrize("damage", ["tokens.npy", "facts.json", "missing", "index"])
    def test_damage_is_repaired(self, tmp_path, damage):
        first = self.recipe(tmp_path)
        if damage == "index":
            (index,) = (cache.cache_folder() / "index").iterdir()
            index.write_text("{")
        elif damage == "missing":
            cache.discard(first.home)
        else:
            (first.home / damage).write_bytes((first.home / damage).read_bytes()[:-9])
        again = self.recipe(tmp_path)
        assert again == first
        assert len(TokenFile(again.home / "tokens.npy")) == again.n_train + again.n_val

    def test_folder_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache.cache_folder() == tmp_path / "cache"
        monkeypatch.delenv("HYMBA_LAB_CACHE")
        assert cache.cache_folder() == tmp_path / "xdg" / "hymba_lab"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache.cache_folder() == Path.home() / ".cache" / "hymba_lab"

    def test_folder_that_cannot_be_written_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "plain_file").write_text("")
        monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "plain_file"))
        with pytest.raises(DataError, match=r"plain_file.*set HYMBA_LAB_CACHE"):
            self.recipe(tmp_path)

    def test_token_file_pickles_by_name(self, tmp_path):
        self.recipe(tmp_path)
        source = build("files", paths=[str(tmp_path / "a.txt")])
        frozen = pickle.dumps(source)
        assert len(frozen) < 3000 < len(source.train)
        assert torch.equal(
            pickle.loads(frozen).train_batch(0, 0).tokens, source.train_batch(0, 0).tokens
        )

    def test_an_entry_is_whole_or_absent(self):
        home = cache.cache_folder() / "corpora" / "entry"

        def write(draft: Path) -> None:
            (draft / "one").write_text("1")
            assert not home.exists()

        assert cache.keep("entry", write) == home
        assert [path.name for path in home.iterdir()] == ["one"]

    def test_the_first_of_two_writers_wins_whole(self):
        def slow(draft: Path) -> None:
            (draft / "tokens").write_text("slow")
            cache.keep("entry", lambda other: (other / "facts").write_text("fast") and None)

        home = cache.keep("entry", slow)
        assert [path.name for path in home.iterdir()] == ["facts"]
        assert [path.name for path in home.parent.iterdir()] == ["entry"]

    def test_a_full_disk_leaves_nothing(self):
        def write(draft: Path) -> None:
            (draft / "one").write_text("1")
            raise OSError(28, "No space left on device")

        with pytest.raises(DataError, match="No space left on device; free some space"):
            cache.keep("entry", write)
        assert list((cache.cache_folder() / "corpora").iterdir()) == []

    @pytest.mark.slow
    def test_four_processes_end_with_one_corpus(self, tmp_path):
        (tmp_path / "a.txt").write_text("".join(SENTENCES * 20), "utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        result = subprocess.run(
            [sys.executable, "-c", FOUR_BUILDERS],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert len(lines) == 4 and len(set(lines)) == 1
        folders = [path.name for path in (tmp_path / "cache" / "corpora").iterdir()]
        assert len(folders) == 1 and not folders[0].startswith("draft-")
        assert len(list((tmp_path / "cache" / "index").iterdir())) == 1


class TestFiles:
    @pytest.fixture(autouse=True)
    def data(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = [{"text": sentence, "body": sentence.upper()} for sentence in SENTENCES]
        for number in range(4):
            Path(f"part_{number}.txt").write_text("".join(SENTENCES[number::4]), "utf-8")
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
        table = pa.table({"text": [*SENTENCES, None], "body": [*(r["body"] for r in rows), None]})
        pq.write_table(table, "rows.parquet")
        pq.write_table(pa.table({"text": table["text"].dictionary_encode()}), "categories.parquet")

    @pytest.mark.parametrize(
        "path", ["part_*.txt", "rows.jsonl", "rows.parquet", "categories.parquet"]
    )
    def test_every_kind_holds_the_same_text(self, path):
        source = build("files", paths=[path])
        lines = (text_of(source.train) + text_of(source.val)).replace(b"\0", b"").decode()
        assert Counter(lines.splitlines(keepends=True)) == Counter(SENTENCES)

    @pytest.mark.parametrize("options", [{"field": "body"}, {"column": "body"}])
    def test_another_field_or_column(self, options):
        path = "rows.jsonl" if "field" in options else "rows.parquet"
        assert b"QUICK" in text_of(build("files", paths=[path], **options).train)

    def test_val_paths_decide(self):
        source = build("files", paths=["part_[012].txt"], val_paths=["part_3.txt"])
        assert text_of(source.val) == Path("part_3.txt").read_bytes() + b"\0"
        assert text_of(source.train).count(b"\0") == 3

    def test_two_files_are_split_by_file(self):
        source = build("files", paths=["part_0.txt", "part_1.txt"])
        parts = {text_of(source.train)[:-1], text_of(source.val)[:-1]}
        assert parts == {Path(f"part_{n}.txt").read_bytes() for n in (0, 1)}

    def test_one_file_gives_its_tail(self):
        source = build("files", paths=["part_0.txt"], val_fraction=0.25)
        text = Path("part_0.txt").read_bytes()
        assert text.endswith(text_of(source.val)[:-1])
        assert len(source.val) == pytest.approx(0.25 * len(text), abs=4)

    def test_a_file_named_twice_counts_once(self):
        once, twice = build("files", paths=["part_0.txt"]), build("files", paths=["part_0.txt"] * 2)
        assert len(once.train) == len(twice.train)

    def test_fingerprint_follows_the_contents_not_the_place(self, tmp_path):
        before = build("files", paths=["part_0.txt"]).fingerprint
        Path("moved.txt").write_bytes(Path("part_0.txt").read_bytes())
        assert build("files", paths=["moved.txt"]).fingerprint == before
        assert build("files", paths=[str(tmp_path / "part_0.txt")]).fingerprint == before
        assert build("files", paths=["part_1.txt"]).fingerprint != before


def _write(name: str, content: bytes = b"") -> None:
    Path(name).write_bytes(content)


def _deny(monkeypatch: pytest.MonkeyPatch, method: str, name: str) -> None:
    real = getattr(Path, method)

    def refuse(self: Path, *args: object, **options: object) -> object:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, method, refuse)


GOOD = "".join(SENTENCES).encode()
BAD_INPUTS = {  # name: (files, options, what the message must say)
    "missing": ({}, {"paths": ["no.txt"]}, ["paths[0]", "'no.txt'", "does not exist"]),
    "glob": ({}, {"paths": ["*.txt"]}, ["'*.txt'", "matches no file"]),
    "second": ({"a.txt": GOOD}, {"paths": ["a.txt", "b.txt"]}, ["paths[1]", "b.txt"]),
    "folder": ({}, {"paths": ["."]}, ["is a folder", "*.txt"]),
    "unreadable": ({"deny.txt": GOOD}, {"paths": ["deny.txt"]}, ["deny.txt", "Permission denied"]),
    "unreadable_parquet": (
        {"deny.parquet": GOOD},
        {"paths": ["deny.parquet"]},
        ["deny.parquet", "Permission denied"],
    ),
    "not_utf8": (
        {"a.txt": GOOD + b"caf\xe9 "},
        {"paths": ["a.txt"]},
        ["a.txt", "not UTF-8", f"0xe9 at offset {len(GOOD) + 3}"],
    ),
    "jsonl_not_utf8": (
        {"a.jsonl": b'{"text": "\xff"}'},
        {"paths": ["a.jsonl"]},
        ["a.jsonl", "offset 10"],
    ),
    "not_json": (
        {"a.jsonl": b'{"text": ""}\n\n{"te'},
        {"paths": ["a.jsonl"]},
        ["a.jsonl:3", "not JSON"],
    ),
    "not_object": ({"a.jsonl": b"[1]"}, {"paths": ["a.jsonl"]}, ["a.jsonl:1", "list"]),
    "no_field": (
        {"a.jsonl": b'{"text": ""}\n{"body": "", "id": 1}'},
        {"paths": ["a.jsonl"]},
        ["a.jsonl:2", "'text'", "'body', 'id'"],
    ),
    "not_string": ({"a.jsonl": b'{"text": 5}'}, {"paths": ["a.jsonl"]}, ["a.jsonl:1", "is int"]),
    "no_column": ({}, {"paths": ["ok.parquet"]}, ["ok.parquet", "'text'", "'words', 'id'"]),
    "column_of_numbers": ({}, {"paths": ["ok.parquet"], "column": "id"}, ["'id' is int64"]),
    "parquet": (
        {"a.parquet": b"PAR1 no"},
        {"paths": ["a.parquet"]},
        ["a.parquet", "not a readable"],
    ),
    "empty_parquet": (
        {"a.parquet": b""},
        {"paths": ["a.parquet"]},
        ["a.parquet", "not a readable"],
    ),
    "empty": ({"a.txt": b""}, {"paths": ["a.txt"]}, ["no text", "no empty files"]),
    "empty_jsonl": ({"a.jsonl": b"\n\n"}, {"paths": ["a.jsonl"]}, ["no text"]),
    "empty_val": (
        {"a.txt": GOOD, "b.txt": b""},
        {"paths": ["a.txt"], "val_paths": ["b.txt"]},
        ["no text for the validation part"],
    ),
    "short": ({"a.txt": b"0123456789"}, {"paths": ["a.txt"]}, ["one window takes 17", "seq_len"]),
    "short_val": (
        {"a.txt": GOOD, "b.txt": b"tiny"},
        {"paths": ["a.txt"], "val_paths": ["b.txt"]},
        ["validation part has 5 tokens"],
    ),
    "suffix": ({"a.csv": GOOD}, {"paths": ["a.csv"]}, ["a.csv", "'.csv'", ".parquet"]),
    "in_both": ({"a.txt": GOOD}, {"paths": ["a.txt"], "val_paths": ["./a.txt"]}, ["val_paths"]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gets_one_clear_message(case, tmp_path, monkeypatch):
    contents, options, words = BAD_INPUTS[case]
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"words": SENTENCES, "id": list(range(400))}), "ok.parquet")
    for name, content in contents.items():
        _write(name, content)
    _deny(monkeypatch, "read_bytes", "deny.txt")
    _deny(monkeypatch, "open", "deny.parquet")
    with pytest.raises(DataError) as caught:
        build("files", **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


class TestShards:
    @pytest.fixture(autouse=True)
    def data(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        ids = np.arange(1000, dtype=np.uint16) % 300
        np.save("train.npy", ids)
        ids.astype("<u2").tofile("train.bin")
        np.save("val.npy", ids[:100])

    @pytest.mark.parametrize("train", ["train.npy", "train.bin"])
    def test_tokens_are_read_in_place(self, train):
        source = build("shards", train=train, val="val.npy", vocab=300, bytes_per_token=3.5)
        assert TestShardFiles.all_of(source.train).tolist() == (np.arange(1000) % 300).tolist()
        batch = source.train_batch(0, 0)
        assert ((batch.targets - batch.tokens) % 300 == 1).all()
        assert (source.bytes_per_token, source.vocab) == (3.5, 300)
        assert source.reference["loss"] == pytest.approx(math.log(1300) - math.log(5), rel=1e-12)

    def test_every_training_window_can_be_drawn(self):
        np.save("train.npy", np.arange(40))  # an id is its place
        source = build("shards", rows=2000, train="train.npy", val="val.npy", vocab=300)
        starts = source.train_batch(0, 0).tokens[:, 0].unique()
        assert starts.tolist() == list(range(40 - T))

    def test_validation_windows_are_fixed_spread_and_disjoint(self):
        np.save("val.npy", np.arange(100))  # an id is its place
        options = {"train": "train.npy", "val": "val.npy", "vocab": 300}
        source = build("shards", n_val=10**6, rows=4, **options)
        first, again = (torch.cat([b.tokens for b in source.val_batches()]) for _ in range(2))
        assert torch.equal(first, again)
        assert len(first) == 99 // T
        assert len(first.unique()) == first.numel()  # no token is scored twice
        assert (first[0, 0], first[-1, -1]) == (0, 98)
        few = torch.cat([b.tokens for b in build("shards", n_val=3, **options).val_batches()])
        assert few[:, 0].tolist() == [0, 41, 83]

    def test_fingerprint_follows_the_contents(self):
        options = {"val": "val.npy", "vocab": 300}
        prints = {
            build("shards", train=f"train.{kind}", **options).fingerprint for kind in ("npy", "bin")
        }
        assert len(prints) == 1
        np.save("train.npy", np.zeros(1000, dtype=np.uint16))
        assert build("shards", train="train.npy", **options).fingerprint not in prints

    def test_the_same_files_cut_elsewhere_are_other_data(self):
        np.save("middle.npy", np.full(200, 7, dtype=np.uint16))
        first = build("shards", train=["train.npy", "middle.npy"], val="val.npy", vocab=300)
        other = build("shards", train="train.npy", val=["middle.npy", "val.npy"], vocab=300)
        assert first.fingerprint != other.fingerprint
        assert first.reference != other.reference

    @pytest.mark.parametrize("train", ["val.npy", "*.npy"])
    def test_a_file_to_train_on_is_not_validated_on(self, train):
        with pytest.raises(DataError, match=r"val\.npy is in train and in val; take it out of one"):
            build("shards", train=train, val="val.npy", vocab=300)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array([5] * 99 + [300]), "ids from 5 to 300, vocab 300 allows 0 to 299"),
            (np.array([-1] * 100), "ids from -1"),
            (np.zeros((10, 10), dtype=np.int64), r"shape \(10, 10\)"),
            (np.zeros(100), "float64"),
            (np.zeros(0, dtype=np.int64), "holds no tokens|not a readable"),
            (np.zeros(T, dtype=np.int64), "one window takes 17"),
        ],
    )
    def test_bad_arrays_are_refused(self, array, message):
        np.save("bad.npy", array)
        with pytest.raises(DataError, match=message):
            build("shards", train="bad.npy", val="val.npy", vocab=300)

    @pytest.mark.parametrize("name", ["odd.bin", "empty.bin", "odd.npy"])
    def test_bad_files_are_refused(self, name):
        _write(name, b"" if name.startswith("empty") else b"abc")
        with pytest.raises(DataError, match=f"{name}: not a readable token file"):
            build("shards", train=name, val="val.npy", vocab=300)


class TestShardFiles:
    """Globs and formats of `shards`."""

    @pytest.fixture(autouse=True)
    def data(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.ids = np.arange(3000, dtype=np.uint16) % 300
        for number in range(3):
            self.ids[number * 1000 : number * 1000 + 1000].astype("<u2").tofile(f"tr_{number}.bin")
        np.save("val.npy", self.ids[:200])

    def build(self, **options):
        return build("shards", **{"val": "val.npy", "vocab": 300, **options})

    @staticmethod
    def all_of(tokens):
        return tokens.windows(np.array([0]), len(tokens))[0]

    @pytest.mark.parametrize(
        "train", ["tr_*.bin", ["tr_0.bin", "tr_1.bin", "tr_2.bin"], ["tr_0.bin", "tr_[12].bin"]]
    )
    def test_a_glob_is_all_of_its_files(self, train):
        source = self.build(train=train, rows=3000)
        assert self.all_of(source.train).tolist() == self.ids.tolist()
        batch = source.train_batch(0, 0)
        assert ((batch.targets - batch.tokens) % 300 == 1).all()  # windows reach over files
        self.ids.astype("<u2").tofile("whole.bin")
        whole = self.build(train="whole.bin", rows=3000)
        assert source.fingerprint == whole.fingerprint  # cuts into files are not the data
        assert torch.equal(whole.train_batch(3, 4).tokens, source.train_batch(3, 4).tokens)
        assert source.reference == whole.reference

    def test_every_file_counts(self):
        one, all_of = self.build(train="tr_0.bin"), self.build(train="tr_*.bin")
        assert (len(one.train), len(all_of.train)) == (1000, 3000)
        np.full(1000, 300, "<u2").tofile("tr_1.bin")
        with pytest.raises(DataError, match=r"tr_1\.bin: ids from 300 to 300, vocab 300"):
            self.build(train="tr_*.bin")

    def test_a_chain_pickles_and_keeps_few_files_open(self, monkeypatch):
        monkeypatch.setattr("hymba_lab.data.chain.MOST_OPEN", 2)
        source = self.build(train="tr_*.bin")
        again = pickle.loads(pickle.dumps(source))
        assert torch.equal(again.train_batch(0, 0).tokens, source.train_batch(0, 0).tokens)
        for start in (0, 1500, 2500, 100, 1990, 2600):
            assert source.train.windows(np.array([start]), 30)[0].tolist() == (
                self.ids[start : start + 30].tolist()
            )
            assert len(source.train._open) <= 2

    def test_a_file_cut_in_use_is_an_error_and_no_crash(self):
        source = self.build(train="tr_*.bin", rows=500)
        with open("tr_1.bin", "r+b") as file:
            file.truncate(100)
        with pytest.raises(DataError, match=r"tr_1\.bin: became shorter"):
            source.train_batch(0, 0)

    def test_an_id_that_came_in_use_is_an_error(self):
        source = self.build(train="tr_*.bin", rows=500)
        with open("tr_1.bin", "r+b") as file:
            file.write(np.full(1000, 301, "<u2").tobytes())
        with pytest.raises(DataError, match=r"ids from \d+ to 301"):
            source.train_batch(0, 0)

    def llm_c(self, name, magic=20240520, version=1, dtype="<u2", n=None):
        header = np.zeros(256, "<i4")
        header[:3] = magic, version, len(self.ids) if n is None else n
        Path(name).write_bytes(header.tobytes() + self.ids.astype(dtype).tobytes())

    @pytest.mark.parametrize(
        ("name", "made", "given"),
        [
            ("x.npy", lambda self: np.save("x.npy", self.ids.astype(">i8")), None),
            ("x.bin", lambda self: self.ids.astype("<u2").tofile("x.bin"), "uint16"),
            ("x.bin", lambda self: self.ids.astype("<u4").tofile("x.bin"), "uint32"),
            ("x.bin", lambda self: self.llm_c("x.bin"), "llm.c"),
            ("x.bin", lambda self: self.llm_c("x.bin", 20240801, 7, "<u4"), "llm.c"),
        ],
    )
    def test_every_format_gives_the_ids(self, name, made, given):
        made(self)
        self.ids[:200].astype("<u2").tofile("val.bin")
        if given != "uint16":
            np.save("val.npy", self.ids[:200])
        if given in ("uint32", "llm.c"):
            Path("val.bin").write_bytes(Path(name).read_bytes())
        val = "val.bin" if given else "val.npy"
        source = self.build(train=name, val=val, format=given)
        assert self.all_of(source.train).tolist() == self.ids.tolist()

    @pytest.mark.parametrize(
        ("made", "given", "message"),
        [
            (lambda self: self.ids.astype("<u4").tofile("x.bin"), None, "set format: uint32"),
            (lambda self: self.llm_c("x.bin"), None, "header of llm.c, not plain uint16"),
            (lambda self: self.llm_c("x.bin"), "uint16", "header of llm.c, not uint16"),
            (lambda self: self.llm_c("x.bin", n=7), "llm.c", "header of llm.c says 7 tokens"),
            (lambda self: self.ids.astype("<u2").tofile("x.bin"), "llm.c", "no header of llm.c"),
            (lambda self: self.ids.astype("<u2").tofile("x.bin"), "uint32", "set vocab, or format"),
            (lambda self: self.ids[:99].astype("<u2").tofile("x.bin"), "uint32", "no whole number"),
        ],
    )
    def test_a_wrong_guess_is_refused(self, made, given, message):
        made(self)
        shutil.copy("x.bin", "v.bin")
        with pytest.raises(DataError, match=message):
            self.build(train="x.bin", val="v.bin", format=given)

    def test_wide_ids_are_not_guessed_to_be_narrow(self):
        """A file of uint32 with ids beyond 65,535 looks like one of uint16, half by half."""
        wide = np.random.default_rng(0).integers(0, 128_000, 4000)
        wide.astype("<u4").tofile("x.bin")
        shutil.copy("x.bin", "v.bin")
        options = {"train": "x.bin", "val": "v.bin", "vocab": 128_256}
        with pytest.raises(DataError, match=r"vocab 128,256 has ids beyond 65,535; set format"):
            self.build(**options)
        source = self.build(**options, format="uint32")
        assert self.all_of(source.train).tolist() == wide.tolist()
        assert len(self.build(**options, format="uint16").train) == 8000, "as it was told"

    def test_npy_with_a_format_that_is_another(self):
        with pytest.raises(DataError, match=r"val\.npy: an \.npy file of uint16, not uint32"):
            self.build(train="val.npy", format="uint32")

    def test_two_projects_of_equal_names_sizes_and_times(self, tmp_path, monkeypatch):
        prints = []
        for project in "ab":
            (tmp_path / project).mkdir()
            monkeypatch.chdir(tmp_path / project)
            Path("t.txt").write_text(project * 5000)
            os.utime("t.txt", ns=(0, 0))
            self.ids[:: -1 if project == "a" else 1].astype("<u2").tofile("t.bin")
            self.ids[:100].tofile("v.bin")
            for name in ("t.bin", "v.bin"):
                os.utime(name, ns=(0, 0))
            prints.append(build("files", paths=["t.txt"]).fingerprint)
            prints.append(build("shards", train="t.bin", val="v.bin", vocab=300).fingerprint)
        assert len(set(prints)) == 4

    def test_one_file_edited_to_equal_size_and_time(self):
        first = self.build(train="tr_0.bin")
        self.ids[::-1][:1000].astype("<u2").tofile("tr_0.bin")
        stat = os.stat("tr_1.bin")
        os.utime("tr_0.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert self.build(train="tr_0.bin").fingerprint != first.fingerprint


class TestAsFound:
    """Folders as they are found: links to nothing, pipes, pointers, odd tables."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("good.txt").write_text("".join(SENTENCES))

    def refused(self, pattern: str, message: str, **options):
        with pytest.raises(DataError, match=message):
            build("files", paths=[pattern], **options)

    def test_links_to_nothing(self):
        Path("gone.txt").symlink_to("annex/objects/x")
        for pattern in ("gone.txt", "*.txt"):
            self.refused(pattern, r"gone\.txt is a link to annex/objects/x, which is not there")

    def test_a_link_to_itself(self):
        Path("loop.txt").symlink_to("loop.txt")
        self.refused("loop.txt", r"loop\.txt: cannot be read")

    def test_pipes(self):
        os.mkfifo("pipe.txt")
        self.refused("*.txt", "no regular file")
        os.mkfifo("pipe.bin")
        with pytest.raises(DataError, match="no regular file"):
            build("shards", train="pipe.bin", val="pipe.bin", vocab=9)

    @pytest.mark.parametrize(
        "content",
        ["version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "/annex/objects/X"],
    )
    def test_pointers_of_git(self, content):
        Path("big.txt").write_text(content)
        self.refused("big.txt", "a pointer in place of the file; fetch it first: git")

    def test_a_doubled_column(self):
        table = pa.table([pa.array(["a", "b"]), pa.array(["c", "d"])], names=["text", "text"])
        pq.write_table(table, "two.parquet")
        self.refused("two.parquet", "2 columns are named 'text'")

    def test_a_column_that_is_not_utf8(self):
        broken = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], "<i4")), pa.py_buffer(b"\xff")]
        )
        pq.write_table(pa.table({"text": broken}), "broken.parquet")
        self.refused("broken.parquet", "bytes that are not UTF-8")

    def test_json_that_is_deep(self):
        Path("deep.jsonl").write_text("[" * 100_000)
        self.refused("deep.jsonl", r"deep\.jsonl:1: not JSON")

    def test_nul_ends_no_document_among_bytes(self):
        Path("nul.txt").write_text("a\0b" * 500)
        self.refused("nul.txt", "document 1 of 1 holds a NUL")
        source = build("files", paths=["nul.txt"], tokenizer="bpe", n_bpe=300)
        assert source.vocab <= 300
