"""Token files on disk: built once, mapped into memory, safe when several processes build at once.

    <cache>/index/<digest of recipe and files>.json   the fingerprint of those contents
    <cache>/corpora/<fingerprint>/{tokens.npy, facts.json, tokenizer.json}

Every entry is written beside its place and moved there in one step: it is whole or absent.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hymba_lab.atomic import cache_folder, json_of
from hymba_lab.data.source import digest
from hymba_lab.errors import DataError


def manifest(paths: Sequence[Path]) -> list[list[object]]:
    """Return what tells each file from another or from itself before an edit, cheaply.

    Its absolute place, inode, size and times: the times alone may be those of an archive, where
    files of two projects are alike in all but content.
    """
    stats = [(path, path.stat()) for path in paths]
    return [
        [str(path.absolute()), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]
        for path, s in stats
    ]


def recall(key: object) -> dict[str, Any] | None:
    """Return what was last remembered under `key` (plain JSON), None where nothing whole is."""
    try:
        facts = json_of(_place(key))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def remember(key: object, facts: dict[str, Any]) -> None:
    """Keep `facts` (plain JSON) under `key`."""
    file = _place(key)
    with _explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent, prefix="draft-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(facts, stream)
        os.replace(draft, file)


def remembered(key: object, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `build()` returned when last called under `key` (plain JSON), or call it."""
    facts = recall(key)
    if facts is None:
        remember(key, facts := build())
    return facts


def _place(key: object) -> Path:
    return cache_folder() / "index" / f"{digest(key)}.json"


def keep(name: str, write: Callable[[Path], None]) -> Path:
    """Return the folder `corpora/<name>`, filled by `write(draft folder)`.

    Where another process was faster its folder stays, so that all files of an entry come from
    one build. Raises DataError where the cache cannot be written.
    """
    home = cache_folder() / "corpora" / name
    with _explained(home.parent):
        home.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=home.parent, prefix="draft-"))
        try:
            write(draft)
            draft.rename(home)
        except OSError:
            if not home.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return home


def discard(home: Path) -> None:
    """Remove a damaged entry; processes that have it mapped keep their view."""
    grave = Path(tempfile.mkdtemp(dir=home.parent, prefix="draft-"))
    home.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


class _explained:
    """Turn an OSError of the cache into one message for the user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise DataError(
                f"cannot write the token cache {self.folder}: {error.strerror or error}; "
                "free some space or set HYMBA_LAB_CACHE to a folder that can be written"
            ) from error
