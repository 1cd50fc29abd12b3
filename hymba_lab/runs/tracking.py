"""MLflow: one experiment per sweep, a parent run for the question, a child run per trial and seed.

It imports mlflow when a store is opened, not before: that takes seconds.
"""

import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hymba_lab.atomic import have_a_home
from hymba_lab.errors import StoreError
from hymba_lab.runs.artifacts import FOLDER, moved_along, place_of, set_right
from hymba_lab.runs.database import file_of, make_whole, url_of
from hymba_lab.runs.empty_store import make_tables
from hymba_lab.runs.lock import QUIET_S, say
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.postgres import sole_maker
from hymba_lab.runs.store_faults import is_away, readable_errors, require_server
from hymba_lab.runs.store_uri import is_server, remembered, whole

T = TypeVar("T")

IDENTITY = "hymba_lab.identity"
STAGE = "hymba_lab.stage"  # "tune", "race" (compared runs of values that lost), "seed", or:
EARLIER = "earlier"  # of a plan that the sweep has left: another value, seed or row
ROLE = "hymba_lab.role"  # "sweep" (parent) or "trial" (child)
SHARED_FROM = "hymba_lab.shared_from"  # a copy for the charts of a run trained in another sweep

LOCK_PATIENCE_S = 60.0
_RUNS_A_QUERY = 100
PATIENCE_S = 300.0
"""How long [s] a store that has answered once is waited for when it is away."""

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
    return url_of((root / "mlflow.db").resolve())


def preload() -> None:
    """Import what opening a store and sampling the system need: 3 s, once, in the fork server."""
    with _quiet_imports():
        _take_percents_as_they_are()
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.system_metrics.system_metrics_monitor  # noqa: F401


class Store:
    """A tracking server or file, opened once; faults are `StoreError`s that say what to do."""

    def __init__(self, uri: str, root: Path, patience_s: float | None = None) -> None:
        """`patience_s`: how long [s] a connection that is lost later is waited for."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        have_a_home()
        from mlflow import MlflowClient

        self.root = root
        # it tells of new tables, and prints the traceback of every fault that is raised as well
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.uri = uri = remembered(uri, "--tracking-uri")
        self.file = file_of(uri)
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self.lock_patience_s = LOCK_PATIENCE_S
        with readable_errors(uri), sole_maker(uri, "mlflow"), _quiet_imports():
            require_server(uri)
            _take_percents_as_they_are()
            if self.file is not None:
                artifacts = place_of(root, "0")
                make_whole(
                    self.file, lambda url: make_tables(url, artifacts), f"tracking store {uri}"
                )
            self.client = self._patiently(partial(MlflowClient, tracking_uri=whole(uri)), -1.0)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, made where it is missing."""
        if self.file is not None and moved_along(self.file, self.root):
            with readable_errors(self.uri):
                set_right(self.file, self.root)
        found = self.call(self.client.get_experiment_by_name, name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise StoreError(
                f"experiment {name!r} was deleted in {self.uri}; restore it (`mlflow experiments "
                f"restore --experiment-id {found.experiment_id}`) or use another --tracking-uri."
            )
        if found is not None:
            return str(found.experiment_id)
        artifacts = None if is_server(self.uri) else place_of(self.root, name)
        try:
            return str(self.call(self.client.create_experiment, name, artifacts))
        except StoreError:  # another process may have made it between the two calls
            if (found := self.call(self.client.get_experiment_by_name, name)) is None:
                raise
            return str(found.experiment_id)

    def explain(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment: its description, and of which kind it is."""
        for key, value in tags.items():
            self.call(self.client.set_experiment_tag, experiment_id, key, value)

    def runs_by_identity(self, experiment_id: str) -> dict[str, Any]:
        """Return the experiment's trial runs by identity (MLflow's own run objects)."""
        found = self._search(experiment_id, f"tags.`{ROLE}` = 'trial'")
        return {run.data.tags[IDENTITY]: run for run in found if IDENTITY in run.data.tags}

    def sweeps(self) -> dict[str, str]:
        """Return experiment id by name of every experiment that a sweep has written."""
        return {
            experiment.name: experiment.experiment_id
            for experiment in sorted(self._experiments(), key=lambda one: str(one.name))
            if any(self._search(experiment.experiment_id, f"tags.`{ROLE}` = 'sweep'"))
        }

    def _experiments(self) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self.call(self.client.search_experiments, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def attached(self, experiment_id: str, names: Collection[str]) -> dict[str, str]:
        """Return those of the named text files that are attached to the sweep's own run."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        parent = next(self._search(experiment_id, f"tags.`{ROLE}` = 'sweep'")).info.run_id
        if self.file is not None and (beside := self._beside(experiment_id, parent, names)):
            return beside
        there = {file.path for file in self.call(self.client.list_artifacts, parent)}
        with tempfile.TemporaryDirectory() as folder:
            fetch = partial(self.call, self.client.download_artifacts, parent, dst_path=folder)
            return {
                name: Path(fetch(name)).read_text(encoding="utf-8")
                for name in names
                if name in there
            }

    def _beside(self, experiment_id: str, run_id: str, names: Collection[str]) -> dict[str, str]:
        """Return the files that came along with a database, wherever its places lead."""
        assert self.file is not None
        name = str(self.call(self.client.get_experiment, experiment_id).name)
        folder = self.file.parent / FOLDER / name / run_id / "artifacts"
        there = [one for one in names if (folder / one).is_file()]
        try:
            return {one: (folder / one).read_text(encoding="utf-8") for one in there}
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{folder}: cannot be read: {error}.") from None

    def course(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return a metric's (step, value) in order; of a step logged twice, the last value."""
        found = self.call(self.client.get_metric_history, run_id, metric)
        return sorted({point.step: point.value for point in found}.items())

    def find(self, experiment_id: str, identity: str) -> "Run | None":
        """Return the experiment's run with this identity tag, or None."""
        found = list(self._search(experiment_id, f"tags.`{IDENTITY}` = '{identity}'"))
        return Run(self, found[0].info.run_id, found[0].info.artifact_uri) if found else None

    def status(self, experiment_id: str, identity: str) -> str | None:
        """Return the status of the experiment's run with this identity tag, or None."""
        found = list(self._search(experiment_id, f"tags.`{IDENTITY}` = '{identity}'"))
        return str(found[0].info.status) if found else None

    def statuses(
        self, experiment_id: str, run_ids: Sequence[str], *, unfinished: bool = False
    ) -> dict[str, str]:
        """Return the status by identity of those of the runs that the experiment has.

        `unfinished`: of those alone that are not FINISHED. MLflow reads all that it knows of a run
        that it returns, which takes milliseconds each.
        """
        found = dict[str, str]()
        only = "attributes.status != 'FINISHED' AND " if unfinished else ""
        for start in range(0, len(run_ids), _RUNS_A_QUERY):
            names = ", ".join(f"'{one}'" for one in run_ids[start : start + _RUNS_A_QUERY])
            for run in self._search(experiment_id, f"{only}attributes.run_id IN ({names})"):
                found[run.data.tags[IDENTITY]] = run.info.status
        return found

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
            return Run(self, made.info.run_id, made.info.artifact_uri)
        self.call(self.client.update_run, run.id, status="RUNNING")
        return run

    def retire(self, run: "Run") -> None:
        """Put a run that cannot be brought up to date where MLflow keeps deleted ones."""
        self.call(self.client.delete_run, run.id)

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return the client's answer; waits while another process holds the sqlite file."""
        with readable_errors(self.uri):
            away_s = -1.0 if self.file is not None else self.patience_s
            return self._patiently(partial(function, *arguments, **options), away_s)

    def _patiently(self, call: Callable[[], T], away_s: float) -> T:
        """Return call(), again while another process holds the sqlite file; say so after 2 s.

        A server or database that has answered before is waited for `away_s` [s], too.
        """
        begun, told = time.monotonic(), False
        while True:
            try:
                return call()
            except Exception as error:
                waited, locked = time.monotonic() - begun, "locked" in str(error)
                limit_s = self.lock_patience_s if locked else away_s if is_away(error) else -1.0
                if waited > limit_s:
                    raise
                if waited > QUIET_S and not told:
                    why = "is locked by another process" if locked else "does not answer"
                    say(f"tracking store {self.uri} {why}; waiting (at most {limit_s:.0f} s).")
                    told = True
                time.sleep(0.2 if locked else min(5.0, 0.2 + waited / 4))

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


@contextmanager
def _quiet_imports() -> Iterator[None]:
    with warnings.catch_warnings():
        # mlflow 3.17 maps its tables in a way that sqlalchemy 2.1 deprecates
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        yield


def _take_percents_as_they_are() -> None:
    """Let mlflow stand in a folder with a % in its name.

    mlflow 3.17 gives its own place to a parser of settings that reads % as the begin of a name.
    """
    import mlflow
    from alembic.config import Config

    here, plain = str(Path(mlflow.__file__).parent), Config.set_main_option
    if "%" not in here or plain.__module__ == __name__:
        return

    def escaping(config: Config, name: str, value: str) -> None:
        plain(config, name, value.replace("%", "%%") if value.startswith(here) else value)

    Config.set_main_option = escaping  # type: ignore[method-assign, assignment]
