"""Files of examples as records, each with the place it stands at; every fault names it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hymba_lab.atomic import parsed_json, text_of
from hymba_lab.errors import DataError

ENDINGS = (".json", ".jsonl", ".parquet")


class Record(NamedTuple):
    """One example as it was written."""

    content: dict[str, Any]
    where: str
    """File with line or number."""
    kind: str | None = None
    """What the file itself says of its records (LMFlow's `type`)."""


def files(paths: Sequence[str]) -> list[Path]:
    """Return the files of paths, patterns and folders, in order, each once."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            here = sorted(
                p for p in path.iterdir() if p.suffix in ENDINGS and not p.name.startswith(".")
            )
        elif path.exists():
            here = [path]
        else:
            here = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        if not here:
            raise DataError(
                f"{given}: no such file, and no folder or pattern with {', '.join(ENDINGS)} files."
            )
        found += here
    return list(dict.fromkeys(found))


def read(path: Path) -> Iterator[Record]:
    """Yield the records of one file; raises `DataError` for what is none."""
    if path.suffix == ".jsonl":
        records = _lines(path)
    elif path.suffix == ".parquet":
        records = _parquet(path)
    elif path.suffix == ".json":
        records = _whole(path)
    else:
        raise DataError(f"{path}: unknown kind of file; give {', '.join(ENDINGS)}.")
    n = 0
    for n, record in enumerate(records, start=1):  # noqa: B007
        yield record
    if not n:
        raise DataError(f"{path}: holds no example.")


def _lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            content = parsed_json(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}).") from None
        yield Record(_mapping(content, where), where)


def _whole(path: Path) -> Iterator[Record]:
    """Read LMFlow's `{"type": ..., "instances": [...]}`, or a list of records."""
    text = _text(path)
    if not text.strip():
        return
    try:
        content = parsed_json(text)
    except ValueError as error:
        at = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{path}{at}: not JSON ({getattr(error, 'msg', error)}); a file with a record a "
            "line is called .jsonl."
        ) from None
    kind = None
    if isinstance(content, dict):
        kind, content = content.get("type"), content.get("instances")
        if not isinstance(kind, str) or not isinstance(content, list):
            raise DataError(
                f'{path}: neither a list of records nor {{"type": ..., "instances": [...]}}.'
            )
    if not isinstance(content, list):
        raise DataError(f"{path}: holds no list of records.")
    for number, record in enumerate(content, start=1):
        where = f"{path}: record {number}"
        yield Record(_mapping(record, where), where, kind)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for content in batch.to_pylist():
                number += 1
                yield Record(_without_nulls(content), f"{path}: record {number}")
    except (OSError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: not a parquet file, or a damaged one ({said}).") from None


def _without_nulls(value: Any) -> Any:
    """Leave out what a column has and a record lacks."""
    if isinstance(value, dict):
        return {key: _without_nulls(v) for key, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _text(path: Path) -> str:
    try:
        return text_of(path, 1 << 40)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{where}: {str(content)[:40]!r} is no record; write {{key: value}}.")
    return content
