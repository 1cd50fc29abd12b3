"""Documents to ids: the bytes themselves, or byte-level BPE trained on the training split.

Id 0 ends every document in both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

PIECE = 1 << 20
"""Bytes encoded at a time: bounds the memory that encoding a large document takes."""


class Tokenizer(Protocol):
    """Documents (UTF-8) to ids and back."""

    vocab: int

    def encode(self, documents: Sequence[bytes]) -> Ids:
        """Return the ids of all documents in one row, each followed by id 0."""
        ...

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`; the end of a document becomes byte 0."""
        ...


class Readable(Protocol):
    """What knows the tokenizer that made its ids."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, to read ids back as text."""
        ...


class Bytes:
    """Every byte is an id. Byte 0, which text does not hold, ends a document."""

    vocab = 256

    def encode(self, documents: Sequence[bytes]) -> Ids:
        """Return uint8 ids."""
        return np.frombuffer(
            b"".join(part for text in documents for part in (text, b"\0")), np.uint8
        )

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`."""
        return bytes(ids)


class BPE:
    """Byte-level byte-pair encoding: any text encodes, and decodes to the same bytes.

    Id 0 is kept out of the vocabulary that is trained, so that no text can spell the end of a
    document. Source: Radford et al. 2019 (GPT-2), as in the package `tokenizers`.
    """

    def __init__(self, file: Path) -> None:
        """Load what `train_bpe` wrote."""
        from tokenizers import Tokenizer as HFTokenizer  # takes a while, and bytes need none of it

        self.model: Any = HFTokenizer.from_file(str(file))
        self.vocab = 1 + self.model.get_vocab_size()

    def encode(self, documents: Sequence[bytes]) -> Ids:
        """Return uint16 ids."""
        end = np.zeros(1, np.uint16)
        rows = [end[:0]]
        for text in documents:
            for piece in pieces(text):
                ids = self.model.encode(piece, add_special_tokens=False).ids
                rows.append(np.asarray(ids, dtype=np.uint16) + np.uint16(1))
            rows.append(end)
        return np.concatenate(rows)

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`; broken characters at the edges become U+FFFD."""
        documents: list[list[int]] = [[]]
        for token in ids:
            if token == 0:
                documents.append([])
            else:
                documents[-1].append(token - 1)
        return b"\0".join(self.model.decode(document).encode() for document in documents)


def train_bpe(documents: Sequence[bytes], vocab: int, file: Path) -> None:
    """Write a byte-level BPE tokenizer of at most `vocab` ids (the end of a document included)."""
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = HFTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator((piece for text in documents for piece in pieces(text)), trainer)
    model.save(str(file))


def pieces(text: bytes) -> Iterator[str]:
    """Yield the text cut after line ends into parts of about PIECE bytes."""
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= PIECE else text.find(b"\n", start + PIECE) + 1
        end = end or len(text)
        yield text[start:end].decode("utf-8")
        start = end
