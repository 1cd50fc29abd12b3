"""The sweep in MLflow: the parent run, and a child for every trial, wherever it was trained."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from hymba_lab.errors import StoreError, TrialFailed, TrialInterrupted
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.record import run_facts
from hymba_lab.runs.tracking import EARLIER, STAGE, Store, default_uri
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.observers.copies import Copies
from hymba_lab.sweep.observers.tagged import sweep_tags, trial_params, trial_tags
from hymba_lab.sweep.observers.told import (
    EXPERIMENT_KIND,
    NOTE,
    TRAINING,
    answer_note,
    cut,
    experiment_note,
    verdict_metrics,
    verdict_tags,
)
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.session import Session, resolved_sweep
from hymba_lab.sweep.task import Task

if TYPE_CHECKING:
    from hymba_lab.sweep.report import Report

_PARENT_S = 60.0


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
        self.session, self.n_threads, self.leads = session, n_threads, leads
        self.store = Store(uri or default_uri(session.root), session.root)
        self.uri = self.store.uri
        self.experiment = self.store.experiment(session.name)
        self._own: set[str] = set()  # identities of this sweep's runs that have ended
        self._open: set[str] = set()  # identities that workers have been asked for
        self._copies = Copies(session, self.store, self.experiment, tell)
        self._identity = f"sweep:{session.name}"
        if not leads:
            self.parent = self._found_parent()
            return
        self.parent = self._opened_parent()
        with self._copies.told_once():
            note = experiment_note(session.sweep.file, session.name)
            self.store.explain(self.experiment, {NOTE: note, EXPERIMENT_KIND: TRAINING})
            self.parent.artifact("sweep.resolved.json", resolved_sweep(session))
        self._copies.begin(self.parent.id)

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
            params=trial_params(job),
            tags=trial_tags(self.session, job),
            pruning=pruning,
            stop=self.session.sweep.file.stop,
        )

    def started(self, job: Job) -> None:
        """The worker opens its own run."""
        self._open.add(job.identity)

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """The next attempt goes on with the same run."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Look after the runs that have ended since."""
        self._copies.look_now_and_then()

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Have the store hold the run, closed, with its metrics."""
        self._open.discard(job.identity)
        self._own.add(job.identity)
        if self.leads:
            self._copies.ended(job, outcome, trained)

    def finish(self, report: "Report") -> None:
        """Attach the table to the parent run, say its verdicts and close it."""
        self._copies.look_at_last(self._identity)
        with self._copies.told_once():
            self._mark_winners(report)
        with self._copies.told_once():
            for name, text in report.files.items():
                self.parent.artifact(name, text)
        with self._copies.told_once():
            note = answer_note(self.session.sweep.file, report.table)
            tags = {"hymba_lab.answer": cut(report.answer), NOTE: note}
            self.parent.describe({}, {**tags, **verdict_tags(report.table)})
            self.parent.log(verdict_metrics(report.table), 0)
            self.parent.end()

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
        self._copies.look()
        with suppress(StoreError):
            for identity in self._open:
                if run := self.store.find(self.experiment, identity):
                    run.end("KILLED")
            if self.leads:
                self.parent.end("KILLED")

    def _opened_parent(self) -> Run:
        tags = sweep_tags(self.session)
        return self.store.open_run(self.experiment, self.session.name, self._identity, tags)

    def _found_parent(self) -> Run:
        """Return the sweep's run, which the process that leads makes at its start."""
        end = time.monotonic() + _PARENT_S
        while (run := self.store.find(self.experiment, self._identity)) is None:
            if time.monotonic() > end:
                return self._opened_parent()
            time.sleep(0.5)
        return run
