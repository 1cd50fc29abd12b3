"""One trial, run in a process of its own: lock, MLflow run, training, result.

The module is imported once by the fork server, so that a trial starts with every heavy package
already loaded.
"""

import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna  # noqa: F401  # of pruned trials: loaded once, before they are forked
import torch

from hymba_lab.config import Config, from_resolved
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import CheckpointError, FailureReason, StoreError, TrialFailed, UserError
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.mirrored import MirroredRun
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.outbox import Outbox
from hymba_lab.runs.provenance import CODE_VERSION, commit
from hymba_lab.runs.record import record_of
from hymba_lab.runs.tracking import PATIENCE_S, Store, preload, record_tags
from hymba_lab.sweep.launchers.attempt import job_name
from hymba_lab.sweep.launchers.worker import SUPERSEDED
from hymba_lab.sweep.solving import reached, watcher
from hymba_lab.sweep.staged import run_task
from hymba_lab.sweep.task import Task, whole_enough
from hymba_lab.training.fit import FitResult, fit
from hymba_lab.training.milestones import Stop
from hymba_lab.training.shards import remove_checkpoint

_OPENING_S = 10.0  # training does not wait longer for a store that is away

preload()
commit()  # of the code loaded here and now, whatever is edited while its trials run


def run_trial(task: Task) -> str:
    """Train until the run's folder holds a result, and return "finished", "pruned" or "failed".

    "superseded" where the coordinator's claim is void by now: another process has the run. Without
    a claim it waits while another process is training the run, and then uses its result.
    """
    started = time.monotonic()
    _end_with_parent()
    torch.set_num_threads(task.n_threads)
    _require_this_code(task)
    folder = RunFolder(Path(task.root), task.identity)
    failed_before = folder.failure
    with ExitStack() as stack:
        if task.claim:
            leaves = multiprocessing.parent_process() or job_name()
            lost = partial(_leave_lost, folder.path) if leaves else None
            lease = stack.enter_context(folder.claimed(task.claim, job_name(), lost))
            if lease is None:
                return "superseded"
        else:
            stack.enter_context(folder.locked())
            if folder.failure != failed_before:  # while this process waited, another one tried
                return "failed"
        if whole_enough(folder.result, task.pruning, task.stop):
            return "finished"
        return _train(task, folder, started)


def _train(task: Task, folder: RunFolder, started: float) -> str:
    tracker = Tracker(task, folder)
    try:
        record = tracker.staged(folder) if task.config.get("stages") else None
        result = None if record else tracker.train(folder)
    except (TrialFailed, UserError) as error:
        reason, said = reason_of(error), getattr(error, "message", str(error))
        folder.fail(reason, said)
        tracker.end("FAILED", {"hymba_lab.failure": f"{reason}: {said}"[:500]})
        return "failed"
    except SystemExit:  # asked to leave: the run stays open for the attempt that goes on
        tracker.leave()
        raise
    if record is None:
        assert result is not None, "a run without stages was trained"
        record = _record(task, result, tracker.run.place, started)
    folder.finish(record)
    if result is None or not result.stopped:
        remove_checkpoint(folder.checkpoint)
    status = "pruned" if record["stopped_by"] else "finished"
    tracker.end("FINISHED", {"hymba_lab.status": status, **record_tags(record)})
    return status


def _record(
    task: Task, result: FitResult, mlflow: Mapping[str, Any], started: float
) -> dict[str, Any]:
    # a resumed run's loop time is of several sessions: its remainder was not measured
    outside = None if result.resumed_from else time.monotonic() - started - result.seconds
    solved = ended_by_solving(task, result)
    return record_of(
        result,
        config=task.config,
        facts=task.facts,
        seed=task.seed,
        n_threads=task.n_threads,
        mlflow=mlflow,
        stopped_by=task.pruning.key if result.stopped and task.pruning and not solved else None,
        ended_by=solved,
        outside_s=outside,
    )


def _leave_lost(folder: Path) -> None:
    """Free the machine: another process has this run, and what is done here is written nowhere."""
    for begun in folder.glob(f"*.{os.getpid()}.*.partial"):  # a checkpoint of this moment
        begun.unlink(missing_ok=True)
    os._exit(SUPERSEDED)


def _require_this_code(task: Task) -> None:
    if task.code_version != CODE_VERSION:
        raise TrialFailed(
            "refused",
            f"{socket.gethostname()}: its hymba_lab trains as CODE_VERSION {CODE_VERSION}, the "
            f"coordinator's as {task.code_version}; install one version on all nodes.",
        )


def _same_data(task: Task, config: Config) -> Mixture:
    """Return the data; refuse any but that which the coordinator has."""
    mixture = build_sources(config.data, config.training.seq_len)
    told = task.facts.get("data_fingerprint", mixture.fingerprint)
    if mixture.fingerprint != told:
        raise TrialFailed(
            "refused",
            f"{socket.gethostname()}: its training data is not the coordinator's (fingerprint "
            f"{mixture.fingerprint[:12]}, told {told[:12]}); give all nodes the same files and "
            "the same Python.",
        )
    return mixture


def reason_of(error: TrialFailed | UserError) -> FailureReason:
    """Return why a trial ended, as its folder, its MLflow run and the table say it."""
    if isinstance(error, TrialFailed):
        return error.reason
    return "disk" if isinstance(error, StoreError | CheckpointError) else "data"


def ended_by_solving(task: Task, result: FitResult) -> dict[str, Any] | None:
    """Return the level at which the run ended before its budget, None where it did not."""
    if not result.stopped or task.stop is None or not reached(task.stop, result.metrics):
        return None
    return task.stop.model_dump()


def stop_of(task: Task) -> Stop | None:
    """Return what ends a run at a validation: its task is solved, or it is given up."""
    rules = [watcher(task.stop)] if task.stop else []
    rules += [task.pruning.watcher()] if task.pruning else []
    if not rules:
        return None
    return lambda step, metrics: bool(sum([rule(step, metrics) for rule in rules]))  # all are told


class Tracker:
    """The trial's MLflow run; training goes on when the store fails, and is mirrored later."""

    def __init__(self, task: Task, folder: RunFolder) -> None:
        self.task = task
        run: Run | None = None
        with suppress(StoreError):
            store = Store(task.tracking_uri, Path(task.root), patience_s=_OPENING_S)
            run = store.open_run(
                task.experiment_id, task.run_name, task.identity, task.tags, task.parent_run
            )
        self.run = MirroredRun(run, task.experiment_id)
        describe(self.run, task)
        if run is not None:
            run.store.patience_s = PATIENCE_S
        lease = folder.lease
        self._outbox = Outbox(self.run, (lambda: lease.valid) if lease else None)

    def reporter(self, folder: RunFolder) -> Callable[[Mapping[str, float], int], None]:
        """Return what tells a step's metrics to the run and to the folder's progress file."""
        reported = 0.0

        def log(metrics: Mapping[str, float], step: int) -> None:
            nonlocal reported
            self._outbox.log(metrics, step)
            if time.monotonic() - reported > 1:
                reported = time.monotonic()
                folder.report({"step": step, "metrics": dict(metrics)})

        return log

    def staged(self, folder: RunFolder) -> dict[str, Any]:
        """Pretrain, tune and evaluate where that is not done; return the record of the last run."""
        log = self.reporter(folder)
        with self.run.system_metrics():
            return run_task(self.task, folder, self.run.place, log, _same_data)

    def train(self, folder: RunFolder) -> FitResult:
        """Fit, reporting to the run and to the folder's progress file."""
        task, log = self.task, self.reporter(folder)
        with self.run.system_metrics():
            config = from_resolved(task.config, own=True)
            return fit(
                config,
                seed=task.seed,
                folder=folder.path,
                log=log,
                stop=stop_of(task),
                keep_checkpoint=True,  # until the result stands, and a pruned run may go on
                mixture=_same_data(task, config),
                guard=folder.lease.require if folder.lease else None,
            )

    def end(self, status: str, tags: Mapping[str, str]) -> None:
        """Close the run; where the store is away for long, the coordinator does it later."""
        self._outbox.describe({}, tags)
        self._outbox.end(status)

    def leave(self) -> None:
        """Send what waits, and leave the run open."""
        self._outbox.close()


def describe(run: MirroredRun, task: Task) -> None:
    """Write what a reader of MLflow compares by, and the resolved configuration."""
    run.describe(task.params, task.tags)
    run.artifact("config.json", json.dumps(task.config, indent=1))
    if commit().dirty:
        run.artifact("uncommitted.diff", commit().diff)


def _end_with_parent() -> None:
    """Leave when the process that asked for this trial is gone, so that no orphan trains on.

    The fork server is no sign: it lives as long as one of its children.
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # not started by a launcher of ours
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
