"""Which text there is, cut into units of work that depend on nothing but the text.

A unit is made and finished as one: some small files together, one file, or a part of a large one
(row groups of a parquet file, a range of bytes of a jsonl file).
"""

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hymba_lab.data.documents import TEXT, check_is_there, opened_parquet, unreadable
from hymba_lab.data.prepare.hub import opened_hub
from hymba_lab.data.prepare.schema import Hub, TokenizeConfig
from hymba_lab.errors import DataError
from hymba_lab.registry import at

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
SUFFIXES = (*TEXT, *JSON_LINES, ".parquet")


class Piece(NamedTuple):
    """Some documents of one file: those that begin in `start..stop-1`.

    Counted in row groups (parquet), bytes (jsonl) or shards of the hub (`path` empty); a file that
    cannot be cut is 0..1 of itself.
    """

    path: str
    start: int
    stop: int
    n_bytes: int
    """Share of the input, for the progress [bytes on disk]."""


Unit = list[Piece]


def cut(config: TokenizeConfig) -> list[Unit]:
    """Return the units of a configuration with absolute paths, in order.

    Raises DataError where there is no text, or a file cannot be read here.
    """
    if config.hub is not None:
        return [[piece] for piece in _hub_pieces(config.hub)]
    size = int(config.unit_mb * 1e6)
    units: list[Unit] = [[]]
    for path in found(config.paths):
        for piece in _pieces(path, config.column, size):
            if sum(other.n_bytes for other in units[-1]) + piece.n_bytes > size and units[-1]:
                units.append([])
            units[-1].append(piece)
    return units


def found(patterns: Sequence[str]) -> list[Path]:
    """Return the files that paths, globs and folders name, each once; folders with all below."""
    paths: dict[Path, Path] = {}
    for number, pattern in enumerate(patterns):
        where = f"{at(pattern)}paths[{number}]"
        for path in _matches(where, pattern):
            paths.setdefault(Path(os.path.realpath(path)), path)
    return list(paths.values())


def _matches(where: str, pattern: str) -> Iterator[Path]:
    if Path(pattern).is_dir():
        named = [path for path in _below(Path(pattern)) if path.name.endswith(SUFFIXES)]
        what = f"holds no file that ends in {', '.join(SUFFIXES)}"
    elif os.path.lexists(pattern):
        named, what = [Path(pattern)], ""
    else:
        matches = sorted(glob.glob(pattern, recursive=True))
        named = [Path(match) for match in matches if not os.path.isdir(match)]
        what = "matches no file" if glob.has_magic(pattern) else "does not exist"
    if not named:
        raise DataError(
            f"{where}: {str(pattern)!r} {what}; paths are relative to the YAML file that names them"
        )
    for path in named:
        check_is_there(where, path)
        if not path.name.endswith(SUFFIXES):
            raise DataError(
                f"{where}: {path} has the suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}"
            )
        yield path


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links, each folder once."""

    def unreadable_folder(error: OSError) -> None:
        raise unreadable(Path(error.filename), error)

    entered: set[str] = set()
    for home, folders, names in os.walk(folder, onerror=unreadable_folder, followlinks=True):
        if os.path.realpath(home) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(home))
        folders.sort()
        yield from (Path(home, name) for name in sorted(names))


def _pieces(path: Path, column: str, size: int) -> Iterator[Piece]:
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if n_bytes <= size or not path.name.endswith((".parquet", ".jsonl")):
        yield Piece(str(path), 0, _length(path, column, n_bytes), n_bytes)
        return
    whole = _length(path, column, n_bytes)
    n_parts = max(1, min(-(-n_bytes // size), whole))
    edges = [whole * part // n_parts for part in range(n_parts + 1)]
    for start, stop in itertools.pairwise(edges):
        yield Piece(str(path), start, stop, n_bytes * (stop - start) // max(1, whole))


def _length(path: Path, column: str, n_bytes: int) -> int:
    if path.suffix == ".parquet":
        with opened_parquet(path, column) as table:
            return int(table.num_row_groups)
    return n_bytes if path.suffix == ".jsonl" else 1


def _hub_pieces(hub: Hub) -> list[Piece]:
    n_shards = opened_hub(hub).num_shards
    return [Piece("", number, number + 1, 0) for number in range(n_shards)]
