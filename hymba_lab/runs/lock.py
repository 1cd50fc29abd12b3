"""A file lock that never waits without a word: whoever holds it is named, and patience ends.

The lock itself is the system's and dies with its process. Beside it stands a note of the holder
(`<lock>.holder`), read only by those who wait.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hymba_lab.errors import StoreError


class Waited(StoreError):
    """Patience ended before the lock was free."""


QUIET_S = 2.0
"""Waiting for less than this [s] is not worth a line."""

PATIENCE = "HYMBA_LAB_WAIT_S"
"""Environment variable: how long [s] a command waits for another one; a day where it is not set."""


def patience_s() -> float:
    """Return how long [s] a command waits for a lock that another process holds."""
    text = os.environ.get(PATIENCE, "86400")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise StoreError(f"{PATIENCE} = {text!r}: give a number of seconds from 0 to 1e9.")
    return seconds


def say(text: str) -> None:
    """Print a line about waiting at once, whatever the standard output is."""
    print(text, flush=True)


@contextmanager
def held(
    path: Path, what: str, *, limit_s: float | None = None, tell: Callable[[str], None] = say
) -> Iterator[None]:
    """Hold the lock file `path`; after two seconds say for whom `what` waits.

    Raises `Waited` when `limit_s` (default: `patience_s()`) has passed, naming the holder, and
    `StoreError` where the system can make no lock.
    """
    limit = patience_s() if limit_s is None else limit_s
    lock = FileLock(path)
    try:
        _acquire(lock, path, what, limit, tell)
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StoreError(
            f"{path}: cannot be locked: {said}; use a folder whose file system has locks."
        ) from None
    note = path.with_name(path.name + ".holder")
    try:
        with suppress(OSError):  # a full disk: the lock holds without its note
            note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _acquire(
    lock: FileLock, path: Path, what: str, limit: float, tell: Callable[[str], None]
) -> None:
    started = time.monotonic()
    try:
        lock.acquire(timeout=min(QUIET_S, limit))
        return
    except Timeout:
        if limit <= QUIET_S:
            raise Waited(_given_up(path, what, limit)) from None
    tell(f"{what} waits for {holder(path)}, which holds {path} (at most {limit:.0f} s).")
    try:
        lock.acquire(timeout=max(0.0, limit - (time.monotonic() - started)))
    except Timeout:
        raise Waited(_given_up(path, what, limit)) from None


def holder(path: Path) -> str:
    """Return who holds the lock `path`, as far as its note and the system tell."""
    try:
        known = json.loads(path.with_name(path.name + ".holder").read_text())
        pid, host = int(known["pid"]), str(known["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
    if host != socket.gethostname():
        return f"process {pid} on {host}"
    return f"process {pid}{_state(pid)}"


def _state(pid: int) -> str:
    """Return what the system says of a process of this machine that does not run."""
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return {"T": " (stopped; `kill -CONT` lets it go on)", "Z": " (ended)"}.get(state, "")
    return ""


def _given_up(path: Path, what: str, limit: float) -> str:
    return (
        f"{path}: {what} waited {limit:.0f} s for {holder(path)}, which holds the lock; end that "
        f"process, or wait longer with {PATIENCE} [s]."
    )
