"""Results of an evaluation where they are looked for: in the run's record and in MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymba_lab.atomic import json_of
from hymba_lab.errors import StoreError
from hymba_lab.evaluation.run import Record, metrics_of
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.tracking import IDENTITY, ROLE, Store, default_uri

EXPERIMENT = "evaluate"


def add_to_run(run: Path, records: Mapping[str, Record]) -> dict[str, Any] | None:
    """Add `eval/<task>/<metric>` to the metrics of a finished run; returns its record.

    None where the folder is no run with a record. A sweep whose metric is one of them reads it.
    """
    if not (run / "result.json").is_file():
        return None
    run = run.resolve()  # the folder may be named from inside
    found = json_of(run / "result.json")
    folder = RunFolder(run.parents[1], str(found.get("identity")))
    if folder.path.resolve() != run:
        return None  # copied from elsewhere: its record is not ours to write
    with folder.locked():
        record = folder.result
        if record is None:
            return None
        asked = record.get("evaluation", {}) | {name: one["asked"] for name, one in records.items()}
        record["metrics"] = record["metrics"] | metrics_of(records)
        folder.finish(record | {"evaluation": asked})
        return record


def log(
    records: Mapping[str, Record],
    *,
    name: str,
    weights: str,
    root: Path,
    tracking_uri: str | None,
    run: Mapping[str, Any] | None,
) -> str | None:
    """Write metrics to the MLflow run of `run` (a record), or to one of the evaluated folder.

    Returns what kept it from being written, None when all went well.
    """
    try:
        store = Store(tracking_uri or default_uri(root), root)
        target = _target(store, run, name, weights)
        step = int(run["n_steps"]) if run else 0
        target.log(metrics_of(records), step)
        target.flush()
        target.describe(tags=_tags(records))
        if run is None:
            target.end()
    except StoreError as error:
        return str(error)
    return None


def _target(store: Store, run: Mapping[str, Any] | None, name: str, weights: str) -> Run:
    theirs = (run or {}).get("mlflow") or {}
    if theirs.get("run_id") and theirs.get("uri") == store.uri:
        return Run(store, str(theirs["run_id"]))
    tags = {ROLE: "evaluation", IDENTITY: weights}
    return store.open_run(store.experiment(EXPERIMENT), name, weights, tags)


def _tags(records: Mapping[str, Record]) -> dict[str, str]:
    """Return what the numbers depend on; MLflow lets a tag change, a parameter never."""
    tags = {}
    for name, record in records.items():
        facts = {"n_shot": record["n_shot"], "versions": record["versions"],
                 "n_questions": record["n_questions"], "note": record["note"],
                 "asked": record["asked"]}  # fmt: skip
        tags[f"hymba_lab.eval.{name}"] = json.dumps(facts, sort_keys=True)[:4900]
    return tags
