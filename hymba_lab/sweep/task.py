"""What a worker is told, and when a result answers it. Light: a plan imports no training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymba_lab.runs.folder import run_path
from hymba_lab.runs.provenance import CODE_VERSION
from hymba_lab.sweep.launchers.needs import NOTHING_ASKED, Needs
from hymba_lab.sweep.pruning import Pruning
from hymba_lab.sweep.question.file import Stop
from hymba_lab.sweep.solving import stands


@dataclass(frozen=True)
class Task:
    """All a worker needs, in plain data; it may run in another process or on another machine."""

    root: str
    identity: str
    config: dict[str, Any]  # resolved
    seed: int
    n_threads: int
    facts: Mapping[str, Any]  # kept with the result: digest, data fingerprint, costs, scale
    tracking_uri: str
    experiment_id: str
    parent_run: str
    run_name: str
    params: Mapping[str, Any]  # what MLflow lists beside the metrics
    tags: Mapping[str, str]
    pruning: Pruning | None = None
    stop: Stop | None = None
    claim: str = ""  # of the coordinator's attempt; "" = the worker waits for the run itself
    root_id: str = ""  # what stands in the coordinator's folder, and not in one of the same name
    code_version: int = CODE_VERSION
    needs: Needs = NOTHING_ASKED
    timeout_s: float | None = None

    @property
    def folder(self) -> str:
        """The run's folder."""
        return str(run_path(Path(self.root), self.identity))


def whole_enough(
    record: Mapping[str, Any] | None, pruning: Pruning | None, stop: Stop | None = None
) -> bool:
    """Whether a result stands: trained to its end, solved by this stop, pruned by the same rule."""
    if record is None:
        return False
    if record["stopped_by"] is not None:
        return pruning is not None and record["stopped_by"] == pruning.key
    return stands(record, stop)
