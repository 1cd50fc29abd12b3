"""A trial whose experiment has stages: its chain of runs, with the trial's facts and its log."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hymba_lab.config import Config, from_resolved
from hymba_lab.data.source import Mixture
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.record import record_of
from hymba_lab.stages.run import Log, Staged, run_chain
from hymba_lab.sweep.task import Task
from hymba_lab.training.fit import fit


def run_task(
    task: Task,
    folder: RunFolder,
    mlflow: Mapping[str, Any],
    log: Log,
    same_data: Callable[[Task, Config], Mixture],
) -> dict[str, Any]:
    """Return the record of a task's last run; what others have made of its chain is read back.

    The runs before the last have no MLflow run of their own: their metrics are in the trial's.
    """
    config = from_resolved(task.config, own=True)
    mixture = same_data(task, config)

    def facts(part: Config) -> dict[str, Any]:
        return {**task.facts, "digest": part.digest}

    def pretrain(part: Config, run: RunFolder) -> dict[str, Any]:
        result = fit(
            part,
            seed=task.seed,
            folder=run.path,
            log=lambda metrics, step: folder.report({"step": step, "metrics": dict(metrics)}),
            keep_checkpoint=True,
            mixture=mixture,
            guard=run.lease.require if run.lease else None,
        )
        return record_of(
            result, config=part.resolved(), facts=facts(part), seed=task.seed,
            n_threads=task.n_threads, mlflow={},
        )  # fmt: skip

    def recorded(part: Config, staged: Staged) -> dict[str, Any]:
        own = len(part.stages) == len(config.stages)
        record = record_of(
            staged, config=part.resolved(), facts=facts(part), seed=task.seed,
            n_threads=task.n_threads, mlflow=mlflow if own else {},
        )  # fmt: skip
        return record | staged.own

    return run_chain(
        config,
        folder,
        seed=task.seed,
        root=Path(task.root),
        fingerprint=mixture.fingerprint,
        pretrain=pretrain,
        recorded=recorded,
        log=log,
    )
