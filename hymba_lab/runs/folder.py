"""A run's folder: identity, lock, checkpoint, result. The folder is the truth; MLflow mirrors it.

    runs/<identity>/  lease.<n>.json  last.ckpt  progress.json  failure.json  result.json

A run is finished when `result.json` stands there, whole: every file is written beside its place
and moved in. Whoever holds the lease trains (`lease`); it dies with its process.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from hymba_lab.atomic import facts_of, make_folder, write_atomically
from hymba_lab.config import Config
from hymba_lab.errors import StoreError
from hymba_lab.runs import record as records
from hymba_lab.runs.lease import Lease, take_over, waited_for
from hymba_lab.runs.lock import say
from hymba_lab.runs.record import Failure, Progress, Record, identity_of


def run_identity(config: Config, seed: int, data_fingerprint: str) -> str:
    """Return the sha256 of what determines a result: configuration, seed, data, code meaning."""
    return identity_of(config.digest, seed, data_fingerprint)


def run_path(root: Path, identity: str) -> Path:
    """Return the folder of a run."""
    return root / "runs" / identity[:20]


CHECKPOINT = "last.ckpt"  # of a run that goes on


class RunFolder:
    """The files of one run under `<root>/runs/`."""

    def __init__(self, root: Path, identity: str) -> None:
        self.identity = identity
        self.path = run_path(root, identity)
        self.lease: Lease | None = None  # asked before every writing, while the run is held

    @contextmanager
    def locked(
        self, timeout: float = -1, told: Callable[[str], None] | None = None
    ) -> Iterator[Lease | None]:
        """Hold the run for this process; yields None when `timeout` [s] passes (-1 = wait).

        What this object writes meanwhile is written only while the run is still held.
        """
        with waited_for(self.path, timeout, told or say) as self.lease:
            if self.lease is not None:
                self._tidy()
            try:
                yield self.lease
            finally:
                self.lease = None

    @contextmanager
    def claimed(
        self, claim: str, job: str, on_lost: Callable[[], None] | None = None
    ) -> Iterator[Lease | None]:
        """Hold the run as the attempt that a coordinator claimed; None when the claim is void."""
        lease = self.lease = take_over(self.path, claim, job)
        if lease is None:
            yield None
            return
        lease.keep(on_lost)
        self._tidy()
        try:
            yield lease
        finally:
            self.lease = None
            lease.release()

    def _tidy(self) -> None:
        """Remove what a process that was killed, or is lost, was about to write."""
        for leftover in self.path.glob("*.partial"):
            leftover.unlink(missing_ok=True)

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
        return self.path / CHECKPOINT

    def finish(self, record: dict[str, Any]) -> None:
        """Write the result; from here on the run is never trained again."""
        self._write("result.json", {"format": records.FORMAT, "identity": self.identity, **record})
        for leftover in ("failure.json", "progress.json"):
            (self.path / leftover).unlink(missing_ok=True)

    def fail(self, reason: str, message: str) -> None:
        """Record a failure, counting the attempts and this among the run's endings."""
        attempts = (self.failure or {}).get("attempts", 0) + 1
        self._write("failure.json", {"reason": reason, "message": message, "attempts": attempts})
        self.count_ending(reason)

    def count_ending(self, reason: str) -> None:
        """Note that an attempt ended before its time for this reason."""
        self._write("endings.json", {**self.endings, reason: self.endings.get(reason, 0) + 1})

    @property
    def endings(self) -> dict[str, int]:
        """How often attempts of this run ended before their time, by reason."""
        return facts_of(self.path / "endings.json")

    def report(self, progress: dict[str, Any]) -> None:
        """Say how far the run is; readers see a whole record or none."""
        self._write("progress.json", progress, durable=False)

    def _write(self, name: str, record: dict[str, Any], durable: bool = True) -> None:
        make_folder(self.path)
        guard = self.lease.require if self.lease else None
        write_atomically(self.path / name, json.dumps(record, indent=1), durable, guard)
