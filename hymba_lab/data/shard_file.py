"""One shard of tokens on disk: a header, the ids, and how long each document is.

    bytes 0..4095    "hymbatok", then one JSON object, then spaces
    then             n_tokens ids, uint16 or uint32, little-endian; every document ends with
                     the id end_of_text, which stands nowhere else
    then             n_documents lengths in tokens (uint32), that id included

The header holds the sha256 of all that follows it, so two shards of equal headers are equal.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hymba_lab.atomic import parsed_json
from hymba_lab.data.draws import Ints
from hymba_lab.errors import DataError

MAGIC = b"hymbatok"
HEADER_BYTES = 4096
_LENGTH = np.dtype("<u4")

Width = Literal["uint16", "uint32"]


def width_for(vocab: int) -> Width:
    """Return the narrower type that holds the ids 0..vocab-1."""
    return "uint16" if vocab <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class ShardHeader:
    """What one shard says of itself."""

    dtype: Width
    vocab: int
    """Ids are 0..vocab-1."""
    end_of_text: int
    tokenizer: str
    """sha256 (hex) of the tokenizer.json that made the ids."""
    n_tokens: int
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of the documents."""
    sha256: str
    """Of all bytes behind the header."""

    @property
    def item(self) -> np.dtype[np.unsignedinteger]:
        """The type of one id on disk."""
        return np.dtype("<u2" if self.dtype == "uint16" else "<u4")

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        ids = self.n_tokens * self.item.itemsize
        return HEADER_BYTES + ids + self.n_documents * _LENGTH.itemsize


def read_header(path: Path) -> ShardHeader | None:
    """Return the header of a shard, None for a file that does not begin like one.

    Raises DataError for a damaged header and for a file of another size than its header says.
    """
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        size = os.fstat(stream.fileno()).st_size
    if not head.startswith(MAGIC):
        return None
    try:
        header = ShardHeader(**parsed_json(head[len(MAGIC) :].decode()))
        expected = header.file_size
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: a damaged header ({error}); make the shard again") from None
    if size != expected:
        raise DataError(
            f"{path}: {size:,} bytes, its header says {expected:,}; it was cut or copied in part: "
            "copy or make it again"
        )
    return header


def read_lengths(path: Path, header: ShardHeader) -> npt.NDArray[np.uint32]:
    """Return the lengths [tokens] of the documents of a shard, their end-of-text included."""
    start = HEADER_BYTES + header.n_tokens * header.item.itemsize
    return np.fromfile(path, dtype=_LENGTH, count=header.n_documents, offset=start)


def sha256_of(path: Path, start: int = 0) -> str:
    """Return the sha256 (hex) of a file from byte `start` on, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        while piece := stream.read(1 << 22):
            total.update(piece)
    return total.hexdigest()


class ShardWriter:
    """Writes one shard beside its place and moves it there whole when it is closed."""

    def __init__(self, path: Path, *, vocab: int, end_of_text: int, tokenizer: str) -> None:
        self.path, self.vocab, self.end_of_text, self.tokenizer = (
            path, vocab, end_of_text, tokenizer,
        )  # fmt: skip
        self.n_tokens = self.n_bytes = 0
        self.counts = np.zeros(vocab, dtype=np.int64)
        self._item = np.dtype("<u2" if width_for(vocab) == "uint16" else "<u4")
        self._lengths: list[int] = []
        self._sha = hashlib.sha256()
        self._draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._stream = self._draft.open("wb")
        self._stream.write(b" " * HEADER_BYTES)

    def add(self, documents: Sequence[Sequence[int]], n_bytes: int) -> None:
        """Append the ids of whole documents, without their ends; `n_bytes` is their UTF-8 size."""
        lengths = [len(ids) + 1 for ids in documents]
        ids = np.full(sum(lengths), self.end_of_text, dtype=np.int64)
        at = 0
        for document, length in zip(documents, lengths, strict=True):
            ids[at : at + length - 1] = document
            at += length
        self.add_ids(ids, lengths, n_bytes)

    def add_shard(self, path: Path) -> None:
        """Append the documents of another shard of the same tokenizer."""
        header = read_header(path)
        assert header is not None, path
        ids = np.fromfile(path, header.item, header.n_tokens, offset=HEADER_BYTES)
        self.add_ids(ids.astype(np.int64), read_lengths(path, header).tolist(), header.n_bytes)

    def add_ids(self, ids: Ints, lengths: list[int], n_bytes: int) -> None:
        """Append ids (n,) of documents of these lengths, their ends included in both."""
        counts = np.bincount(ids, minlength=self.vocab)
        if len(counts) > self.vocab or counts[self.end_of_text] != len(lengths):
            raise DataError(
                f"{self.path}: the tokenizer gives ids above its own vocabulary of {self.vocab}, "
                f"or its end of text (id {self.end_of_text}) inside a text; use another tokenizer "
                "or another end_of_text"
            )
        self.counts += counts
        self.n_tokens += len(ids)
        self.n_bytes += n_bytes
        self._lengths += lengths
        self._put(ids.astype(self._item).tobytes())

    def close(self) -> ShardHeader:
        """Finish the file and move it to its place."""
        self._put(np.asarray(self._lengths, dtype=_LENGTH).tobytes())
        header = ShardHeader(
            dtype=width_for(self.vocab),
            vocab=self.vocab,
            end_of_text=self.end_of_text,
            tokenizer=self.tokenizer,
            n_tokens=self.n_tokens,
            n_documents=len(self._lengths),
            n_bytes=self.n_bytes,
            sha256=self._sha.hexdigest(),
        )
        self._stream.seek(0)
        self._stream.write((MAGIC + json.dumps(asdict(header)).encode()).ljust(HEADER_BYTES))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._draft, self.path)
        return header

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._stream.close()
        self._draft.unlink(missing_ok=True)

    def _put(self, content: bytes) -> None:
        self._stream.write(content)
        self._sha.update(content)
