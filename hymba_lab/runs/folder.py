"""A run's folder: identity, lock, checkpoint, result. The folder is the truth; MLflow mirrors it.

    runs/<identity>/  lock  last.ckpt  progress.json  failure.json  result.json

A run is finished when `result.json` stands there, whole: every file is written beside its place
and moved in. Whoever holds `lock` trains; the lock dies with its process.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.config import Config
from hymba_lab.errors import StoreError
from hymba_lab.runs import record as records
from hymba_lab.runs.lock import Waited, held
from hymba_lab.runs.record import Failure, Progress, Record, identity_of


def run_identity(config: Config, seed: int, data_fingerprint: str) -> str:
    """Return the sha256 of what determines a result: configuration, seed, data, code meaning."""
    return identity_of(config.digest, seed, data_fingerprint)


class RunFolder:
    """The files of one run under `<root>/runs/`."""

    def __init__(self, root: Path, identity: str) -> None:
        self.identity = identity
        self.path = root / "runs" / identity[:20]

    @contextmanager
    def locked(self, timeout: float = -1) -> Iterator[bool]:
        """Hold the run for this process; yields False when `timeout` [s] passes (-1 = wait)."""
        make_folder(self.path)
        what = f"run {self.identity[:12]}"
        with ExitStack() as stack:
            free = True
            try:
                limit = None if timeout < 0 else timeout
                stack.enter_context(held(self.path / "lock", what, limit_s=limit))
            except Waited:
                if timeout < 0:
                    raise
                free = False
            yield free

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished run's record, or None; a `StoreError` for the record of another run."""
        path = self.path / "result.json"
        record = records.read(path, Record)
        if record is not None:
            records.checked(path, record, self.identity)
        return record

    @property
    def failure(self) -> dict[str, Any] | None:
        """The last failure's record (`reason`, `message`, `attempts`), or None."""
        return records.read(self.path / "failure.json", Failure)

    @property
    def progress(self) -> dict[str, Any] | None:
        """The step and metrics last reported by a run under way; None also where they are cut."""
        try:
            return records.read(self.path / "progress.json", Progress)
        except StoreError:  # it is not flushed to the disk, and nothing depends on it
            return None

    @cached_property
    def checkpoint(self) -> Path:
        """Where the training loop keeps its last checkpoint."""
        return self.path / "last.ckpt"

    def finish(self, record: dict[str, Any]) -> None:
        """Write the result; from here on the run is never trained again."""
        self._write("result.json", {"format": records.FORMAT, "identity": self.identity, **record})
        for leftover in ("failure.json", "progress.json"):
            (self.path / leftover).unlink(missing_ok=True)

    def fail(self, reason: str, message: str) -> None:
        """Record a failure, counting the attempts."""
        attempts = (self.failure or {}).get("attempts", 0) + 1
        self._write("failure.json", {"reason": reason, "message": message, "attempts": attempts})

    def report(self, progress: dict[str, Any]) -> None:
        """Say how far the run is; readers see a whole record or none."""
        self._write("progress.json", progress, durable=False)

    def _write(self, name: str, record: dict[str, Any], durable: bool = True) -> None:
        make_folder(self.path)
        write_atomically(self.path / name, json.dumps(record, indent=1), durable)
