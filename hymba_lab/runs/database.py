"""sqlite files as stores: their URLs, and making them whole or not at all.

A store's tables take a second to make. A process that is killed meanwhile must leave nothing that
a later one takes for a store: the file is made beside its place, under a lock, and moved in.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hymba_lab.atomic import make_folder
from hymba_lab.errors import StoreError
from hymba_lab.runs.lock import held

_LEFTOVERS = ("", "-journal", "-wal", "-shm")
_MAKE_LIMIT_S = 120.0  # for another process that makes or checks the same store


def url_of(path: Path) -> str:
    """Return the URL of a sqlite file, whatever characters its folders' names have.

    Where the path needs escapes the URL names the driver, too: MLflow makes the folder that it
    cuts out of a plain `sqlite:///` by hand, escapes and all, beside the one that is meant.
    """
    file = str(path.absolute())
    plain = f"sqlite:///{file}"
    url = URL.create("sqlite", database=file).render_as_string(hide_password=False)
    return plain if url == plain else url.replace("sqlite:", "sqlite+pysqlite:", 1)


def file_of(url: str) -> Path | None:
    """Return the file of a sqlite URL, None for any other store (or one in memory)."""
    if not url.startswith("sqlite"):
        return None
    try:
        database = make_url(url).database
    except (ArgumentError, ValueError):
        raise StoreError(f"tracking store {url}: not the URL of a database.") from None
    return Path(database).absolute() if database and database != ":memory:" else None


def make_whole(file: Path, make: Callable[[str], None], what: str) -> None:
    """Let `make(url)` fill a new sqlite file and move it to `file`, unless one is there already.

    Raises `StoreError` where the folder cannot be written or the lock cannot be had.
    """
    make_folder(file.parent)
    with held(file.with_name(file.name + ".lock"), what, limit_s=_MAKE_LIMIT_S):
        if file.exists() and not file.is_file():
            raise StoreError(f"{file}: is not a file; move it away, or name another store.")
        if file.exists() and file.stat().st_size:
            return
        draft = file.with_name(f".{file.name}.new")  # one name: a kill leaves at most one behind
        _remove(draft)
        try:
            make(url_of(draft))
            _flush(draft)
            os.replace(draft, file)
        except OSError as error:
            raise StoreError(f"{file}: cannot be made: {error.strerror or error}.") from None
        finally:
            _remove(draft)


def fault_of(file: Path) -> str | None:
    """Return what is wrong with a sqlite file, None for a sound or an absent one."""
    if not file.exists():
        return None
    if not file.is_file():
        return "is not a file"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            row = database.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:  # locked, or not to be read: no damage
        return None if "locked" in str(error) else f"cannot be read ({error})"
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"
    return None if row == ("ok",) else f"is damaged ({row[0] if row else 'no answer'})"


def _flush(path: Path) -> None:
    """Wait until a file is on the disk: what is moved in is whole after a power cut, too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(draft: Path) -> None:
    for ending in _LEFTOVERS:
        with suppress(OSError):
            draft.with_name(draft.name + ending).unlink(missing_ok=True)
