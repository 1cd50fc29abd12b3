"""What the runs of a sweep carry in MLflow: the tags of all, and the parameters of a trial."""

import math
from typing import Any

from hymba_lab.runs.provenance import commit, is_dirty
from hymba_lab.runs.tracking import IDENTITY, ROLE, STAGE, param_name
from hymba_lab.sweep.jobs import Job
from hymba_lab.sweep.observers.told import NOTE, question_note
from hymba_lab.sweep.session import Session

ROW = "hymba_lab.cell"


def sweep_tags(session: Session) -> dict[str, str]:
    """Return the tags of the sweep's own run."""
    return {
        ROLE: "sweep",
        NOTE: question_note(session.sweep.file),
        "mlflow.source.git.commit": commit().sha,
        "hymba_lab.dirty": str(is_dirty(session.sweep.base.plugins)),
        "hymba_lab.scale": session.sweep.base.scale,
    }


def trial_tags(session: Session, job: Job) -> dict[str, str]:
    """Return the tags of a trial's run."""
    return {
        ROLE: "trial",
        IDENTITY: job.identity,
        "hymba_lab.sweep": session.name,
        ROW: job.cell.label,
        STAGE: job.stage,
        "hymba_lab.seed": str(job.seed),
        "hymba_lab.digest": job.digest,
        "hymba_lab.data": session.mixture.fingerprint,
        "hymba_lab.scale": job.config.scale,
        "hymba_lab.dirty": str(is_dirty(job.config.plugins)),
        "mlflow.source.git.commit": commit().sha,
    }


def trial_params(job: Job) -> dict[str, Any]:
    """Return what MLflow's charts compare: row, choices, the tuned values, seed and costs."""
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


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
