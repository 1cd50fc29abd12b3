"""The user's own files as documents: txt, jsonl, parquet, and what can be wrong with each."""

import glob
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hymba_lab.errors import DataError
from hymba_lab.registry import Located, at

TEXT = (".txt", ".md", ".rst", ".py")
SUFFIXES = (*TEXT, ".jsonl", ".parquet")


def find(option: str, patterns: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files that paths and globs name, each once.

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
            found.setdefault(Path(os.path.realpath(path)), path)
    return list(found.values())


def _matches(where: str, pattern: str) -> list[Path]:
    where, path = f"{at(pattern)}{where}", Path(os.path.expanduser(pattern))
    written = pattern.written if isinstance(pattern, Located) else pattern
    if path.is_dir():
        raise DataError(
            f"{where}: {written!r} is a folder; name files, for example {Path(written) / '*.txt'}"
        )
    files = [path]
    if not os.path.lexists(path):
        files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if not file.is_dir()]
    if not files:
        what = "matches no file" if glob.has_magic(pattern) else "does not exist"
        raise DataError(f"{where}: {written!r} {what} {_looked(pattern, written)}")
    for file in files:
        check_is_there(where, file)
    return files


def _looked(pattern: str, written: str) -> str:
    """Say from where a path was looked for, and how to write what was meant from here."""
    if not isinstance(pattern, Located):
        return f"(looked from {Path.cwd()}); check the path"
    if Path(pattern) != Path(written) and glob.glob(written, recursive=True):
        here = os.path.relpath(Path.cwd(), Path(pattern.folder))
        return (
            f"(looked from {pattern.folder}): paths are relative to the file that names them, and "
            f"no longer to the folder you start from; write {os.path.join(here, written)}"
        )
    return f"(looked from {pattern.folder}, that of the file that names it); check the path"


def check_is_there(where: str, path: Path) -> None:
    """Raise DataError for a link to nothing and for what is no file, such as a pipe."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        target = os.readlink(path) if path.is_symlink() else "nothing"
        raise DataError(
            f"{where}: {path} is a link to {target}, which is not there; fetch the contents "
            "(dvc pull, git annex get) or leave the file out"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(kind):
        raise DataError(f"{where}: {path} is no regular file (a pipe or a device); name a file")


def read(path: Path, *, field: str, column: str, nul: bool = True) -> list[bytes]:
    """Return the documents of a file in UTF-8: the text, each jsonl line, each parquet row.

    Blank jsonl lines and null rows are skipped. `nul` says whether texts may hold the character
    NUL. Raises DataError naming the file and the line, the byte offset or the columns.
    """
    if path.suffix == ".parquet":
        texts = [text.encode("utf-8", "replace") for text in parquet_texts(path, column)]
    else:
        content = _content(path)
        check_utf8(path, content)
        check_no_pointer(path, content)
        texts = list(_json_lines(path, content, field)) if path.suffix == ".jsonl" else [content]
    if not nul and (held := [number for number, text in enumerate(texts) if b"\0" in text]):
        raise DataError(
            f"{path}: document {held[0] + 1} of {len(texts)} holds a NUL, which ends a document "
            f"among bytes; take it out (tr -d '\\0' < {path.name}), or set tokenizer: bpe"
        )
    return texts


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the message for a file that the system does not let us read."""
    return DataError(
        f"{path}: cannot be read: {error.strerror or error}; check its permissions and its disk"
    )


def check_utf8(path: Path, content: bytes) -> None:
    """Raise DataError with the first byte of `content` that is not UTF-8."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; "
            f"convert the file, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def check_no_pointer(path: Path, content: bytes) -> None:
    """Raise DataError for the few bytes that git keeps in place of a large file."""
    for mark, command in _POINTERS.items():
        if content.startswith(mark) and len(content) < 1024:
            raise DataError(f"{path}: a pointer in place of the file; fetch it first: {command}")


_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "git lfs pull",
    b"/annex/objects/": "git annex get",
}


def _json_lines(path: Path, content: bytes, field: str) -> Iterator[bytes]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            text = json_text(f"{path}:{number}", line, field)
            yield text.encode("utf-8", "replace")  # JSON can spell half a surrogate pair


def json_text(where: str, line: bytes, field: str) -> str:
    """Return the field of one JSON object; raises DataError with `where` in front."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
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
    return str(row[field])


def parquet_texts(
    path: Path, column: str, row_groups: Sequence[int] | None = None, batch_rows: int = 1024
) -> Iterator[str]:
    """Yield the strings of a column, null rows left out, a batch of rows in memory at a time."""
    with opened_parquet(path, column) as table:
        for batch in table.iter_batches(batch_rows, columns=[column], row_groups=row_groups):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)


@contextmanager
def opened_parquet(path: Path, column: str) -> Iterator[Any]:
    """Open a parquet file that has the column, once, as strings; faults inside become DataError."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: reading parquet takes pyarrow: pip install pyarrow") from error
    try:
        with path.open("rb") as stream:
            table = parquet.ParquetFile(stream)
            _check_column(path, table.schema_arrow, column)
            yield table
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the column {column!r} holds bytes that are not UTF-8; write the file again"
        ) from error
    except ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _check_column(path: Path, schema: Any, column: str) -> None:
    from pyarrow import types

    names = schema.names
    if column not in names:
        raise DataError(
            f"{path}: no column {column!r}; it has {', '.join(map(repr, names))}; set `column`"
        )
    if names.count(column) > 1:
        raise DataError(
            f"{path}: {names.count(column)} columns are named {column!r}; which one is meant "
            "cannot be said: write the file with one"
        )
    kind = schema.field(column).type
    if types.is_dictionary(kind):  # as pandas writes categories
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise DataError(f"{path}: the column {column!r} is {kind}, strings are expected")
