"""The documents of a piece one after another, with as little in memory as one of them takes."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hymba_lab.data.documents import check_no_pointer, json_text, parquet_texts, unreadable
from hymba_lab.data.prepare.hub import opened_hub
from hymba_lab.data.prepare.inputs import JSON_LINES, Piece
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.errors import DataError

MOST_BYTES = 1 << 30
"""A text file without `separator` is one document; larger ones must be cut."""

_BLOCK = 1 << 22


def documents(piece: Piece, config: TokenizeConfig) -> Iterator[str | None]:
    """Yield the texts of a piece in order, None for one that is left out as not UTF-8."""
    path = Path(piece.path)
    if not piece.path:
        yield from _hub(piece, config)
    elif path.suffix == ".parquet":
        yield from parquet_texts(path, config.column, range(piece.start, piece.stop))
    elif path.name.endswith(JSON_LINES):
        yield from _json_lines(piece, config)
    else:
        yield from (_decoded(path, text, config) for text in _texts(path, config.separator))


def _texts(path: Path, separator: str | None) -> Iterator[bytes]:
    """Yield the parts of a text file between separators; without one, the whole file."""
    try:
        if separator is None and path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{path}: more than {MOST_BYTES >> 30} GiB as one document; set `separator` to "
                "what stands between its documents, or cut the file"
            )
        with path.open("rb") as stream:
            if separator is None:
                text = stream.read()
                check_no_pointer(path, text)
                yield text
                return
            yield from _between(stream, separator.encode())
    except OSError as error:
        raise unreadable(path, error) from error


def _between(stream: IO[bytes], separator: bytes) -> Iterator[bytes]:
    held = b""
    while block := stream.read(_BLOCK):
        *whole, held = (held + block).split(separator)
        yield from (text for text in whole if text.strip())
    if held.strip():
        yield held


def _decoded(path: Path, text: bytes, config: TokenizeConfig) -> str | None:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        if config.undecodable == "replace":
            return text.decode("utf-8", "replace")
        if config.undecodable == "skip":
            return None
        raise DataError(
            f"{path}: not UTF-8: byte 0x{text[error.start]:02x} at offset {error.start} of a "
            "document; convert the file, or set undecodable: skip or replace"
        ) from None


def _json_lines(piece: Piece, config: TokenizeConfig) -> Iterator[str]:
    path = Path(piece.path)
    with _opened(path) as stream:
        at = piece.start
        if at:  # the line that reaches over `start` belongs to the piece before
            stream.seek(at - 1)
            at += len(stream.readline()) - 1
        plain = path.suffix == ".jsonl"
        number = 0
        while (not plain or at < piece.stop) and (line := stream.readline()):
            number += 1
            if line.strip():
                place = f"{path}:{number}" if not piece.start else f"{path}: byte {at}"
                yield json_text(place, line, config.column)
            at += len(line)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                yield stream  # type: ignore[misc]
        elif path.suffix == ".zst":
            from pyarrow import CompressedInputStream, OSFile

            with OSFile(str(path)) as file, CompressedInputStream(file, "zstd") as packed:
                yield io.BufferedReader(packed, _BLOCK)
        else:
            with path.open("rb", buffering=_BLOCK) as stream:
                yield stream
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from error
        raise DataError(f"{path}: cannot be unpacked: {error}; copy the file again") from error


def _hub(piece: Piece, config: TokenizeConfig) -> Iterator[str]:
    assert config.hub is not None
    stream = opened_hub(config.hub)
    if stream.num_shards > 1:
        stream = stream.shard(num_shards=stream.num_shards, index=piece.start)
    for row in _rows(stream, config.hub.dataset):
        if config.column not in row:
            raise DataError(
                f"hub: {config.hub.dataset}: no column {config.column!r}; it has "
                f"{', '.join(map(repr, row))}; set `column`"
            )
        text = row[config.column]
        if not isinstance(text, str | None):
            raise DataError(
                f"hub: {config.hub.dataset}: column {config.column!r} holds "
                f"{type(text).__name__}, not text; set `column`"
            )
        if text is not None:
            yield text


def _rows(stream: Any, dataset: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a streamed data set; one that breaks off is told, as it begins."""
    rows = iter(stream)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of many kinds: a broken row, a lost network
            said = " ".join(str(error).split())[:300]
            raise DataError(
                f"hub: {dataset}: cannot be read on ({type(error).__name__}: {said}); mend it, "
                "then run the same command again: finished units are not made twice"
            ) from error
        yield row
