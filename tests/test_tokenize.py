"""Text to shards: every document once and whole, equal bytes however it was made."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hymba_lab.commands.tokenize import load_tokenize_config, main
from hymba_lab.data.index import INDEX, read_index, tokenizer_of, verify
from hymba_lab.data.prepare.documents import documents
from hymba_lab.data.prepare.inputs import Piece, cut
from hymba_lab.data.prepare.marks import copies
from hymba_lab.data.prepare.run import tokenize
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.data.prepare.tokenizer import _sample
from hymba_lab.data.shard_file import HEADER_BYTES, read_header, read_lengths
from hymba_lab.errors import ConfigError, DataError

TEXTS = [
    f"document {n}: {'the quick brown fox ' * (n % 7)}jumps\nover {n * n} lazy dogs \u00e9\u4f60\n"
    for n in range(200)
]
ODD = ["", "<|endoftext|> spelled out", "a\0b", "\ufeffmark", "x" * 3000]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))


def jsonl(file: Path, texts, opener=open) -> Path:
    with opener(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"id": 1, "text": text}) + "\n" for text in texts)
    return file


def zst(file: Path, texts) -> Path:
    content = jsonl(file.with_suffix(""), texts).read_bytes()
    file.with_suffix("").unlink()
    with pa.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write(content)
    return file


def parquet(file: Path, texts, rows=16) -> Path:
    pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), file, row_group_size=rows)
    return file


def config(tmp_path: Path, *paths: object, **options: object) -> TokenizeConfig:
    given = {"tokenizer": {"n_bpe": 400, "sample_mb": 0.05}, "val_fraction": 0.1, **options}
    return TokenizeConfig(
        **{"name": "test", "out": str(tmp_path / "out"), "paths": [str(p) for p in paths], **given}
    )


def quiet(*_: object) -> None:
    pass


def make(config: TokenizeConfig, workers: int = 1):
    return tokenize(config, workers=workers, report=quiet)


def texts_of(folder: Path, part: str) -> list[str]:
    """Decode a part with nothing but the layout in the docstring and the tokenizer."""
    facts = json.loads((folder / "index.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = []
    for shard in facts["shards"]:
        if shard["part"] != part:
            continue
        content = (folder / shard["file"]).read_bytes()[4096:]
        width = 2 if facts["dtype"] == "uint16" else 4
        ids = np.frombuffer(content[: shard["n_tokens"] * width], f"<u{width}")
        lengths = np.frombuffer(content[shard["n_tokens"] * width :], "<u4")
        ends = np.flatnonzero(ids == facts["end_of_text"])
        assert (ends + 1).tolist() == lengths.cumsum().tolist()
        edges = [0, *(ends + 1).tolist()]
        texts += [
            tokenizer.decode(ids[a : b - 1].tolist(), skip_special_tokens=False)
            for a, b in itertools.pairwise(edges)
        ]
    return texts


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["jsonl", "gz", "zst", "parquet", "txt", "separator", "mixed"])
def test_every_document_once_and_whole(tmp_path, kind):
    texts = TEXTS + (ODD if kind not in ("txt", "separator") else ["a\0b"])
    source = tmp_path / "in"
    source.mkdir()
    more: dict[str, object] = {}
    if kind == "jsonl":
        jsonl(source / "a.jsonl", texts)
    elif kind == "gz":
        jsonl(source / "a.jsonl.gz", texts, gzip.open)
    elif kind == "zst":
        zst(source / "a.jsonl.zst", texts)
    elif kind == "parquet":
        parquet(source / "a.parquet", texts)
    elif kind == "txt":
        for number, text in enumerate(texts):
            (source / f"{number % 9}").mkdir(exist_ok=True)
            (source / f"{number % 9}" / f"{number}.txt").write_text(text)
    elif kind == "separator":
        (source / "all.txt").write_text("<|doc|>".join(texts))
        more = {"separator": "<|doc|>"}
    else:
        jsonl(source / "a.jsonl", texts[:50])
        parquet(source / "b.parquet", texts[50:150])
        zst(source / "c.jsonl.zst", texts[150:])
    index = make(config(tmp_path, source, unit_mb=0.004, **more))
    made = [texts_of(tmp_path / "out", part) for part in ("train", "val")]
    assert Counter(made[0] + made[1]) == Counter(texts)
    assert not set(made[0]) & set(made[1])
    assert 0.02 < len(made[1]) / len(texts) < 0.3
    n_bytes = sum(len(text.encode()) for text in made[1])
    assert index.total("val", "n_bytes") == n_bytes
    assert index.bytes_per_token("val") == (n_bytes + len(made[1])) / index.total("val", "n_tokens")
    verify(index.shards, index.folder)


def test_order_is_that_of_the_text_and_units_change_nothing_but_files(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", TEXTS)
    made = []
    for number, unit_mb in enumerate((1.0, 0.003, 0.0007)):
        folder = tmp_path / f"out{number}"
        index = make(config(tmp_path, source, out=str(folder), unit_mb=unit_mb))
        assert len([s for s in index.shards if s.part == "train"]) == len(
            cut(config(tmp_path, source, unit_mb=unit_mb))
        )
        made.append(texts_of(folder, "train"))
    assert made[0] == [text for text in TEXTS if text in set(made[0])]
    assert made[0] == made[1] == made[2]


@pytest.mark.slow
def test_shards_end_at_their_size(tmp_path):
    index = make(
        config(tmp_path, parquet(tmp_path / "a.parquet", TEXTS * 200), shard_tokens=200_000)
    )
    train = [s for s in index.shards if s.part == "train"]
    assert len(train) > 3 and max(s.header.n_tokens for s in train) < 200_000 + (1 << 20)
    assert Counter(texts_of(tmp_path / "out", "train"))[TEXTS[0]] in (0, 200)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=20),
    st.lists(st.floats(0, 1), max_size=6),
    st.booleans(),
)
def test_any_cut_of_a_jsonl_reads_every_line_once(tmp_path_factory, texts, cuts, blank):
    file = tmp_path_factory.mktemp("cut") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    file.write_text(("\n" if blank else "").join(lines).rstrip("\n"), "utf-8")
    size = file.stat().st_size
    edges = sorted({0, size, *(int(part * size) for part in cuts)})
    options = config(file.parent, file)
    read = [
        text
        for start, stop in itertools.pairwise(edges)
        for text in documents(Piece(str(file), start, stop, 0), options)
    ]
    assert read == texts


@pytest.mark.slow
def test_workers_and_repetition_change_no_byte(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(5):
        jsonl(source / f"{number}.jsonl", TEXTS[number * 40 : number * 40 + 40] + ODD[:1])
    each = []
    for number, workers in enumerate((1, 2)):
        folder = tmp_path / f"out{number}"
        given = config(tmp_path, source, out=str(folder), unit_mb=0.003, deduplicate=True)
        make(given, workers)
        each.append(contents(folder))
    assert each[0] == each[1]
    assert set(each[0]) > {"index.json", "tokenizer.json", "train-00000.bin", "val-00000.bin"}


def test_copies_are_left_out_but_for_the_first(tmp_path):
    texts = [*TEXTS[:50], *TEXTS[20:60], TEXTS[3]]
    files = [jsonl(tmp_path / f"{n}.jsonl", texts[n * 30 : n * 30 + 30]) for n in range(4)]
    make(config(tmp_path, *files, deduplicate=True, unit_mb=0.002))
    both = [t for part in ("train", "val") for t in texts_of(tmp_path / "out", part)]
    assert Counter(both) == Counter(TEXTS[:60])
    train = texts_of(tmp_path / "out", "train")
    assert train == [text for text in TEXTS[:60] if text in set(train)]  # the first ones stayed
    assert json.loads((tmp_path / "out" / INDEX).read_text())["copies_left_out"] == 31


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=6), st.integers(1, 9)
)
@settings(deadline=None, max_examples=40)
def test_copies_against_a_set(tmp_path_factory, files, at_once):
    from hymba_lab.data.prepare import marks

    folder = tmp_path_factory.mktemp("marks")
    paths = []
    for number, words in enumerate(files):
        paths.append(folder / str(number))
        paths[-1].write_bytes(b"".join(bytes([7 * w] * 9 + [w] * 7) for w in words))
    known = set()
    expected = [[w in known or known.add(w) is not None for w in words] for words in files]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "_AT_ONCE", at_once)
        assert [mask.tolist() for mask in copies(paths)] == expected


class TestTokenizer:
    def test_given_one_is_copied_and_keeps_its_ids(self, tmp_path):
        source = jsonl(tmp_path / "a.jsonl", TEXTS)
        make(config(tmp_path, source, out=str(tmp_path / "one")))
        file = tmp_path / "one" / "tokenizer.json"
        other = config(tmp_path, source, tokenizer={"file": str(file)}, out=str(tmp_path / "two"))
        assert make(other).fingerprint == read_index(tmp_path / "one").fingerprint
        assert (tmp_path / "two" / "tokenizer.json").read_bytes() == file.read_bytes()

    def test_training_is_repeatable_and_sees_no_validation_text(self, tmp_path):
        source = jsonl(tmp_path / "a.jsonl", TEXTS)
        for name in ("one", "two"):
            make(config(tmp_path, source, out=str(tmp_path / name), val_fraction=0.3))
        assert contents(tmp_path / "one") == contents(tmp_path / "two")
        given = config(tmp_path, source, val_fraction=0.3, unit_mb=0.003)
        assert list(_sample(given, cut(given))) == texts_of(tmp_path / "one", "train")
        few = config(tmp_path, source, unit_mb=0.003, tokenizer={"n_bpe": 300, "sample_mb": 0.002})
        n_characters = sum(map(len, _sample(few, cut(few))))
        assert n_characters == pytest.approx(2000, rel=0.01)

    def test_what_spells_the_end_of_text_is_text(self, tmp_path):
        make(
            config(
                tmp_path,
                jsonl(tmp_path / "a.jsonl", [*TEXTS, *(f"{n}<|endoftext|>" for n in range(50))]),
            )
        )
        index = read_index(tmp_path / "out")
        assert sum(index.total(part, "n_documents") for part in ("train", "val")) == 250

    def test_wide_vocabulary_takes_four_bytes(self, tmp_path):
        source = jsonl(tmp_path / "a.jsonl", TEXTS)
        make(config(tmp_path, source, out=str(tmp_path / "one")))
        tokenizer = json.loads((tmp_path / "one" / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"] |= {f"unused {n}": n for n in range(400, 70_000)}
        tokenizer["added_tokens"][0]["id"] = tokenizer["model"]["vocab"]["<far>"] = 70_000
        tokenizer["added_tokens"][0]["content"] = "<far>"
        (tmp_path / "wide.json").write_text(json.dumps(tokenizer))
        given = {"file": str(tmp_path / "wide.json"), "end_of_text": "<far>"}
        index = make(config(tmp_path, source, tokenizer=given))
        header = index.shards[0].header
        assert (header.dtype, header.end_of_text, header.vocab) == ("uint32", 70_000, 70_001)
        made = texts_of(tmp_path / "out", "train") + texts_of(tmp_path / "out", "val")
        assert Counter(made) == Counter(TEXTS)

    def test_one_without_an_end_is_refused_with_its_own_tokens(self, tmp_path):
        source = jsonl(tmp_path / "a.jsonl", TEXTS)
        make(
            config(
                tmp_path,
                source,
                out=str(tmp_path / "one"),
                tokenizer={"n_bpe": 400, "end_of_text": "<stop>"},
            )
        )
        given = {"file": str(tmp_path / "one" / "tokenizer.json")}
        with pytest.raises(DataError, match=r"end_of_text to one of its own: '<stop>'"):
            make(config(tmp_path, source, tokenizer=given))

    @pytest.mark.parametrize("given", [{}, {"file": "x", "n_bpe": 300}])
    def test_one_of_the_two_is_needed(self, tmp_path, given):
        with pytest.raises(DataError, match="one of the two"):
            make(config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS), tokenizer=given))

    def test_no_tokenizer_file(self, tmp_path):
        (tmp_path / "x.json").write_text("{}")
        for name, message in (("none.json", "cannot be read"), ("x.json", "not a tokenizer.json")):
            given = config(
                tmp_path,
                jsonl(tmp_path / "a.jsonl", TEXTS),
                tokenizer={"file": str(tmp_path / name)},
            )
            with pytest.raises(DataError, match=message):
                make(given)


class TestResume:
    def begin(self, tmp_path, monkeypatch, n_done=2, **options):
        """Stop a tokenization after some units, as a kill would, and return its configuration."""
        from hymba_lab.data.prepare import run

        source = jsonl(tmp_path / "a.jsonl", TEXTS)
        given = config(tmp_path, source, unit_mb=0.003, **options)
        real, calls = run.make_unit, []

        def dies(*arguments: object) -> None:
            calls.append(1)
            if len(calls) > n_done:
                raise SystemExit(9)
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(run, "make_unit", dies)
            with pytest.raises(SystemExit):
                make(given)
        return given

    @pytest.mark.parametrize("n_done", [0, 1, 4])
    def test_finished_units_are_not_made_twice(self, tmp_path, monkeypatch, n_done):
        from hymba_lab.data.prepare import run

        given = self.begin(tmp_path, monkeypatch, n_done, deduplicate=True)
        (tmp_path / "out" / "train-00000.bin.17.partial").write_text("half")
        again = []
        real = run.make_unit
        monkeypatch.setattr(run, "make_unit", lambda *a: (again.append(a[2]), real(*a)))
        make(given)
        assert again == list(range(n_done, len(cut(given))))
        whole = given.model_copy(update={"out": str(tmp_path / "whole")})
        make(whole)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_unfinished_is_not_opened(self, tmp_path, monkeypatch):
        self.begin(tmp_path, monkeypatch)
        with pytest.raises(DataError, match="not finished; run hymba-lab tokenize again"):
            read_index(tmp_path / "out")

    def test_other_settings_or_text_are_refused(self, tmp_path, monkeypatch):
        given = self.begin(tmp_path, monkeypatch)
        with pytest.raises(DataError, match="begun with other settings"):
            make(given.model_copy(update={"val_fraction": 0.2}))
        os.utime(tmp_path / "a.jsonl", ns=(1, 1))
        with pytest.raises(DataError, match="the text has changed since"):
            make(given)

    def test_whole_is_read_back(self, tmp_path, monkeypatch):
        given = config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS))
        first = make(given)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        assert make(given) == first
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        with pytest.raises(DataError, match="tokens of other text or other settings"):
            make(given.model_copy(update={"column": "other"}))

    def test_killed_while_finishing(self, tmp_path, monkeypatch):
        from hymba_lab.data.prepare import finish

        given = config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS), unit_mb=0.003)

        def dies(*_: object, **__: object) -> None:
            raise SystemExit(9)

        for name in ("write_index", "clear"):
            with monkeypatch.context() as patch:
                patch.setattr(finish, name, dies)
                with pytest.raises(SystemExit):
                    make(given)
        make(given)
        whole = given.model_copy(update={"out": str(tmp_path / "whole")})
        make(whole)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_two_at_once(self, tmp_path):
        from filelock import FileLock

        given = config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS))
        (tmp_path / "out" / ".work").mkdir(parents=True)
        with (
            FileLock(tmp_path / "out" / ".work" / "lock"),
            pytest.raises(DataError, match="another process makes these tokens"),
        ):
            make(given)


class TestBadInput:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", r"a\.jsonl:3: not JSON"),
            ("[" * 100_000, r"a\.jsonl:3: not JSON"),
            ("[1]", "list where an object is expected"),
            ('{"body": "x"}', "no field 'text'; it has 'body'"),
            ('{"text": 3}', "is int, a string is expected"),
        ],
    )
    def test_lines(self, tmp_path, line, message):
        file = jsonl(tmp_path / "a.jsonl", TEXTS[:2])
        with file.open("a") as stream:
            stream.write(line + "\n")
        with pytest.raises(DataError, match=message):
            make(config(tmp_path, file))

    @pytest.mark.slow
    def test_error_in_a_worker_is_the_same(self, tmp_path):
        file = jsonl(tmp_path / "a.jsonl", TEXTS[:100])
        with file.open("a") as stream:
            stream.write("{\n")
        given = config(tmp_path, file, unit_mb=0.003, tokenizer={"n_bpe": 300, "sample_mb": 0.001})
        with pytest.raises(DataError, match=r"a\.jsonl: byte \d+: not JSON"):
            make(given, workers=2)

    def test_packed_file_that_is_cut(self, tmp_path):
        for file in (
            zst(tmp_path / "a.jsonl.zst", TEXTS),
            jsonl(tmp_path / "a.jsonl.gz", TEXTS, gzip.open),
        ):
            file.write_bytes(file.read_bytes()[:-20])
            with pytest.raises(DataError, match=r"cannot be (unpacked|read)"):
                make(config(tmp_path, file, out=str(tmp_path / file.suffix)))

    def test_text_that_is_not_utf8(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        for number, text in enumerate(TEXTS):
            (source / f"{number:03}.txt").write_text(text)
        (source / "latin.txt").write_bytes(b"caf\xe9 " * 40)
        with pytest.raises(
            DataError, match=r"latin\.txt: not UTF-8: byte 0xe9 at offset 3.*undecodable"
        ):
            make(config(tmp_path, source, out=str(tmp_path / "a")))
        make(config(tmp_path, source, out=str(tmp_path / "b"), undecodable="skip"))
        assert json.loads((tmp_path / "b" / INDEX).read_text())["undecodable_left_out"] == 1
        made = texts_of(tmp_path / "b", "train") + texts_of(tmp_path / "b", "val")
        assert Counter(made) == Counter(TEXTS)
        make(config(tmp_path, source, out=str(tmp_path / "c"), undecodable="replace"))
        made = texts_of(tmp_path / "c", "train") + texts_of(tmp_path / "c", "val")
        assert Counter(made) == Counter([*TEXTS, "caf\ufffd " * 40])

    def test_what_is_not_there(self, tmp_path):
        (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.csv").write_text("a")
        (tmp_path / "lfs.txt").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
        for path, message in (
            ("none.txt", "does not exist"),
            ("*.nothing", "matches no file"),
            ("link.txt", "is a link to .*gone.txt, which is not there"),
            ("empty", "holds no file that ends in"),
            ("a.csv", "suffix '.csv'"),
            ("lfs.txt", "git lfs pull"),
        ):
            with pytest.raises(DataError, match=message):
                make(config(tmp_path, tmp_path / path))

    def test_nothing_to_validate_on(self, tmp_path):
        with pytest.raises(DataError, match="no document for the validation part; raise val_frac"):
            make(config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS), val_fraction=1e-9))

    def test_paths_or_hub(self, tmp_path):
        with pytest.raises(DataError, match="`paths` or as `hub`"):
            make(config(tmp_path))


class TestIndex:
    @pytest.fixture
    def folder(self, tmp_path):
        make(config(tmp_path, jsonl(tmp_path / "a.jsonl", TEXTS), unit_mb=0.003))
        return tmp_path / "out"

    def test_fingerprint_is_that_of_the_contents(self, folder, tmp_path):
        index = read_index(folder)
        folder.rename(tmp_path / "elsewhere")
        assert read_index(tmp_path / "elsewhere").fingerprint == index.fingerprint

    def test_opening_reads_no_tokens(self, folder, monkeypatch):
        from hymba_lab.data import index

        monkeypatch.setattr(index, "sha256_of", lambda *_: pytest.fail("read whole"))
        read_index(folder)
        read_index(folder)

    def test_a_changed_shard_is_noticed(self, folder):
        read_index(folder)
        file = folder / "train-00001.bin"
        content = bytearray(file.read_bytes())
        content[HEADER_BYTES + 7] ^= 1
        stat = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only the time of change tells
        with pytest.raises(DataError, match=r"train-00001\.bin: another sha256"):
            read_index(folder)

    def test_a_touched_shard_is_read_once_and_kept(self, folder, monkeypatch):
        from hymba_lab.data import index

        before = read_index(folder)
        os.utime(folder / "train-00001.bin", ns=(1, 1))
        calls = []
        real = index.sha256_of
        monkeypatch.setattr(index, "sha256_of", lambda *a: calls.append(a) or real(*a))
        assert read_index(folder) == read_index(folder) == before
        assert len(calls) == 1

    def test_another_shard_is_noticed_on_the_first_opening(self, folder, monkeypatch, tmp_path):
        file = folder / "train-00002.bin"
        content = file.read_bytes()
        sha = read_header(file).sha256.encode()
        file.write_bytes(content.replace(sha, sha[::-1]))  # as long, made from another text
        monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "other cache"))
        with pytest.raises(DataError, match=r"train-00002\.bin: another header"):
            read_index(folder)

    @pytest.mark.parametrize("fault", ["cut", "gone", "index", "no index", "header"])
    def test_damage_is_named(self, folder, fault):
        file = folder / "val-00000.bin"
        if fault == "cut":
            file.write_bytes(file.read_bytes()[:-3])
        elif fault == "gone":
            file.unlink()
        elif fault == "index":
            (folder / INDEX).write_text('{"format": 1}')
        elif fault == "no index":
            (folder / INDEX).unlink()
        else:
            file.write_bytes(b"hymbatok!" + file.read_bytes()[9:])
        with pytest.raises(DataError, match=r"val-00000\.bin|index\.json"):
            read_index(folder)

    @pytest.mark.slow
    @pytest.mark.parametrize("value", [-5, "many", 10**20, None, [], {}, 1.5, True])
    @pytest.mark.parametrize(
        "key",
        ["vocab", "end_of_text", "n_tokens", "n_documents", "n_bytes", "dtype", "file", "part"],
    )
    def test_an_index_of_other_values_is_none(self, folder, key, value):
        facts = json.loads((folder / INDEX).read_text())
        (facts if key in facts else facts["shards"][1])[key] = value
        (folder / INDEX).write_text(json.dumps(facts))
        with pytest.raises(DataError, match=rf"index\.json: not an index of shards \(.*{key}: "):
            read_index(folder)

    @pytest.mark.parametrize("name", ["../val-00000.bin", "/etc/passwd", "a/b.bin", "passwd"])
    def test_an_index_names_files_beside_it_alone(self, folder, name):
        text = (folder / INDEX).read_text()
        (folder / INDEX).write_text(text.replace("val-00000.bin", name))
        with pytest.raises(DataError, match="file: String should match pattern"):
            read_index(folder)

    def test_another_tokenizer_is_noticed(self, folder):
        index, file = read_index(folder), folder / "tokenizer.json"
        assert tokenizer_of(index).sha256 == index.tokenizer
        file.write_text(file.read_text() + " ")
        with pytest.raises(DataError, match=r"tokenizer\.json: another tokenizer than .*index"):
            tokenizer_of(index)
        file.unlink()
        with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read"):
            tokenizer_of(index)

    def test_borders_are_where_documents_end(self, folder):
        index = read_index(folder)
        for shard in index.shards:
            lengths = read_lengths(folder / shard.file, shard.header)
            assert (
                lengths.sum() == shard.header.n_tokens and len(lengths) == shard.header.n_documents
            )


def test_hub_through_a_local_builder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = [str(jsonl(tmp_path / f"{n}.jsonl", TEXTS[n * 100 : n * 100 + 100])) for n in range(2)]
    hub = {"dataset": "json", "data_files": files}
    index = make(config(tmp_path, paths=[], hub=hub))
    assert len([s for s in index.shards if s.part == "train"]) == 2
    made = texts_of(tmp_path / "out", "train") + texts_of(tmp_path / "out", "val")
    assert Counter(made) == Counter(TEXTS)


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path):
        (tmp_path / "sub").mkdir()
        jsonl(tmp_path / "sub" / "a.jsonl", TEXTS)
        file = tmp_path / "sub" / "web.yaml"
        file.write_text(
            "name: web\nout: ../made\npaths: [a.jsonl]\ntokenizer: {n_bpe: 400}\n"
            "val_fraction: 0.1\nunit_mb: 0.003\n"
        )
        return file

    def test_paths_are_those_of_the_file(self, file, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir("/")
        assert main([str(file), "--workers=1"]) == 0
        said = capsys.readouterr()
        assert "vocabulary 400, end of text 0" in said.out and "MB/s" in said.err
        assert read_index(tmp_path / "made").name == "web"
        monkeypatch.chdir(tmp_path)
        assert main([str(file), "--workers=1", "--set", "out=here"]) == 0  # --set: the working one
        assert contents(tmp_path / "here") == contents(tmp_path / "made")
        assert main(["--verify", "made"]) == 0
        assert "are those of the index" in capsys.readouterr().out

    def test_a_child_names_its_own_paths(self, file, tmp_path):
        child = tmp_path / "child.yaml"
        child.write_text("extends: sub/web.yaml\nout: mine\n")
        assert main([str(child), "--workers=1"]) == 0
        assert read_index(tmp_path / "mine").name == "web"

    def test_shipped_files_are_whole_and_share_one_tokenizer(self):
        folder = Path(__file__).parents[1] / "experiments" / "corpora"
        made = [load_tokenize_config(file) for file in sorted(folder.glob("*.yaml"))]
        (trained,) = [c for c in made if c.tokenizer.n_bpe]
        given = {os.path.normpath(c.tokenizer.file) for c in made if c.tokenizer.file}
        assert given == {os.path.normpath(os.path.join(trained.out, "tokenizer.json"))}
        assert len({os.path.normpath(c.out) for c in made}) == len(made) >= 4
        assert all(c.hub and c.column == "text" for c in made)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("tokenizr=1", "no key 'tokenizr'.*Did you mean 'tokenizer'"),
            ("val_fraction=2", "val_fraction: input should be less than 1"),
            ("tokenizer={n_bpe: 3}", "n_bpe: input should be greater than or equal to 258"),
        ],
    )
    def test_a_wrong_file_is_explained(self, file, change, message):
        with pytest.raises(ConfigError, match=message):
            main([str(file), "--set", change])

    @pytest.mark.campaign
    @pytest.mark.slow
    def test_kill_at_any_moment_gives_equal_bytes(self, file, tmp_path):
        jsonl(file.parent / "a.jsonl", [f"{n} {text * 20}" for n in range(15) for text in TEXTS])
        command = [sys.executable, "-m", "hymba_lab.commands.tokenize", str(file), "--workers=2"]
        changes = ["--set", "unit_mb=0.15", "--set", "deduplicate=true", "--set"]
        subprocess.run([*command, *changes, f"out={tmp_path}/whole"], check=True)
        n_stood = 0
        for number, done in enumerate((0, 1, 4, 9, 20)):
            out = tmp_path / f"killed{number}"
            process = subprocess.Popen([*command, *changes, f"out={out}"], start_new_session=True)
            while process.poll() is None and len([*out.glob(".work/unit-*.json")]) < done:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            n_stood += process.wait() == -signal.SIGKILL
            subprocess.run([*command, *changes, f"out={out}"], check=True)
            assert contents(out) == contents(tmp_path / "whole")
        assert n_stood >= 4
