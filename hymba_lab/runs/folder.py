"""A run's folder: identity, lock, checkpoint, result. The folder is the truth; MLflow mirrors it.

    runs/<identity>/  lock  last.ckpt  progress.json  failure.json  result.json

A run is finished when `result.json` stands there, whole: every file is written beside its place
and moved in. Whoever holds `lock` trains; the lock dies with its process.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.config import Config
from hymba_lab.errors import StoreError
from hymba_lab.runs.provenance import CODE_VERSION

_FORMAT = 1

_NEEDED = {  # the keys without which a record tells nothing
    "result.json": {"format", "identity", "metrics", "history", "stopped_by"},
    "failure.json": {"reason", "message", "attempts"},
    "progress.json": {"step", "metrics"},
}


def run_identity(config: Config, seed: int, data_fingerprint: str) -> str:
    """Return the sha256 of what determines a result: configuration, seed, data, code meaning."""
    parts = [config.digest, seed, data_fingerprint, CODE_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class RunFolder:
    """The files of one run under `<root>/runs/`."""

    def __init__(self, root: Path, identity: str) -> None:
        self.identity = identity
        self.path = root / "runs" / identity[:20]

    @contextmanager
    def locked(self, timeout: float = -1) -> Iterator[bool]:
        """Hold the run for this process; yields False when `timeout` [s] passes (-1 = wait)."""
        make_folder(self.path)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be locked: {error.strerror}.") from None
        try:
            yield True
        finally:
            lock.release()

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished run's record, or None."""
        return self._read("result.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """The last failure's record (`reason`, `message`, `attempts`), or None."""
        return self._read("failure.json")

    @property
    def progress(self) -> dict[str, Any] | None:
        """The step, loss and speed last reported by a run under way, or None."""
        return self._read("progress.json")

    @cached_property
    def checkpoint(self) -> Path:
        """Where the training loop keeps its last checkpoint."""
        return self.path / "last.ckpt"

    def finish(self, record: dict[str, Any]) -> None:
        """Write the result; from here on the run is never trained again."""
        self._write("result.json", {"format": _FORMAT, "identity": self.identity, **record})
        for leftover in ("failure.json", "progress.json"):
            (self.path / leftover).unlink(missing_ok=True)

    def fail(self, reason: str, message: str) -> None:
        """Record a failure, counting the attempts."""
        attempts = (self.failure or {}).get("attempts", 0) + 1
        self._write("failure.json", {"reason": reason, "message": message, "attempts": attempts})

    def report(self, progress: dict[str, Any]) -> None:
        """Say how far the run is; readers see a whole record or none."""
        self._write("progress.json", progress, durable=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: not a whole record: {error}; delete the folder to train this run again."
            ) from None
        if not isinstance(record, dict) or not _NEEDED[name] <= record.keys():
            needed = ", ".join(sorted(_NEEDED[name]))
            raise StoreError(
                f"{path}: not a record with {needed}; delete the folder to train this run again."
            )
        if name == "result.json" and record["format"] != _FORMAT:
            raise StoreError(
                f"{path}: format {record['format']}, this version reads {_FORMAT}; "
                "use another --root, or delete the folder to train this run again."
            )
        return record

    def _write(self, name: str, record: dict[str, Any], durable: bool = True) -> None:
        make_folder(self.path)
        write_atomically(self.path / name, json.dumps(record, indent=1), durable)
