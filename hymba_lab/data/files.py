"""The user's own text files, as one source (`files`); tokens made before are in `shards`."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hymba_lab.data.corpus import Encoding, Split, load, split_documents
from hymba_lab.data.documents import find, read
from hymba_lab.data.source import datasets
from hymba_lab.data.streams import TokenStream
from hymba_lab.errors import DataError
from hymba_lab.registry import FROM_FILE, LATER

Positive = Annotated[int, Field(ge=1, le=2**31)]


@datasets.register("files")
def files(
    seq_len: int,
    *,
    rows: Positive,
    paths: Annotated[list[str], Field(min_length=1), FROM_FILE],
    val_paths: Annotated[Annotated[list[str], Field(min_length=1)] | None, FROM_FILE] = None,
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    field: str = "text",
    column: str = "text",
    tokenizer: Encoding = "bytes",
    n_bpe: Annotated[int, Field(ge=257, le=65536)] = 4096,
    n_val: Positive = 128,
    tokenizer_file: Annotated[str | None, FROM_FILE, LATER] = None,
    end_of_text: Annotated[str | None, LATER] = None,
) -> TokenStream:
    """Return the text of txt (md, rst, py), jsonl and parquet files.

    `paths` and `val_paths` are files or globs, relative to the file that names them. A document is
    a text file, the `field` of a jsonl line or the `column` of a parquet row. Without `val_paths`
    documents are held out by a hash of their content (one text file: its tail), about
    `val_fraction` of them. `tokenizer_file` is a tokenizer.json to be used as it is, which sources
    may share; the experiment's `tokenizer:` where the source names none; `end_of_text` its token
    that ends a document, where it has none of the usual names. All text is held in memory once,
    when the cache is built: larger text is for `hymba-lab tokenize` and `corpora`.
    Raises DataError where a file cannot be used; see `documents`.
    """
    train = find("files.paths", paths)
    val = find("files.val_paths", val_paths) if val_paths else []
    if both := {path.resolve() for path in train} & {path.resolve() for path in val}:
        raise DataError(f"files: {min(both)} is in paths and in val_paths; take it out of one")

    def texts_of(paths: list[Path]) -> list[bytes]:
        # among bytes a NUL would end the document
        nul = tokenizer != "bytes" or tokenizer_file is not None
        return [t for path in paths for t in read(path, field=field, column=column, nul=nul)]

    def documents() -> Split:
        texts = texts_of(train)
        if not val:
            marks = [hashlib.sha256(text).hexdigest() for text in texts]
            return split_documents(texts, marks, val_fraction)
        return Split(texts, texts_of(val))

    corpus = load(
        "files",
        [*train, *val],
        documents,
        encoding=tokenizer,
        n_bpe=n_bpe,
        tokenizer_file=tokenizer_file,
        end_of_text=end_of_text,
        options={
            "field": field,
            "column": column,
            "val_fraction": None if val else val_fraction,
            "n_val_files": len(val),
        },
    )
    return corpus.stream("files", seq_len, rows=rows, n_val=n_val)
