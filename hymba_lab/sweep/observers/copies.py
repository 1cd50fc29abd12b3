"""The trials' runs in MLflow, kept equal to the runs' folders however often the store refuses."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hymba_lab.errors import StoreError
from hymba_lab.runs.tracking import (
    LOCK_PATIENCE_S,
    PATIENCE_S,
    SHARED_FROM,
    Store,
    record_tags,
)
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.observers.tagged import ROW, trial_params, trial_tags
from hymba_lab.sweep.session import Session

_LOOK_S = 5.0  # how often the store is asked about the runs that have ended
_REST_S = 60.0  # a store that has refused twice running is not asked again for so long
_BRIEF_S = 5.0  # how long it is waited for while trials run: their coordinator does nothing else


class Copies:
    """The runs of one experiment of a store; a run that it lacks is written from its folder.

    A store that refuses is told of once and stops nothing.
    """

    def __init__(
        self, session: Session, store: Store, experiment: str, tell: Callable[[str], None]
    ) -> None:
        """`experiment` is its id."""
        self.session, self.store, self.experiment, self._tell = session, store, experiment, tell
        self._told = False
        self._status: dict[str, str | None] = {}
        self._rows: dict[str, str | None] = {}  # as the store names them
        self._ended: dict[str, tuple[Job, Outcome]] = {}  # the store not yet asked
        self._refused: dict[str, tuple[Job, Outcome]] = {}  # asked again at the end
        self._look_at = 0.0

    def begin(self, parent: str) -> None:
        """Learn what the store holds; `parent` is the id of the sweep's own run."""
        self._parent = parent
        found = self.store.runs_by_identity(self.experiment)
        self._status |= {identity: run.info.status for identity, run in found.items()}
        self._rows |= {identity: run.data.tags.get(ROW) for identity, run in found.items()}
        self.store.patience_s = self.store.lock_patience_s = _BRIEF_S

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Have the store hold this run, closed, with its metrics: by a later look."""
        if trained or not self._holds(job, outcome):
            self._ended[job.identity] = job, outcome

    def look_now_and_then(self) -> None:
        """Look after the runs that have ended since, all at once: a question costs milliseconds."""
        if self._ended and time.monotonic() > self._look_at:
            self.look()
            self._look_at = time.monotonic() + (_REST_S if self._ended else _LOOK_S)

    def look(self) -> None:
        """Close the runs that have ended; where the store refuses twice running, the rest wait."""
        self._ask()
        in_a_row = 0
        while self._ended and in_a_row < 2:
            identity, (job, outcome) = next(iter(self._ended.items()))
            with self.told_once() as refused:
                self._close(job, outcome)
            del self._ended[identity]
            if refused:
                self._refused[identity] = job, outcome
            in_a_row = in_a_row + 1 if refused else 0

    def look_at_last(self, identity: str) -> None:
        """Nothing trains any more: a store that is away, or busy, has a while to come back.

        It is asked for the run `identity` till then.
        """
        self.store.patience_s, self.store.lock_patience_s = PATIENCE_S, LOCK_PATIENCE_S
        with self.told_once():
            self.store.status(self.experiment, identity)
        self.store.patience_s = self.store.lock_patience_s = _BRIEF_S
        self._ended |= self._refused
        self.look()

    @contextmanager
    def told_once(self) -> Iterator[list[StoreError]]:
        """Say what a store refuses, the first time, and go on; yields where that is then found."""
        refused: list[StoreError] = []
        try:
            yield refused
        except StoreError as error:
            refused.append(error)
            if not self._told:
                self._tell(f"MLflow: {error} The sweep goes on; run it again to mirror the rest.")
            self._told = True

    def _ask(self) -> None:
        """Ask for the runs that have ended; a trial closes its own where it can."""
        ended = self._ended
        logged = {key: outcome.record.get("mlflow", {}) for key, (_, outcome) in ended.items()}
        here = {"uri": self.store.uri, "experiment_id": self.experiment}
        ours, others = dict[str, str](), dict[str, str]()  # others: say, in another's experiment
        for key, place in logged.items():
            if place.get("run_id"):
                (ours if here.items() <= place.items() else others)[key] = place["run_id"]
        with self.told_once():
            self._status |= dict.fromkeys(ended)  # should the store refuse
            open_ones = self.store.statuses(self.experiment, [*ours.values()], unfinished=True)
            self._status |= dict.fromkeys(ours, "FINISHED") | open_ones
            self._status |= self.store.statuses(self.experiment, [*others.values()])
            for identity in ended.keys() - ours.keys() - others.keys():
                self._status[identity] = self.store.status(self.experiment, identity)

    def _close(self, job: Job, outcome: Outcome) -> None:
        if not self._holds(job, outcome):
            self._copied(job, outcome)
            self._status[job.identity] = _closed(outcome)
            self._rows[job.identity] = job.cell.label

    def _holds(self, job: Job, outcome: Outcome) -> bool:
        """Whether the store has the run whole, under the row's name of today."""
        row = self._rows.get(job.identity, job.cell.label)
        return self._status.get(job.identity) == _closed(outcome) and row == job.cell.label

    def _copied(self, job: Job, outcome: Outcome) -> None:
        """Copy a run; what was mirrored under other names (MLflow keeps them) is mirrored anew."""
        try:
            self._copy(job, outcome)
        except StoreError:
            stale = self.store.find(self.experiment, job.identity)
            if stale is None:
                raise
            self.store.retire(stale)
            self._copy(job, outcome)

    def _copy(self, job: Job, outcome: Outcome) -> None:
        """Write a run from its folder: killed before it could, or trained in another sweep."""
        tags, params = trial_tags(self.session, job), trial_params(job)
        logged = outcome.record.get("mlflow", {})
        if logged.get("run_id") and logged["experiment_id"] != self.experiment:
            tags[SHARED_FROM] = logged["run_id"]
        run = self.store.open_run(self.experiment, job.name, job.identity, tags, self._parent)
        if outcome.record:
            run.describe(params, tags)
            with self.told_once():
                run.artifact("config.json", json.dumps(outcome.record["config"], indent=1))
            for step, metrics in outcome.record["history"]:
                run.log(metrics, step)
            run.log(outcome.record["metrics"], outcome.record["n_steps"])
            run.describe({}, {"hymba_lab.status": outcome.status, **record_tags(outcome.record)})
        else:
            said = f"{outcome.reason}: {outcome.message}"
            run.describe(params, {"hymba_lab.failure": said[:500]})
        run.end(_closed(outcome))


def _closed(outcome: Outcome) -> str:
    """Return the status of a run that the store holds whole."""
    return "FAILED" if outcome.status == "failed" else "FINISHED"
