"""Files that are whole or not there: written beside their place, flushed to the disk, moved in.

And the one folder outside of `--root` that a command may write to.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from hymba_lab.errors import DataError, LeaseLost, StoreError, TrialFailed


def make_folder(path: Path) -> None:
    """Create a folder and its parents; a `StoreError` says why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: the folder cannot be made: {error.strerror}; "
            "give a folder you can write to with --root."
        ) from None


Guard = Callable[[], None]
"""Raises when the file must not be replaced any more; asked right before it is."""


def write_atomically(
    path: Path, text: str, durable: bool = True, guard: Guard | None = None
) -> None:
    """Write a text file so that a reader, or a crash, sees the old or the new one, whole."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if guard:
                guard()
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}.") from None


def write_bytes(path: Path, content: bytes | memoryview, guard: Guard | None = None) -> None:
    """Write a file atomically; raises `TrialFailed("disk")` with the path and the reason."""
    # one name: a kill leaves at most one behind; with a guard, two processes may write at a time
    own = f".{os.getpid()}.{uuid.uuid4().hex[:8]}" if guard else ""
    partial = path.with_name(f"{path.name}{own}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if guard:
            guard()
        os.replace(partial, path)
    except LeaseLost:
        partial.unlink(missing_ok=True)
        raise
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TrialFailed(
            "disk",
            f"{path}: {len(content) / 1e6:.1f} MB cannot be written: {error.strerror}; "
            "make room or mend the folder, then start again: the run continues from the last "
            "checkpoint that was written.",
        ) from error


def cache_folder() -> Path:
    """Return `$HYMBA_LAB_CACHE`, else `$XDG_CACHE_HOME/hymba_lab`, else `~/.cache/hymba_lab`."""
    if own := os.environ.get("HYMBA_LAB_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "hymba_lab"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in containers
        raise DataError(
            "this user has no home folder for the token cache; set HYMBA_LAB_CACHE to a folder "
            "that can be written"
        ) from None
