"""Tokens made elsewhere, read in place: any number of files to train on and to validate on."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hymba_lab.data.cache import manifest, remembered
from hymba_lab.data.chain import Stretch, TokenChain
from hymba_lab.data.documents import find
from hymba_lab.data.draws import Ints
from hymba_lab.data.source import datasets, digest
from hymba_lab.data.streams import TokenStream, count_ids, unigram_entropy
from hymba_lab.data.token_formats import Format, stretch_of
from hymba_lab.errors import DataError
from hymba_lab.registry import FROM_FILE, LATER

Positive = Annotated[int, Field(ge=1, le=2**31)]
Files = Annotated[str | Annotated[list[str], Field(min_length=1)], FROM_FILE]

_AT_ONCE = 1 << 22


@datasets.register("shards")
def shards(
    seq_len: int,
    *,
    rows: Positive,
    train: Files,
    val: Files,
    vocab: Annotated[int, Field(ge=2, le=2**24)],
    bytes_per_token: Annotated[float, Field(gt=0)] | None = None,
    n_val: Positive = 128,
    format: Annotated[Format | None, LATER] = None,
) -> TokenStream:
    """Return tokens made elsewhere: files to train on and files to validate on.

    `train` and `val` are files or globs, or lists of them; all files of a part are one row of
    tokens, in the order named, those of a glob sorted. `.npy` (one-dimensional, integers), `.bin`
    with the header of `hymba-lab tokenize`, or `.bin` in the named `format`: `uint16`, which is
    also read where none is named, `uint32` or `llm.c`. They may be larger than memory.
    `bytes_per_token` of the validation text, where it is known, turns the loss into bits per byte.
    Raises DataError for ids that are not in 0..vocab-1, for files that look like another format and
    for a file that is in both parts.
    """
    parts = {
        option: [stretch_of(path, format, vocab) for path in _files(option, given)]
        for option, given in (("train", train), ("val", val))
    }
    paths = {option: [part.path for part in stretches] for option, stretches in parts.items()}
    if both := set(paths["train"]) & set(paths["val"]):
        raise DataError(f"shards: {min(both)} is in train and in val; take it out of one")

    def facts() -> dict[str, Any]:
        counts = {option: _counted(both, vocab) for option, both in parts.items()}
        hashes = [_hash(both) for both in parts.values()]
        return {
            "contents": digest("shards", vocab, hashes),
            "entropy": unigram_entropy(counts["train"], counts["val"]),
        }

    return TokenStream(
        "shards",
        seq_len,
        rows=rows,
        train=TokenChain(parts["train"]),
        val=TokenChain(parts["val"]),
        vocab=vocab,
        n_val=n_val,
        bytes_per_token=bytes_per_token,
        **remembered(["shards", vocab, format, *map(manifest, paths.values())], facts),
    )


def _files(option: str, given: Files) -> list[Path]:
    patterns = [given] if isinstance(given, str) else given
    found = find(f"shards.{option}", patterns, suffixes=(".npy", ".bin"))
    return [path.resolve() for path in found]


def _counted(parts: list[Stretch], vocab: int) -> Ints:
    """Return (vocab,) how often each id comes; refuses a file with ids beyond, or with none."""
    counts = np.zeros(vocab, dtype=np.int64)
    for part in parts:
        for ids in _pieces(part):
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= vocab:
                raise DataError(
                    f"{part.path}: ids from {low} to {high}, vocab {vocab} allows 0 to {vocab - 1} "
                    f"(read as {np.dtype(part.dtype).name}); set vocab, or format to what it is"
                )
            counts += count_ids(ids, vocab)
    return counts


def _hash(parts: list[Stretch]) -> str:
    """Return the sha256 of all ids of a part, cut into files however it may be."""
    total = hashlib.sha256()
    for part in parts:
        for ids in _pieces(part):
            total.update(np.ascontiguousarray(ids).data)
    return total.hexdigest()


def _pieces(part: Stretch) -> Iterator[np.ndarray]:
    chain = np.memmap(part.path, part.dtype, "r", part.offset, (part.n_tokens,))
    for start in range(0, part.n_tokens, _AT_ONCE):
        yield np.asarray(chain[start : start + _AT_ONCE])
