"""Who is told of everything that happens in a sweep."""

from collections.abc import Mapping
from typing import Protocol

from hymba_lab.errors import TrialFailed, TrialInterrupted
from hymba_lab.sweep.jobs import Job, Outcome


class Observer(Protocol):
    """Told of everything that happens: the live view, MLflow, Optuna's study."""

    def started(self, job: Job) -> None:
        """A worker has been asked for this run."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """The run has an outcome; `trained` says whether a worker was asked for it now."""

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """An attempt ended without a result; another one follows, if it is not given up."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Nothing has happened for a moment, or something has; `running` is by identity."""
