"""Sweeps for `sizes.py` to measure: their files, and what their workers would have written."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_trial

from hymba_lab.runs.provenance import commit, hardware

REPOSITORY = Path(__file__).parents[1]
NANO = REPOSITORY / "experiments" / "nano.yaml"


def factorial(folder: Path, n_cells: int) -> tuple[Path, int]:
    """Write a sweep over architecture and rate with about `n_cells` rows, all of other models."""
    rates = range(max(2, round(n_cells / 2000)))
    axes: dict[str, dict[str, Any]] = {
        "fusion": choices("model.fusion", ["mean", "sum", "concat", "gate", "difference"], "name"),
        "d_ff": choices("model.mlp.d_ff", [96, 104, 112, 120, 128]),
        "d_state": choices("model.ssm.d_state", [8, 16]),
        "meta tokens": choices("model.meta_tokens", [4, 8, 16, 32], "n_meta", name="learned"),
        "windows": choices(
            "model.placement", [8, 16, 24, 32, 48], "window", name="first_middle_last"
        ),
        "sharing": {
            "none": {"model.kv_sharing": {"name": "none"}},
            "pairs": {"model.kv_sharing": {"name": "adjacent", "size": 2}},
        },
        "rate": choices("optimizer.lr", [round(1e-3 * (1 + n / 10), 6) for n in rates]),
    }
    sweep = {
        "question": "Which of ten thousand?", "base": str(NANO), "seeds": [0],
        "metric": {"name": "val/recall_accuracy", "goal": "maximize"},
        "design": "factorial", "axes": axes,
    }  # fmt: skip
    file = folder / "large.yaml"
    file.write_text(json.dumps(sweep))
    n_rows = 1
    for axis in axes.values():
        n_rows *= len(axis)
    return file, n_rows


def choices(
    path: str, values: Sequence[Any], option: str | None = None, **fixed: Any
) -> dict[str, dict[str, Any]]:
    """Return an axis over the values of a path, or of one option of the component there."""
    return {
        str(value): {path: value if option is None else {**fixed, option: value}}
        for value in values
    }


def rows_and_seeds(folder: Path, n_rows: int, n_seeds: int) -> Path:
    """Write a sweep of so many rows, each with so many seeds."""
    rows = {f"row {n}": {"optimizer.lr": round(1e-3 * (1 + n / 100), 8)} for n in range(n_rows)}
    sweep = {
        "question": "How long does it take?", "base": str(NANO), "seeds": list(range(n_seeds)),
        "metric": {"name": "val/recall_accuracy", "goal": "maximize"}, "axes": {"rate": rows},
    }  # fmt: skip
    file = folder / "many.yaml"
    file.write_text(json.dumps(sweep))
    return file


def written(folder: Path, file: Path, asked: argparse.Namespace, *, result: bool) -> None:
    """Write what workers would have: every run in MLflow, closed, and its `result`, where asked."""
    from hymba_lab.runs.provenance import CODE_VERSION
    from hymba_lab.runs.store_uri import remembered, whole
    from hymba_lab.sweep.observers.mirror import Mirror
    from hymba_lab.sweep.session import open_session

    common: dict[str, object] = {
        "stopped_by": None, "n_steps": 100, "seconds": 0.1, "tokens_per_second": 1.0,
        "code_version": CODE_VERSION, "hardware": hardware(), "n_threads": 1,
        "commit": commit().sha,
    }  # fmt: skip
    session = open_session(file, scale=None, overrides=[], root=folder)
    uri = remembered(asked.tracking_uri, "--tracking-uri") if asked.tracking_uri else None
    mirror = Mirror(session, uri, 1)
    common["mlflow"] = {"uri": mirror.uri, "experiment_id": mirror.experiment, "run_id": None}
    (folder / fake_trial.BESIDE).write_text(json.dumps(common))
    tasks = [(job, mirror.task(job, None)) for job in session.planner.jobs({})]
    closed_runs(whole(mirror.uri), [task for _, task in tasks])
    for job, task in tasks:
        if result:
            facts = (task.seed, dict(task.config), dict(task.facts))
            record = fake_trial.record(folder, job.identity, *facts)
            session.run_folder(job.identity).finish(record)


def closed_runs(uri: str, tasks: Sequence[Any]) -> None:
    """Put finished runs into MLflow's tables, many at a time: its client takes 0.1 s for each."""
    from mlflow.store.tracking.dbmodels.models import SqlParam, SqlRun, SqlTag
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    now = int(time.time() * 1000)
    with Session(create_engine(uri)) as session:
        for task in tasks:
            key = fake_trial.run_id(task.identity)
            tags = {
                **task.tags, "mlflow.parentRunId": task.parent_run, "mlflow.runName": task.run_name
            }  # fmt: skip
            session.add(
                SqlRun(
                    run_uuid=key, name=task.run_name, experiment_id=int(task.experiment_id),
                    user_id="lab", status="FINISHED", start_time=now, end_time=now,
                    lifecycle_stage="active", artifact_uri=f"mlartifacts/{key}",
                    source_type="UNKNOWN", source_name="", entry_point_name="", source_version="",
                )
            )  # fmt: skip
            session.flush()
            session.add_all(SqlTag(run_uuid=key, key=k, value=str(v)) for k, v in tags.items())
            session.add_all(
                SqlParam(run_uuid=key, key=k, value=str(v)) for k, v in task.params.items()
            )
        session.commit()
