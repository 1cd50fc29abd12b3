"""Text to the ids of a model and back."""

from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from hymba_lab.errors import CheckpointError


def whole_text(text: str) -> str:
    """Return the text with "?" for halves of surrogate pairs, which JSON and a shell can spell."""
    return text.encode("utf-8", "replace").decode()


class Codec(Protocol):
    """Text to ids of the model and back.

    `eos` are the ids that end a text, `bos` is the one that a text without a beginning starts with.
    """

    eos: list[int]
    bos: int | None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a prompt, with what the tokenizer puts in front unless told not to."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        ...


class TokenizerFile:
    """The `tokenizer.json` of a folder in the released format."""

    def __init__(self, path: Path, eos: list[int], bos: int | None = None) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({error}).") from error
        self.eos, self.bos = eos, bos

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids, with those that the tokenizer puts in front of every text."""
        return list(self._tokenizer.encode(whole_text(text), add_special_tokens=special).ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text without special tokens."""
        return str(self._tokenizer.decode(ids))


class SourceIds:
    """The ids of one text source of a run, which start at `offset` in the mixture's vocabulary."""

    def __init__(self, tokenizer: Any, offset: int) -> None:
        self.tokenizer, self.offset = tokenizer, offset
        self._end: int = getattr(tokenizer, "end_of_text", 0)  # of our own making: id 0
        self.eos = [offset + self._end]
        self.bos: int | None = offset + self._end  # and so stands before the next

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids without an end of document."""
        return [
            self.offset + int(i) for i in self.tokenizer.encode([whole_text(text).encode()])[:-1]
        ]

    def decode(self, ids: list[int]) -> str:
        """Return the text; ids of other sources become U+FFFD."""
        text = ""
        own = [i - self.offset for i in ids]
        while own:
            known = list(takewhile(self._is_text, own))
            text += self.tokenizer.decode(known).decode("utf-8", "replace")
            text += "\N{REPLACEMENT CHARACTER}" if len(known) < len(own) else ""
            own = own[len(known) + 1 :]
        return text

    def _is_text(self, i: int) -> bool:
        return 0 <= i < self.tokenizer.vocab and i != self._end


def text_source(config: Any, file: Path) -> Codec:
    """Return the codec of the first source of a run that is text."""
    from hymba_lab.data.source import datasets
    from hymba_lab.data.tokenizers import Bytes

    offset = 0
    for spec in config.data.values():
        options = spec.options()
        if options.get("tokenizer") == "bytes" and options.get("tokenizer_file") is None:
            return SourceIds(Bytes(), offset)  # the text itself need not be there
        source: Any = datasets.build(spec, config.training.seq_len)
        tokenizer = getattr(source, "tokenizer", None)
        if tokenizer is not None:
            return SourceIds(tokenizer, offset)
        offset += source.vocab
    labels = ", ".join(f"{label} ({spec.name})" for label, spec in config.data.items())
    raise CheckpointError(
        f"{file}: trained on {labels}: none of it is text; give --ids instead of --prompt."
    )
