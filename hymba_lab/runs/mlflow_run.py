"""One run of MLflow, to write to."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hymba_lab.errors import StoreError
from hymba_lab.runs.artifacts import may_write
from hymba_lab.runs.store_uri import whole

T = TypeVar("T")

_BATCH = 1000  # the most metrics one log_batch takes


class Opened(Protocol):
    """What a run needs of the store that holds it (`runs/tracking.Store`)."""

    uri: str
    root: Path
    client: Any
    patience_s: float

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return the client's answer; faults are `StoreError`s."""


class Run:
    """One MLflow run; metrics wait in a buffer and are written in batches."""

    def __init__(
        self, store: Opened, run_id: str, artifact_uri: str = "", flush_every_s: float = 5.0
    ) -> None:
        self.store, self.id, self.artifact_uri = store, run_id, artifact_uri
        self._flush_every_s, self._flushed_at = flush_every_s, time.monotonic()
        self._waiting: list[tuple[str, float, int, int]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note metrics [any unit] of a step; numbers that are not finite were not measured."""
        now = int(time.time() * 1000)
        self._waiting += [(k, float(v), now, step) for k, v in metrics.items() if math.isfinite(v)]
        if time.monotonic() - self._flushed_at > self._flush_every_s or len(self._waiting) > 500:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        from mlflow.entities import Metric

        waiting, self._waiting, self._flushed_at = self._waiting, [], time.monotonic()
        for start in range(0, len(waiting), _BATCH):
            batch = [Metric(*entry) for entry in waiting[start : start + _BATCH]]
            self.store.call(self.store.client.log_batch, self.id, metrics=batch)

    def describe(self, params: Mapping[str, Any] = {}, tags: Mapping[str, str] = {}) -> None:
        """Log parameters (those of the searched and compared kind) and tags."""
        from mlflow.entities import Param, RunTag

        self.store.call(
            self.store.client.log_batch,
            self.id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def artifact(self, name: str, text: str) -> None:
        """Attach a text file; the resolved configuration is one, since parameters are cut.

        Raises `StoreError` where the store would put it outside the project's root.
        """
        if not may_write(self.artifact_uri, self.store.root):
            raise StoreError(
                f"experiment kept at {self.artifact_uri}, outside {self.store.root.resolve()}: its "
                "store was made by another project; name a store of this one with --tracking-uri."
            )
        self.store.call(self.store.client.log_text, self.id, text, name)

    def end(self, status: str = "FINISHED") -> None:
        """Flush and close: FINISHED, FAILED or KILLED."""
        self.flush()
        self.store.call(self.store.client.set_terminated, self.id, status)

    @contextmanager
    def system_metrics(self, every_s: float = 10.0) -> Iterator[None]:
        """Sample processor and memory use into this run meanwhile."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it tells its start
        monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self.id,
            sampling_interval=every_s,
            samples_before_logging=1,
            tracking_uri=whole(self.store.uri),
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()
