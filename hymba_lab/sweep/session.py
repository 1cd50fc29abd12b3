"""One invocation of a sweep: open the stores, run what is missing, write the table."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hymba_lab.config.shipped import shipped
from hymba_lab.cost.many import Meter
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.runs.folder import RunFolder
from hymba_lab.stages.chain import check_stages
from hymba_lab.sweep.cells import Cell, make_cells, refuse_twins
from hymba_lab.sweep.match import match_budgets
from hymba_lab.sweep.planner import Planner
from hymba_lab.sweep.question.checks import check_metrics, check_staged, check_sweep
from hymba_lab.sweep.question.file import Sweep, load_sweep
from hymba_lab.sweep.searched import check_search
from hymba_lab.training.validation import metric_names


@dataclass(frozen=True)
class Session:
    """A loaded sweep with its cells and data, before anything runs."""

    sweep: Sweep
    mixture: Mixture
    cells: list[Cell]
    planner: Planner
    root: Path

    @property
    def name(self) -> str:
        """Return the sweep's name in MLflow and on disk: its file and scale."""
        return f"{self.sweep.name}-{self.sweep.base.scale}"

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its study, lock and tables."""
        return self.root / "runs" / "sweeps" / self.name

    def run_folder(self, identity: str) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.root, identity)


def open_session(
    file: str | Path, *, scale: str | None, overrides: Sequence[str], root: Path
) -> Session:
    """Load the file, build data and cells; everything a user can get wrong fails here."""
    sweep = load_sweep(shipped(file, "sweeps"), overrides, scale)
    check_sweep(sweep)
    mixture = _sources(sweep)
    check_staged(sweep)
    check_metrics(sweep, metric_names(mixture))
    meter = Meter(mixture.vocab)
    cells = match_budgets(sweep, make_cells(sweep, meter), meter)
    refuse_twins(sweep, cells)
    _check_stages(cells, mixture)
    check_search(sweep, cells, meter)
    if sweep.base.n_steps < 1:
        said = (
            f"{sweep.base.training.tokens} tokens do not pay for one step of {mixture.rows} rows "
            f"of {sweep.base.training.seq_len} tokens; raise it."
        )
        raise sweep.base.blame(ConfigError(said, "training.tokens"))
    planner = Planner(sweep, cells, mixture.fingerprint, meter)
    return Session(sweep, mixture, cells, planner, Path(root))


def _check_stages(cells: list[Cell], mixture: Mixture) -> None:
    seen = {json.dumps([one.canonical() for one in cell.config.stages.values()]): cell
            for cell in cells}  # fmt: skip
    for cell in seen.values():
        check_stages(cell.config, mixture)


def _sources(sweep: Sweep) -> Mixture:
    try:
        return build_sources(sweep.base.data, sweep.base.training.seq_len, sweep.base.n_steps)
    except (ConfigError, DataError) as error:
        raise sweep.base.blame(error) from None


def resolved_sweep(session: Session) -> str:
    """Return the sweep file with every default filled in, and its base experiment resolved.

    Plugins are named from the folder of the command: an export tells nothing about the machine.
    """
    base = session.sweep.base.resolved()
    base |= {"plugins": [os.path.relpath(path) for path in session.sweep.base.plugins]}
    if folders := session.sweep.base.paths_from:
        base["paths_from"] = {place: os.path.relpath(path) for place, path in folders.items()}
    return json.dumps({"sweep": session.sweep.file.model_dump(), "base": base}, indent=1)
