"""A folder of shards with its index: opened without reading the tokens, changes noticed.

    <folder>/index.json       facts about the whole and one line of facts per shard
    <folder>/tokenizer.json   what made the ids
    <folder>/train-*.bin, val-*.bin

The fingerprint is that of the index, which holds the sha256 of every shard. An opening compares
each file's size, and on the first one its header, with the index. What the file system says of
each file (inode, size, times) is remembered for every machine, whose copy may have its own; one
that changes is read whole and must still have the sha256 of the index.
"""

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from hymba_lab.atomic import json_of
from hymba_lab.data.cache import recall, remember
from hymba_lab.data.chain import Stretch, TokenChain
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.shard_file import HEADER_BYTES, ShardHeader, Width, read_header, sha256_of
from hymba_lab.data.source import digest
from hymba_lab.errors import DataError

INDEX, TOKENIZER = "index.json", "tokenizer.json"
FORMAT = 1

Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")


@dataclass(frozen=True)
class Shard:
    """One file of the index."""

    file: str
    part: Part
    header: ShardHeader


@dataclass(frozen=True)
class TokenIndex:
    """All shards of one tokenized corpus."""

    folder: Path
    name: str
    shards: list[Shard]
    entropy: float
    """Loss on the validation part of a model that ignores its context [nats per token]."""

    @property
    def vocab(self) -> int:
        """Ids are 0..vocab-1."""
        return self.shards[0].header.vocab

    @property
    def end_of_text(self) -> int:
        """The id that ends every document."""
        return self.shards[0].header.end_of_text

    @property
    def tokenizer(self) -> str:
        """sha256 (hex) of the tokenizer.json."""
        return self.shards[0].header.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the contents of all shards in order, wherever they lie."""
        rows = [[s.part, s.header.n_tokens, s.header.sha256] for s in self.shards]
        return digest("tokens", FORMAT, self.tokenizer, self.vocab, self.end_of_text, rows)

    def total(self, part: Part, fact: str) -> int:
        """Return the sum over a part of `n_tokens`, `n_documents` or `n_bytes`."""
        return sum(getattr(shard.header, fact) for shard in self.shards if shard.part == part)

    def bytes_per_token(self, part: Part) -> float:
        """Return the mean UTF-8 bytes of a token, each end of a document counted as one byte."""
        n_bytes = self.total(part, "n_bytes") + self.total(part, "n_documents")
        return n_bytes / self.total(part, "n_tokens")

    def chain(self, part: Part) -> TokenChain:
        """Return the tokens of a part as one row."""
        return TokenChain([
            Stretch(self.folder / s.file, HEADER_BYTES, s.header.item.str, s.header.n_tokens)
            for s in self.shards if s.part == part
        ])  # fmt: skip


def write_index(index: TokenIndex, more: dict[str, Any], *, draft: Path) -> None:
    """Write `draft`, the text of index.json, `more` being facts that are not read again."""
    shards = [
        {"file": s.file, "part": s.part}
        | {k: v for k, v in asdict(s.header).items() if k not in _SHARED}
        for s in index.shards
    ]
    facts = {"format": FORMAT, "name": index.name, "entropy": index.entropy, **more}
    facts |= {key: getattr(index.shards[0].header, key) for key in _SHARED}
    lines = ",\n".join(json.dumps(shard) for shard in shards)
    head = json.dumps(facts, indent=1)[:-2]
    draft.write_text(f'{head},\n "shards": [\n{lines}\n]}}\n', "utf-8")


_SHARED = ("dtype", "vocab", "end_of_text", "tokenizer")
_Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class _Row(BaseModel):
    """A shard's line; its file lies beside the index."""

    model_config = ConfigDict(strict=True, extra="forbid")
    file: Annotated[str, Field(pattern=r"^[^/\\\x00]*\.bin$")]
    part: Part
    n_tokens: _Count
    n_documents: _Count
    n_bytes: _Count
    sha256: str


class _Facts(BaseModel):
    """What is read of an index; it holds more."""

    model_config = ConfigDict(strict=True)
    format: int
    name: str
    entropy: FiniteFloat
    dtype: Width
    vocab: Annotated[int, Field(ge=1, le=1 << 32)]
    end_of_text: _Count
    tokenizer: str
    shards: list[_Row]


def read_index(folder: Path) -> TokenIndex:
    """Return the index of a folder after a look at each of its files.

    Raises DataError where the folder is not whole or a shard is not the one of the index.
    """
    file = folder / INDEX
    try:
        facts = _Facts.model_validate(json_of(file))
    except FileNotFoundError:
        raise DataError(_missing(folder)) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(
            f"{file}: not an index of shards ({_said(error)}); make it again: hymba-lab tokenize"
        ) from None
    if facts.format != FORMAT or {row.part for row in facts.shards} != set(PARTS):
        raise DataError(
            f"{file}: format {facts.format}, format {FORMAT} with both parts is read here"
        )
    shared = {key: getattr(facts, key) for key in _SHARED}
    shards = [
        Shard(row.file, row.part, ShardHeader(**shared, **row.model_dump(exclude={"file", "part"})))
        for row in facts.shards
    ]
    index = TokenIndex(folder.absolute(), facts.name, shards, facts.entropy)
    _check(index)
    return index


def _said(error: ValueError) -> str:
    """Return what is wrong first, and where."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _missing(folder: Path) -> str:
    if (folder / ".work").is_dir():
        return f"{folder}: not finished; run hymba-lab tokenize again, it goes on where it stopped"
    what = f"has no {INDEX}" if folder.is_dir() else "is no folder"
    return f"{folder}: {what}; name a folder that hymba-lab tokenize wrote"


def _check(index: TokenIndex) -> None:
    key = ["shards seen", socket.gethostname(), str(index.folder), index.fingerprint]
    seen = recall(key) or {}
    now: dict[str, list[int]] = {}
    for shard in index.shards:
        path = index.folder / shard.file
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror or error}; {INDEX} names it: copy or make it again"
            ) from None
        now[shard.file] = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if stat.st_size != shard.header.file_size:
            raise _other(
                path, f"another size ({stat.st_size:,} bytes, not {shard.header.file_size:,})"
            )
        if shard.file not in seen:
            if read_header(path) != shard.header:
                raise _other(path, "another header")
        elif seen[shard.file] != now[shard.file]:
            verify([shard], index.folder)
    if now != seen:
        remember(key, now)


def tokenizer_of(index: TokenIndex) -> GivenTokenizer:
    """Return the tokenizer that made the ids; raises DataError for another one."""
    found = GivenTokenizer(index.folder / TOKENIZER, index.end_of_text)
    if found.sha256 != index.tokenizer:
        raise _other(index.folder / TOKENIZER, "another tokenizer")
    return found


def verify(shards: Sequence[Shard], folder: Path) -> None:
    """Read shards whole; raises DataError for the first that is not what the index says."""
    for shard in shards:
        path = folder / shard.file
        if read_header(path) != shard.header or (
            sha256_of(path, HEADER_BYTES) != shard.header.sha256
        ):
            raise _other(path, "another sha256")


def _other(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what} than {path.with_name(INDEX)} says: the file was changed since; copy the "
        "folder again, or make it again: hymba-lab tokenize"
    )
