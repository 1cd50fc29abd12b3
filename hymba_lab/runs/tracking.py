"""MLflow: one experiment per sweep, a parent run for the question, a child run per trial and seed.

The only file that imports mlflow, and only when a store is opened.
"""

import logging
import math
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from hymba_lab.atomic import make_folder
from hymba_lab.errors import StoreError
from hymba_lab.runs.postgres import sole_maker
from hymba_lab.runs.store_uri import is_server, remembered, whole, without_passwords

T = TypeVar("T")

IDENTITY = "hymba_lab.identity"
ROLE = "hymba_lab.role"  # "sweep" (parent) or "trial" (child)
SHARED_FROM = "hymba_lab.shared_from"  # a copy for the charts of a run trained in another sweep

_BATCH = 1000  # the most metrics one log_batch takes
_LOCK_PATIENCE_S = 60.0
PATIENCE_S = 300.0
"""How long [s] a store that has answered once is waited for when it is away."""
# what MLflow and the drivers say of a store that is away, where they do not keep the cause
_AWAY = (
    "Connection refused", "connection failed", "server closed the connection", "Max retries",
    "connection was closed", "terminating connection", "the connection is closed",
    "the database system is", "Connection aborted", "API request to",
)  # fmt: skip

_RECORDED = (
    *("tokens", "code_version", "hardware", "seconds", "tokens_per_second"),
    *("scan_backend", "attention_backend"),
)


def record_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what a finished run's tags keep of its record, for tables made from the store."""
    return {
        f"hymba_lab.{key}": str(record[key]) for key in _RECORDED if record.get(key) is not None
    }


def param_name(axis: str) -> str:
    """Return an axis as a parameter's name: MLflow takes no other characters."""
    return re.sub(r"[^\w.:/-]", "_", axis)


def default_uri(root: Path) -> str:
    """Return the store used when none is named: one sqlite file in the project folder."""
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"


def preload() -> None:
    """Import what opening a store and sampling the system need: 3 s, once, in the fork server."""
    with _quiet_imports():
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.system_metrics.system_metrics_monitor  # noqa: F401


class Store:
    """A tracking server or file, opened once; faults are `StoreError`s that say what to do."""

    def __init__(self, uri: str, root: Path, patience_s: float | None = None) -> None:
        """`patience_s`: how long [s] a connection that is lost later is waited for."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        # it tells of new tables, and prints the traceback of every fault that is raised as well
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.uri = uri = remembered(uri, "--tracking-uri")
        self.root, self.patience_s = root, PATIENCE_S if patience_s is None else patience_s
        with _readable_errors(uri), _sole_opener(uri), sole_maker(uri, "mlflow"), _quiet_imports():
            _require_server(uri)
            self.client = _patiently(partial(MlflowClient, tracking_uri=whole(uri)), 0.0)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, made where it is missing."""
        found = self.call(self.client.get_experiment_by_name, name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise StoreError(
                f"experiment {name!r} was deleted in {self.uri}; restore it (`mlflow experiments "
                f"restore --experiment-id {found.experiment_id}`) or use another --tracking-uri."
            )
        if found is not None:
            return str(found.experiment_id)
        local = not is_server(self.uri)
        artifacts = (self.root / "mlartifacts" / name).resolve().as_uri() if local else None
        try:
            return str(self.call(self.client.create_experiment, name, artifacts))
        except StoreError:  # another process may have made it between the two calls
            if (found := self.call(self.client.get_experiment_by_name, name)) is None:
                raise
            return str(found.experiment_id)

    def runs_by_identity(self, experiment_id: str) -> dict[str, Any]:
        """Return the experiment's trial runs by identity (MLflow's own run objects)."""
        found = self._search(experiment_id, f"tags.`{ROLE}` = 'trial'")
        return {run.data.tags[IDENTITY]: run for run in found if IDENTITY in run.data.tags}

    def sweeps(self) -> dict[str, str]:
        """Return experiment id by name of every experiment that a sweep has written."""
        found = self.call(self.client.search_experiments)
        return {
            experiment.name: experiment.experiment_id
            for experiment in sorted(found, key=lambda one: str(one.name))
            if any(self._search(experiment.experiment_id, f"tags.`{ROLE}` = 'sweep'"))
        }

    def attached(self, experiment_id: str, names: Collection[str]) -> dict[str, str]:
        """Return those of the named text files that are attached to the sweep's own run."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        parent = next(self._search(experiment_id, f"tags.`{ROLE}` = 'sweep'")).info.run_id
        there = {file.path for file in self.call(self.client.list_artifacts, parent)}
        with tempfile.TemporaryDirectory() as folder:
            fetch = partial(self.call, self.client.download_artifacts, parent, dst_path=folder)
            return {
                name: Path(fetch(name)).read_text(encoding="utf-8")
                for name in names
                if name in there
            }

    def course(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return a metric's (step, value) in order; of a step logged twice, the last value."""
        found = self.call(self.client.get_metric_history, run_id, metric)
        return sorted({point.step: point.value for point in found}.items())

    def find(self, experiment_id: str, identity: str) -> "Run | None":
        """Return the experiment's run with this identity tag, or None."""
        found = list(self._search(experiment_id, f"tags.`{IDENTITY}` = '{identity}'"))
        return Run(self, found[0].info.run_id) if found else None

    def status(self, experiment_id: str, identity: str) -> str | None:
        """Return the status of the experiment's run with this identity tag, or None."""
        found = list(self._search(experiment_id, f"tags.`{IDENTITY}` = '{identity}'"))
        return str(found[0].info.status) if found else None

    def open_run(
        self,
        experiment_id: str,
        name: str,
        identity: str,
        tags: Mapping[str, str],
        parent: str = "",
    ) -> "Run":
        """Return the run with this identity, RUNNING again if interrupted, else a new one."""
        run = self.find(experiment_id, identity)
        if run is None:
            every = {
                **tags,
                IDENTITY: identity,
                **({"mlflow.parentRunId": parent} if parent else {}),
            }
            made = self.call(self.client.create_run, experiment_id, tags=every, run_name=name)
            return Run(self, made.info.run_id)
        self.call(self.client.update_run, run.id, status="RUNNING")
        return run

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return the client's answer; waits while another process holds the sqlite file."""
        with _readable_errors(self.uri):
            away_s = -1.0 if self.uri.startswith("sqlite:") else self.patience_s
            return _patiently(partial(function, *arguments, **options), away_s)

    def _search(self, experiment_id: str, query: str) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self.call(
                self.client.search_runs, [experiment_id], query, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


class Run:
    """One MLflow run; metrics wait in a buffer and are written in batches."""

    def __init__(self, store: Store, run_id: str, flush_every_s: float = 5.0) -> None:
        self.store, self.id = store, run_id
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
        """Attach a text file; the resolved configuration is one, since parameters are cut."""
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


@contextmanager
def _quiet_imports() -> Iterator[None]:
    with warnings.catch_warnings():
        # mlflow 3.17 maps its tables in a way that sqlalchemy 2.1 deprecates
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        yield


@contextmanager
def _sole_opener(uri: str) -> Iterator[None]:
    """Let one process at a time open a sqlite file: two that make its tables break each other."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    make_folder(file.parent)
    with FileLock(f"{file}.lock"):
        yield


@contextmanager
def _readable_errors(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = without_passwords(" ".join(str(error).split()))[:300]
        raise StoreError(
            f"tracking store {uri}: {said}; check that it can be written and is not locked, or "
            "name another with --tracking-uri."
        ) from None


def _patiently(call: Callable[[], T], lost_s: float) -> T:
    """Return call(), again while another process holds the sqlite file or the store is away.

    `lost_s` [s] is how long a lost connection is waited for.
    """
    begin = time.monotonic()
    while True:
        try:
            return call()
        except Exception as error:
            waited, locked = time.monotonic() - begin, "locked" in str(error)
            if waited > (_LOCK_PATIENCE_S if locked else lost_s if _is_away(error) else -1):
                raise
            time.sleep(0.2 if locked else min(5.0, 0.2 + waited / 4))


def _is_away(error: BaseException) -> bool:
    """Whether a store did not answer, which passes, and not refused, which stays."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError | InterfaceError | OperationalError):
            return True
        if isinstance(found, DBAPIError) and found.connection_invalidated:
            return True
        found = found.__cause__ or found.__context__
    return any(sign in str(error) for sign in _AWAY)


def _require_server(uri: str) -> None:
    """Refuse a server that does not answer at once; MLflow's own client would try for minutes."""
    if not is_server(uri):
        return
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            return
    except HTTPError:  # it answers; whether we may enter, the first call says
        return
