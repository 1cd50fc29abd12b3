"""The sweep in MLflow: the parent run, and a child for every trial, wherever it was trained."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hymba_lab.errors import StoreError, TrialFailed, TrialInterrupted
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.provenance import commit, is_dirty
from hymba_lab.runs.record import run_facts
from hymba_lab.runs.tracking import (
    EARLIER,
    IDENTITY,
    LOCK_PATIENCE_S,
    PATIENCE_S,
    ROLE,
    SHARED_FROM,
    STAGE,
    Store,
    default_uri,
    param_name,
    record_tags,
)
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.observers.told import (
    EXPERIMENT_KIND,
    NOTE,
    TRAINING,
    answer_note,
    cut,
    experiment_note,
    question_note,
    verdict_metrics,
    verdict_tags,
)
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.session import Session, resolved_sweep
from hymba_lab.sweep.task import Task

if TYPE_CHECKING:
    from hymba_lab.sweep.report import Report


_PARENT_S = 60.0
_ROW = "hymba_lab.cell"
_LOOK_S = 5.0  # how often the store is asked about the runs that have ended
_REST_S = 60.0  # a store that has refused twice running is not asked again for so long
_BRIEF_S = 5.0  # how long it is waited for while trials run: their coordinator does nothing else


class Mirror:
    """Keeps one experiment of the store equal to the runs' folders.

    Its store must open; what goes wrong with it later is told once and stops nothing: the table
    comes from the runs' folders, and the same command mirrors what is missing.
    """

    def __init__(
        self,
        session: Session,
        uri: str | None,
        n_threads: int,
        tell: Callable[[str], None] = print,
        *,
        leads: bool = True,
    ) -> None:
        """`leads`: of several processes that run one sweep, one alone mirrors it."""
        self.session, self.n_threads, self._tell = session, n_threads, tell
        self.leads, self._told = leads, False
        self.store = Store(uri or default_uri(session.root), session.root)
        self.uri = self.store.uri
        self.experiment = self.store.experiment(session.name)
        self._status: dict[str, str | None] = {}
        self._rows: dict[str, str | None] = {}  # as the store names them
        self._own: set[str] = set()  # identities of this sweep's runs that have ended
        self._open: set[str] = set()  # identities that workers have been asked for
        # by their workers, the store not yet asked
        self._ended: dict[str, tuple[Job, Outcome]] = {}
        self._refused: dict[str, tuple[Job, Outcome]] = {}  # asked again at the end
        self._look_at = 0.0
        if not leads:
            self.parent = self._found_parent()
            return
        self.parent = self.store.open_run(
            self.experiment, session.name, f"sweep:{session.name}", self._parent_tags()
        )
        with self._told_once():
            note = experiment_note(session.sweep.file, session.name)
            self.store.explain(self.experiment, {NOTE: note, EXPERIMENT_KIND: TRAINING})
            self.parent.artifact("sweep.resolved.json", resolved_sweep(session))
        found = self.store.runs_by_identity(self.experiment)
        self._status |= {identity: run.info.status for identity, run in found.items()}
        self._rows |= {identity: run.data.tags.get(_ROW) for identity, run in found.items()}
        self.store.patience_s = self.store.lock_patience_s = _BRIEF_S

    def task(self, job: Job, pruning: Pruning | None) -> Task:
        """Return the task of a job, for a worker."""
        data = self.session.mixture.fingerprint
        facts = run_facts(job.config, data, job.cell.costs, job.digest)
        return Task(
            root=str(self.session.root.resolve()),
            identity=job.identity,
            config=job.config.resolved(),
            seed=job.seed,
            n_threads=self.n_threads,
            facts=facts,
            tracking_uri=self.uri,
            experiment_id=self.experiment,
            parent_run=self.parent.id,
            run_name=job.name,
            params=self._params(job),
            tags=self._tags(job),
            pruning=pruning,
            stop=self.session.sweep.file.stop,
        )

    def started(self, job: Job) -> None:
        """The worker opens its own run."""
        self._open.add(job.identity)

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """The next attempt goes on with the same run."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Look after the runs that have ended since, all at once: a question costs milliseconds."""
        if self._ended and time.monotonic() > self._look_at:
            self._look()
            self._look_at = time.monotonic() + (_REST_S if self._ended else _LOOK_S)

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Make sure that the store holds the run, closed, with its metrics."""
        self._open.discard(job.identity)
        self._own.add(job.identity)
        if not self.leads:
            return
        if trained or not self._holds(job, outcome):
            self._ended[job.identity] = job, outcome

    def _look(self) -> None:
        """Close the runs that have ended; where the store refuses twice running, the rest wait."""
        self._ask()
        in_a_row = 0
        while self._ended and in_a_row < 2:
            identity, (job, outcome) = next(iter(self._ended.items()))
            with self._told_once() as refused:
                self._close(job, outcome)
            del self._ended[identity]
            if refused:
                self._refused[identity] = job, outcome
            in_a_row = in_a_row + 1 if refused else 0

    def _ask(self) -> None:
        """Ask for the runs that have ended; a trial closes its own where it can."""
        ended = self._ended
        logged = {key: outcome.record.get("mlflow", {}) for key, (_, outcome) in ended.items()}
        here = {"uri": self.uri, "experiment_id": self.experiment}
        ours, others = dict[str, str](), dict[str, str]()  # others: say, in another's experiment
        for key, place in logged.items():
            if place.get("run_id"):
                (ours if here.items() <= place.items() else others)[key] = place["run_id"]
        with self._told_once():
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

    @contextmanager
    def _told_once(self) -> Iterator[list[StoreError]]:
        """Say what a store refuses, the first time, and go on; yields where that is then found."""
        refused: list[StoreError] = []
        try:
            yield refused
        except StoreError as error:
            refused.append(error)
            if not self._told:
                self._tell(f"MLflow: {error} The sweep goes on; run it again to mirror the rest.")
            self._told = True

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
        tags = self._tags(job)
        logged = outcome.record.get("mlflow", {})
        if logged.get("run_id") and logged["experiment_id"] != self.experiment:
            tags[SHARED_FROM] = logged["run_id"]
        run = self.store.open_run(self.experiment, job.name, job.identity, tags, self.parent.id)
        if outcome.record:
            run.describe(self._params(job), tags)
            with self._told_once():
                run.artifact("config.json", json.dumps(outcome.record["config"], indent=1))
            for step, metrics in outcome.record["history"]:
                run.log(metrics, step)
            run.log(outcome.record["metrics"], outcome.record["n_steps"])
            run.describe({}, {"hymba_lab.status": outcome.status, **record_tags(outcome.record)})
        else:
            said = f"{outcome.reason}: {outcome.message}"
            run.describe(self._params(job), {"hymba_lab.failure": said[:500]})
        run.end(_closed(outcome))

    def finish(self, report: "Report") -> None:
        """Attach the table to the parent run, say its verdicts and close it."""
        self._wait_for_store()
        self._ended |= self._refused
        self._look()
        with self._told_once():
            self._mark_winners(report)
        with self._told_once():
            for name, text in report.files.items():
                self.parent.artifact(name, text)
        with self._told_once():
            note = answer_note(self.session.sweep.file, report.table)
            tags = {"hymba_lab.answer": cut(report.answer), NOTE: note}
            self.parent.describe({}, {**tags, **verdict_tags(report.table)})
            self.parent.log(verdict_metrics(report.table), 0)
            self.parent.end()

    def _wait_for_store(self) -> None:
        """Nothing trains any more: a store that is away, or busy, has a while to come back."""
        self.store.patience_s, self.store.lock_patience_s = PATIENCE_S, LOCK_PATIENCE_S
        with self._told_once():
            self.store.status(self.experiment, f"sweep:{self.session.name}")
        self.store.patience_s = self.store.lock_patience_s = _BRIEF_S

    def _mark_winners(self, report: "Report") -> None:
        """Tag the compared runs, those that a race left behind, and what is of an earlier plan."""
        compared = set(report.runs["identity"])
        for identity, found in self.store.runs_by_identity(self.experiment).items():
            tagged = found.data.tags.get(STAGE)
            left_behind = "race" if identity in self._own else EARLIER
            stage = "seed" if identity in compared else left_behind if tagged == "seed" else tagged
            if stage != tagged:
                Run(self.store, found.info.run_id, found.info.artifact_uri).describe(
                    {}, {STAGE: stage}
                )

    def interrupted(self) -> None:
        """Say that the sweep and what it was training have stopped, if the store still answers."""
        self._look()
        with suppress(StoreError):
            for identity in self._open:
                if run := self.store.find(self.experiment, identity):
                    run.end("KILLED")
            if self.leads:
                self.parent.end("KILLED")

    def _found_parent(self) -> Run:
        """Return the sweep's run, which the process that leads makes at its start."""
        end = time.monotonic() + _PARENT_S
        identity = f"sweep:{self.session.name}"
        while (run := self.store.find(self.experiment, identity)) is None:
            if time.monotonic() > end:
                return self.store.open_run(
                    self.experiment, self.session.name, identity, self._parent_tags()
                )
            time.sleep(0.5)
        return run

    def _parent_tags(self) -> dict[str, str]:
        return {
            ROLE: "sweep",
            NOTE: question_note(self.session.sweep.file),
            "mlflow.source.git.commit": commit().sha,
            "hymba_lab.dirty": str(is_dirty(self.session.sweep.base.plugins)),
            "hymba_lab.scale": self.session.sweep.base.scale,
        }

    def _params(self, job: Job) -> dict[str, Any]:
        """What MLflow's charts compare: the row, its choices, the tuned values, seed and costs."""
        costs = job.cell.costs
        params: dict[str, Any] = {
            "row": job.cell.label,
            **{param_name(axis): label for axis, label in job.cell.choice.items()},
            **job.params,
            "seed": job.seed,
            "stage": job.stage,
            "params": costs.params,
            "flops_per_token": round(costs.flops_per_token),
            "cache_bytes": costs.cache_bytes,
            "ssm_to_attention": costs.ssm_to_attention,
        }
        return {key: value for key, value in params.items() if not _is_nan(value)}

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            ROLE: "trial",
            IDENTITY: job.identity,
            "hymba_lab.sweep": self.session.name,
            _ROW: job.cell.label,
            STAGE: job.stage,
            "hymba_lab.seed": str(job.seed),
            "hymba_lab.digest": job.digest,
            "hymba_lab.data": self.session.mixture.fingerprint,
            "hymba_lab.scale": job.config.scale,
            "hymba_lab.dirty": str(is_dirty(job.config.plugins)),
            "mlflow.source.git.commit": commit().sha,
        }


def _closed(outcome: Outcome) -> str:
    """Return the status of a run that the store holds whole."""
    return "FAILED" if outcome.status == "failed" else "FINISHED"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
