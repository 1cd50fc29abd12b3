"""The sweep in MLflow: the parent run, and a child for every trial, also those trained elsewhere."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hymba_lab.provenance import commit
from hymba_lab.sweep.coordinator import task_facts
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.session import Session, resolved_sweep
from hymba_lab.sweep.study import Job, Outcome
from hymba_lab.sweep.trial import Task
from hymba_lab.tracking import IDENTITY, ROLE, SHARED_FROM, Store, default_uri

if TYPE_CHECKING:
    from hymba_lab.sweep.report import Report


class Mirror:
    """Keeps one experiment of the store equal to the runs' folders."""

    def __init__(self, session: Session, uri: str | None, n_threads: int) -> None:
        self.session, self.n_threads = session, n_threads
        self.uri = uri or default_uri(session.root)
        self.store = Store(self.uri, session.root)
        self.experiment = self.store.experiment(session.name)
        self.parent = self.store.open_run(
            self.experiment, session.name, f"sweep:{session.name}", self._parent_tags()
        )
        self.parent.artifact("sweep.resolved.json", resolved_sweep(session))
        found = self.store.runs_by_identity(self.experiment)
        self._status = {identity: run.info.status for identity, run in found.items()}

    def task(self, job: Job, pruning: Pruning | None) -> Task:
        """Return the task of a job, for a worker."""
        return Task(
            root=str(self.session.root.resolve()),
            identity=job.identity,
            config=job.config.resolved(),
            seed=job.seed,
            n_threads=self.n_threads,
            facts=task_facts(job, self.session.mixture.fingerprint),
            tracking_uri=self.uri,
            experiment_id=self.experiment,
            parent_run=self.parent.id,
            run_name=job.name,
            params=self._params(job),
            tags=self._tags(job),
            pruning=pruning,
        )

    def started(self, job: Job) -> None:
        """The worker opens its own run."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Nothing to mirror while workers report themselves."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Make sure that the store holds the run, closed, with its metrics."""
        logged_here = outcome.record.get("mlflow", {}) if outcome.record else {}
        by_worker = trained and (outcome.status == "failed" or logged_here.get("run_id"))
        mine = logged_here.get("experiment_id") in (None, self.experiment)
        if self._status.get(job.identity) in ("FINISHED", "FAILED") or (by_worker and mine):
            if not (by_worker and outcome.status == "failed"):
                return
        tags = self._tags(job)
        if logged_here.get("run_id") and not mine:
            tags[SHARED_FROM] = logged_here["run_id"]
        run = self.store.open_run(self.experiment, job.name, job.identity, tags, self.parent.id)
        if outcome.record:
            run.describe(self._params(job), tags)
            run.artifact("config.json", json.dumps(outcome.record["config"], indent=1))
            for step, metrics in outcome.record["history"]:
                run.log(metrics, step)
            run.log(outcome.record["metrics"], outcome.record["n_steps"])
            run.describe({}, {"hymba_lab.status": outcome.status})
        else:
            run.describe({}, {"hymba_lab.failure": f"{outcome.reason}: {outcome.message}"[:500]})
        run.end("FAILED" if outcome.status == "failed" else "FINISHED")
        self._status[job.identity] = "FINISHED"

    def finish(self, report: "Report") -> None:
        """Attach the table to the parent run and close it."""
        for name, text in report.files.items():
            self.parent.artifact(name, text)
        self.parent.describe({}, {"hymba_lab.answer": report.answer[:5000]})
        self.parent.end()

    def _parent_tags(self) -> dict[str, str]:
        file = self.session.sweep.file
        note = f"**{file.question}**\n\n{file.source}\n\nMetric: {file.metric.name} ({file.metric.goal})"
        return {
            ROLE: "sweep",
            "mlflow.note.content": note,
            "mlflow.source.git.commit": commit().sha,
            "hymba_lab.dirty": str(commit().dirty),
            "hymba_lab.scale": self.session.sweep.base.scale,
        }

    def _params(self, job: Job) -> dict[str, Any]:
        """What MLflow's charts compare: the row, its choices, the tuned values, seed and costs."""
        costs = job.cell.costs
        params: dict[str, Any] = {
            "row": job.cell.label,
            **{axis.replace(" ", "_"): label for axis, label in job.cell.choice.items()},
            **job.params,
            "seed": job.seed,
            "stage": job.stage,
            "params": costs.params,
            "flops_per_token": round(costs.flops_per_token),
            "cache_bytes": costs.cache_bytes,
        }
        return {key: value for key, value in params.items() if not _is_nan(value)}

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            ROLE: "trial",
            IDENTITY: job.identity,
            "hymba_lab.sweep": self.session.name,
            "hymba_lab.cell": job.cell.label,
            "hymba_lab.stage": job.stage,
            "hymba_lab.seed": str(job.seed),
            "hymba_lab.digest": job.config.digest,
            "hymba_lab.data": self.session.mixture.fingerprint,
            "hymba_lab.scale": job.config.scale,
            "hymba_lab.dirty": str(commit().dirty),
            "mlflow.source.git.commit": commit().sha,
        }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
