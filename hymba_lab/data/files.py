"""The user's own data: text files (`files`) or tokens made elsewhere (`shards`)."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hymba_lab.data.cache import manifest, remembered
from hymba_lab.data.corpus import Encoding, Split, load, split_documents
from hymba_lab.data.documents import find, read
from hymba_lab.data.draws import Ints
from hymba_lab.data.source import datasets, digest
from hymba_lab.data.streams import TokenFile, TokenStream, count_ids, unigram_entropy
from hymba_lab.errors import DataError

Positive = Annotated[int, Field(ge=1)]


@datasets.register("files")
def files(
    seq_len: int,
    *,
    rows: Positive,
    paths: Annotated[list[str], Field(min_length=1)],
    val_paths: Annotated[list[str], Field(min_length=1)] | None = None,
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    field: str = "text",
    column: str = "text",
    tokenizer: Encoding = "bytes",
    n_bpe: Annotated[int, Field(ge=257, le=65536)] = 4096,
    n_val: Positive = 128,
) -> TokenStream:
    """Return the text of txt (md, rst, py), jsonl and parquet files.

    `paths` and `val_paths` are files or globs, relative to the working directory. A document is a
    text file, the `field` of a jsonl line or the `column` of a parquet row. Without `val_paths`
    documents are held out by a hash of their content (one text file: its tail), about
    `val_fraction` of them. All text is held in memory once, when the cache is built.
    Raises DataError where a file cannot be used; see `documents`.
    """
    train = find("files.paths", paths)
    val = find("files.val_paths", val_paths) if val_paths else []
    if both := {path.resolve() for path in train} & {path.resolve() for path in val}:
        raise DataError(f"files: {min(both)} is in paths and in val_paths; take it out of one")

    def documents() -> Split:
        texts = [text for path in train for text in read(path, field=field, column=column)]
        if not val:
            marks = [hashlib.sha256(text).hexdigest() for text in texts]
            return split_documents(texts, marks, val_fraction)
        held_out = [text for path in val for text in read(path, field=field, column=column)]
        return Split(texts, held_out)

    corpus = load(
        "files",
        [*train, *val],
        documents,
        encoding=tokenizer,
        n_bpe=n_bpe,
        options={
            "field": field,
            "column": column,
            "val_fraction": None if val else val_fraction,
            "n_val_files": len(val),
        },
    )
    return corpus.stream("files", seq_len, rows=rows, n_val=n_val)


@datasets.register("shards")
def shards(
    seq_len: int,
    *,
    rows: Positive,
    train: str,
    val: str,
    vocab: Annotated[int, Field(ge=2)],
    bytes_per_token: Annotated[float, Field(gt=0)] | None = None,
    n_val: Positive = 128,
) -> TokenStream:
    """Return tokens made elsewhere: one file to train on and one to validate on.

    `.npy` (one-dimensional, integers) or `.bin` (uint16, little-endian, no header), read in place:
    they may be larger than memory. `bytes_per_token` of the validation text, where it is known,
    turns the loss into bits per byte. Raises DataError for ids that are not in 0..vocab-1.
    """
    parts = [_tokens(option, path) for option, path in (("train", train), ("val", val))]
    paths = [path for path, _ in parts]

    def facts() -> dict[str, Any]:
        counts = [_counted(path, tokens, vocab) for path, tokens in parts]
        hashes = [hashlib.sha256(np.ascontiguousarray(t.ids).data).hexdigest() for _, t in parts]
        return {
            "contents": digest("shards", vocab, hashes),
            "entropy": unigram_entropy(counts[0], counts[1]),
        }

    return TokenStream(
        "shards",
        seq_len,
        rows=rows,
        train=parts[0][1],
        val=parts[1][1],
        vocab=vocab,
        n_val=n_val,
        bytes_per_token=bytes_per_token,
        **remembered(["shards", vocab, manifest(paths)], facts),
    )


def _tokens(option: str, pattern: str) -> tuple[Path, TokenFile]:
    path = find(f"shards.{option}", [pattern], suffixes=(".npy", ".bin"))[0].resolve()
    try:
        tokens = TokenFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable token file: {error}") from error
    if tokens.ids.ndim != 1 or tokens.ids.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {tokens.ids.dtype} of shape {tokens.ids.shape}, "
            "one row of integers is expected"
        )
    return path, tokens


def _counted(path: Path, tokens: TokenFile, vocab: int) -> Ints:
    if not len(tokens):
        raise DataError(f"{path}: holds no tokens")
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    if low < 0 or high >= vocab:
        raise DataError(f"{path}: ids from {low} to {high}, vocab {vocab} allows 0 to {vocab - 1}")
    return count_ids(tokens.ids, vocab)
