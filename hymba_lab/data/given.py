"""A tokenizer.json that is used as it is: its ids are not moved, one of its own ends a document."""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hymba_lab.data.tokenizers import Ids, pieces
from hymba_lab.errors import DataError

END = "<|endoftext|>"
KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""What end-of-text tokens are called; the first that a tokenizer has is taken."""


class GivenTokenizer:
    """The tokenizer of a file; what spells a special token in a text is text to it.

    Attributes: `vocab` (ids are 0..vocab-1), `end_of_text` (an id), `sha256` (hex) of the file,
    `model` (of the package tokenizers). Raises DataError for a file that is none, or has no token
    to end a document.
    """

    def __init__(self, file: Path, end_of_text: str | int | None = None) -> None:
        """`end_of_text` is the token that ends a document; None takes one of `KNOWN_ENDS`."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a process per core is ours
        from tokenizers import Tokenizer

        try:
            content = file.read_bytes()
            model = Tokenizer.from_str(content.decode("utf-8"))
        except OSError as error:
            raise DataError(f"tokenizer: {file}: cannot be read: {error.strerror}") from None
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"tokenizer: {file}: not a tokenizer.json ({error})") from None
        model.encode_special_tokens = True
        model.no_truncation()
        model.no_padding()
        self.model: Any = model
        self._file = file
        ids = model.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise DataError(f"tokenizer: {file}: has no token")
        self.vocab = max(ids) + 1
        self.end_of_text = (
            end_of_text if isinstance(end_of_text, int) else _end(file, model, end_of_text)
        )
        self.sha256 = hashlib.sha256(content).hexdigest()

    def encode(self, documents: Sequence[bytes]) -> Ids:
        """Return uint16 or, for a larger vocabulary, uint32 ids, each document with its end."""
        kind = np.uint16 if self.vocab <= 1 << 16 else np.uint32
        rows = [np.zeros(0, kind)]
        for text in documents:
            for piece in pieces(text):
                (ids,) = self.batch([piece])
                if self.end_of_text in ids:
                    token = self.model.id_to_token(self.end_of_text)
                    raise DataError(
                        f"tokenizer: {self._file}: a text spells {token!r}, which ends documents "
                        "and is no special token there; mark it `special: true`, or set "
                        "end_of_text to another one"
                    )
                rows.append(np.asarray(ids, dtype=kind))
            rows.append(np.full(1, self.end_of_text, kind))
        return np.concatenate(rows)

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without an end; raises DataError for what it has no ids for."""
        try:
            made = self.model.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"tokenizer: {self._file}: cannot encode the text ({error})") from None
        return [one.ids for one in made]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of `ids`, byte 0 for each end of a document."""
        documents: list[list[int]] = [[]]
        for token in ids:
            if token == self.end_of_text:
                documents.append([])
            else:
                documents[-1].append(token)
        return b"\0".join(self.model.decode(document).encode() for document in documents)


@cache
def given(file: Path, end_of_text: str | None = None) -> GivenTokenizer:
    """Return the tokenizer of a file that does not change while the process lives."""
    return GivenTokenizer(file, end_of_text)


def _end(file: Path, model: Any, named: str | None) -> int:
    names = KNOWN_ENDS if named is None else (named,)
    for name in names:
        token = model.token_to_id(name)
        if token is not None:
            return int(token)
    added = [token.content for token in model.get_added_tokens_decoder().values()]
    raise DataError(
        f"{file}: no token {' or '.join(map(repr, names))} to end a document; set "
        f"end_of_text to one of its own: {', '.join(map(repr, added[:12])) or 'none'}"
    )
