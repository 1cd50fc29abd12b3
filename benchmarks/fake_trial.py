"""A trial that takes 0.1 s and writes a result; in a module of its own, for workers import it."""

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymba_lab.runs.folder import RunFolder
from hymba_lab.sweep.launchers.needs import Needs

SECONDS = 0.1
BESIDE = "fake.record.json"
"""In the root: what all records have in common."""


@dataclass(frozen=True)
class FakeTask:
    """What launchers and a worker read of a task; without its class a process starts sooner."""

    root: str
    folder: str
    identity: str
    config: dict[str, Any]
    seed: int
    facts: Mapping[str, Any]
    claim: str
    root_id: str
    needs: Needs
    timeout_s: float | None


def light(task: Any) -> FakeTask:
    """Return what is left of a task where nothing is trained."""
    return FakeTask(**{name: getattr(task, name) for name in FakeTask.__dataclass_fields__})


def run(task: Any) -> str:
    """Hold the run for 0.1 s and finish it; the metric is a function of the seed."""
    folder = RunFolder(Path(task.root), task.identity)
    with folder.claimed(task.claim, os.environ.get("SLURM_JOB_ID", "")) as lease:
        if lease is None:
            return "superseded"
        time.sleep(SECONDS)
        folder.finish(
            record(Path(task.root), task.identity, task.seed, task.config, dict(task.facts))
        )
    return "finished"


def run_id(identity: str) -> str:
    """Return the id of a run's MLflow run."""
    return uuid.uuid5(uuid.NAMESPACE_OID, identity).hex


def record(
    root: Path, identity: str, seed: int, config: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return a whole record with a course of ten validations."""
    common = json.loads((root / BESIDE).read_text())
    value = 0.5 + (seed * 37 % 101) / 1000 + config["optimizer"]["lr"]
    metrics = {"val/recall_accuracy": value, "val/loss": 1 - value}
    history = [[10 * step, metrics] for step in range(1, 11)]
    own = {"seed": seed, "metrics": metrics, "history": history, "config": config}
    place = {**common["mlflow"], "run_id": run_id(identity)}
    return {**common, **own, **facts, "mlflow": place}
