"""A run's mirror that never stops the run: what a store refuses is said once, and training goes on.

The truth is the run's folder. A sweep mirrors what is missing in the store when it is run again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hymba_lab.errors import StoreError
from hymba_lab.runs.mlflow_run import Run


class MirroredRun:
    """A `Run`, or none: every fault of its store is told once and then left alone."""

    def __init__(
        self, run: Run | None, experiment_id: str, tell: Callable[[str], None] | None = None
    ) -> None:
        """`tell` gets the one line about a store that refuses; None = nobody is told."""
        self.run, self.experiment_id, self._tell = run, experiment_id, tell
        self._opened = run

    @property
    def place(self) -> dict[str, str | None]:
        """Where the run is mirrored, as its record holds it; its id is None where it is not."""
        opened = self._opened
        return {
            "uri": opened.store.uri if opened else None,
            "experiment_id": self.experiment_id,
            "run_id": self.run.id if self.run else None,
        }

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """As `Run.log`."""
        self._safely("log", metrics, step)

    def describe(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """As `Run.describe`."""
        self._safely("describe", params, tags)

    def artifact(self, name: str, text: str) -> None:
        """As `Run.artifact`; a file that cannot be attached leaves the rest of the mirror alone."""
        if self.run is None:
            return
        try:
            self.run.artifact(name, text)
        except StoreError as error:
            self._say(f"{name} is not attached: {error}")

    def flush(self) -> None:
        """As `Run.flush`."""
        self._safely("flush")

    def end(self, status: str) -> None:
        """As `Run.end`."""
        self._safely("end", status)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """As `Run.system_metrics`, where there is a run."""
        if self.run is None:
            yield
            return
        with self.run.system_metrics():
            yield

    def _safely(self, what: str, *arguments: Any) -> None:
        if self.run is None:
            return
        try:
            getattr(self.run, what)(*arguments)
        except StoreError as error:
            self.run = None
            self._say(f"MLflow holds no more of this run: {error}")

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(text)
            self._tell = None
