"""Documents -> a cached corpus of tokens in two parts, with the facts a run reports."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from hymba_lab.atomic import cache_folder, json_of
from hymba_lab.data.cache import discard, keep, manifest, remembered
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.shard_file import sha256_of
from hymba_lab.data.source import digest
from hymba_lab.data.streams import TokenFile, TokenStream, count_ids, unigram_entropy
from hymba_lab.data.tokenizers import BPE, Bytes, Ids, Tokenizer, train_bpe
from hymba_lab.errors import DataError
from hymba_lab.registry import at

Encoding = Literal["bytes", "bpe"]
GIVEN = "given"
"""The encoding of a corpus whose tokenizer was given, not made."""


class Split(NamedTuple):
    """Documents (UTF-8) to train on and to validate on."""

    train: list[bytes]
    val: list[bytes]


def split_documents(documents: Sequence[bytes], marks: Sequence[str], val_fraction: float) -> Split:
    """Return the split by document: those whose mark hashes below `val_fraction` validate.

    A document stays where it is when others come or go, and equal marks stay together. One that is
    longer than the share of validation trains, lest a single document be most of what is measured.
    Where this leaves a part empty, the lowest hash validates and the highest trains; where all
    marks are equal (one document), the last `val_fraction` of the text validates.
    """
    places = [int(hashlib.sha256(mark.encode()).hexdigest()[:13], 16) / 16**13 for mark in marks]
    lowest, highest = min(places, default=0.0), max(places, default=0.0)
    if lowest == highest:
        return _cut(b"".join(documents), val_fraction)
    share = val_fraction * sum(map(len, documents))
    both = list(zip(documents, places, strict=True))
    out = {p for text, p in both if p < val_fraction and len(text) <= share} - {highest} or {lowest}
    return Split([text for text, p in both if p not in out], [text for text, p in both if p in out])


def _cut(text: bytes, val_fraction: float) -> Split:
    at = int(len(text) * (1 - val_fraction))
    while at < len(text) and text[at] & 0xC0 == 0x80:  # inside a UTF-8 character
        at += 1
    return Split([text[:at]], [text[at:]])


@dataclass(frozen=True)
class Corpus:
    """Tokens on disk and what is known about them; see `load`."""

    home: Path
    fingerprint: str
    encoding: str
    n_train: int
    n_val: int
    vocab: int
    entropy: float
    bytes_per_token: float
    end_of_text: int = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, to read ids back as text."""
        file = self.home / "tokenizer.json"
        if self.encoding == GIVEN:
            return GivenTokenizer(file, self.end_of_text)
        return Bytes() if self.encoding == "bytes" else BPE(file)

    def stream(self, name: str, seq_len: int, *, rows: int, n_val: int) -> TokenStream:
        """Return the source over this corpus."""
        file, given = self.home / "tokens.npy", self.encoding == GIVEN
        return TokenStream(
            name,
            seq_len,
            rows=rows,
            train=TokenFile(file, 0, self.n_train),
            val=TokenFile(file, self.n_train, self.n_train + self.n_val),
            vocab=self.vocab,
            n_val=n_val,
            contents=self.fingerprint,
            entropy=self.entropy,
            bytes_per_token=self.bytes_per_token,
            vocabulary=sha256_of(file.with_name("tokenizer.json")) if given else None,
            corpus=self,
        )


def load(
    name: str,
    files: Sequence[Path],
    read: Callable[[], Split],
    *,
    encoding: Encoding,
    n_bpe: int,
    options: dict[str, Any],
    tokenizer_file: str | None = None,
    end_of_text: str | None = None,
) -> Corpus:
    """Return the corpus of `files`, from the cache where nothing has changed since.

    `read` gives the documents; `options` is all else that determines them. The fingerprint hashes
    the documents, the encoding and the options, never where the files lie. Whether something has
    changed is judged by path, size and modification time.
    """
    given = None if tokenizer_file is None else _given(tokenizer_file, end_of_text)
    if given is None and end_of_text is not None:
        raise DataError(
            f"{name}: end_of_text: {end_of_text} is for a tokenizer_file; ours have their own. "
            "Leave it away, or name the file."
        )
    recipe = [name, encoding, n_bpe if encoding == "bpe" else None, options]
    if given is not None:
        recipe = [name, GIVEN, given.sha256, options, *([end_of_text] if end_of_text else [])]

    def build() -> dict[str, Any]:
        split = read()
        fingerprint = digest(recipe, [_sha256(split.train), _sha256(split.val)])
        if _opened(fingerprint) is None:
            maker = _Maker(encoding, n_bpe, tokenizer_file, end_of_text)
            keep(fingerprint, lambda draft: _write(draft, name, split, maker))
        return {"fingerprint": fingerprint}

    key = [recipe, manifest(files)]
    corpus = _opened(remembered(key, build)["fingerprint"])
    if corpus is None:  # the index outlived its corpus
        corpus = _opened(build()["fingerprint"])
    if corpus is None:
        raise DataError(f"{name}: the cache {cache_folder()} was emptied meanwhile; run it again")
    return corpus


def _opened(fingerprint: str) -> Corpus | None:
    """Return the cached corpus, or None where there is none; a damaged one is removed."""
    home = cache_folder() / "corpora" / fingerprint
    if not home.is_dir():
        return None
    try:
        facts = json_of(home / "facts.json")
        corpus = Corpus(home=home, fingerprint=fingerprint, **facts)
        whole = len(TokenFile(home / "tokens.npy")) == corpus.n_train + corpus.n_val
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        discard(home)
        return None
    return corpus


class _Maker(NamedTuple):
    """How a corpus gets its tokenizer."""

    encoding: Encoding
    n_bpe: int
    file: str | None
    end_of_text: str | None

    def make(self, documents: Sequence[bytes], place: Path) -> tuple[str, Tokenizer]:
        """Return the name of the encoding and the tokenizer, its file written to `place`."""
        if self.file is not None:
            shutil.copyfile(self.file, place)
            return GIVEN, GivenTokenizer(place, self.end_of_text)
        if self.encoding == "bpe":
            train_bpe(documents, self.n_bpe, place)
            return "bpe", BPE(place)
        return "bytes", Bytes()


def _given(file: str, end_of_text: str | None) -> GivenTokenizer:
    try:
        return GivenTokenizer(Path(file), end_of_text)
    except DataError as error:
        raise DataError(f"{at(file)}{error}") from None


def _write(draft: Path, name: str, split: Split, maker: _Maker) -> None:
    if not any(split.train) or not any(split.val):
        part = "validation" if any(split.train) else "training"
        raise DataError(f"{name}: no text for the {part} part; give more text, and no empty files")
    encoding, tokenizer = maker.make(split.train, draft / "tokenizer.json")
    train, val = tokenizer.encode(split.train), tokenizer.encode(split.val)
    _save(draft / "tokens.npy", train, val)
    facts = {
        "encoding": encoding,
        "n_train": len(train),
        "n_val": len(val),
        "vocab": tokenizer.vocab,
        "entropy": unigram_entropy(
            count_ids(train, tokenizer.vocab), count_ids(val, tokenizer.vocab)
        ),
        "bytes_per_token": sum(len(text) + 1 for text in split.val) / len(val),
    }
    if isinstance(tokenizer, GivenTokenizer):
        facts["end_of_text"] = tokenizer.end_of_text
    (draft / "facts.json").write_text(json.dumps(facts), "utf-8")


def _save(file: Path, train: Ids, val: Ids) -> None:
    """Write both parts one after the other, without a copy of both in memory."""
    shape = (len(train) + len(val),)
    ids = np.lib.format.open_memmap(file, mode="w+", dtype=train.dtype, shape=shape)
    ids[: len(train)], ids[len(train) :] = train, val
    ids.flush()


def _sha256(documents: Sequence[bytes]) -> str:
    total = hashlib.sha256()
    for text in documents:
        total.update(len(text).to_bytes(8, "little") + text)
    return total.hexdigest()
