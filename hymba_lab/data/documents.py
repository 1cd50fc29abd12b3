"""The user's own files as documents: txt, jsonl, parquet, and what can be wrong with each."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hymba_lab.errors import DataError

TEXT = (".txt", ".md", ".rst", ".py")
SUFFIXES = (*TEXT, ".jsonl", ".parquet")


def find(option: str, patterns: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files that paths and globs name, relative to the working directory, each once.

    Raises DataError where a pattern names no file, a folder, or a file of an unknown kind;
    `option` is where the patterns stand ("files.paths").
    """
    found: dict[Path, Path] = {}
    for number, pattern in enumerate(patterns):
        where = f"{option}[{number}]"
        for path in _matches(where, pattern):
            if path.suffix not in suffixes:
                raise DataError(
                    f"{where}: {path} has the suffix {path.suffix!r}; "
                    f"allowed: {', '.join(suffixes)}"
                )
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _matches(where: str, pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise DataError(
            f"{where}: {pattern!r} is a folder; name files, for example {path / '*.txt'}"
        )
    if path.exists():
        return [path]
    files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in files if not file.is_dir()]
    if not files:
        what = "matches no file" if glob.has_magic(pattern) else "does not exist"
        raise DataError(
            f"{where}: {pattern!r} {what} (looked from {Path.cwd()}); check the path, or give it "
            "relative to the folder you start from"
        )
    return files


def read(path: Path, *, field: str, column: str) -> list[bytes]:
    """Return the documents of a file in UTF-8: the text, each jsonl line, each parquet row.

    Blank jsonl lines and null rows are skipped. Raises DataError naming the file and the line, the
    byte offset or the columns.
    """
    if path.suffix == ".parquet":
        return list(_parquet_rows(path, column))
    content = _content(path)
    _check_utf8(path, content)
    return list(_json_lines(path, content, field)) if path.suffix == ".jsonl" else [content]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be read: {error.strerror or error}; check its permissions and its disk"
    )


def _check_utf8(path: Path, content: bytes) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; "
            f"convert the file, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _json_lines(path: Path, content: bytes, field: str) -> Iterator[bytes]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{where}: not JSON: {error}; a jsonl file has one object per line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__} where an object is expected")
        if field not in row:
            raise DataError(
                f"{where}: no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}; "
                "set `field`"
            )
        if not isinstance(row[field], str):
            kind = type(row[field]).__name__
            raise DataError(f"{where}: the field {field!r} is {kind}, a string is expected")
        yield row[field].encode("utf-8", "replace")  # JSON can spell half a surrogate pair


def _parquet_rows(path: Path, column: str) -> Iterator[bytes]:
    try:
        from pyarrow import (
            ArrowException,
            parquet,
            types,
        )
    except ImportError as error:
        raise DataError(f"{path}: reading parquet takes pyarrow: pip install pyarrow") from error
    try:
        with path.open("rb") as stream:
            table = parquet.ParquetFile(stream)
            schema = table.schema_arrow
            if column not in schema.names:
                raise DataError(
                    f"{path}: no column {column!r}; it has {', '.join(map(repr, schema.names))}; "
                    "set `column`"
                )
            kind = schema.field(column).type
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise DataError(f"{path}: the column {column!r} is {kind}, strings are expected")
            for batch in table.iter_batches(columns=[column]):
                yield from (
                    text.encode() for text in batch.column(0).to_pylist() if text is not None
                )
    except ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
