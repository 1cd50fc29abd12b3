"""From outcomes to the table: the tidy frame of the compared runs, its verdicts, the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab import tables
from hymba_lab.provenance import hardware
from hymba_lab.runs import make_folder, write_atomically
from hymba_lab.sweep.cells import Cell
from hymba_lab.sweep.jobs import Job, Outcome, Outcomes
from hymba_lab.sweep.session import Session, resolved_sweep

_COSTS = ("params", "flops_per_token", "cache_bytes", "ssm_to_attention")
_RECORDED = ("data_fingerprint", "tokens", "code_version", "scale", "commit", "dirty")


@dataclass(frozen=True)
class Report:
    """The result table and its files by name."""

    table: tables.Table
    runs: pd.DataFrame
    files: Mapping[str, str]
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether every planned run has a result."""
        return not self.runs.empty and bool((self.runs["status"] == "finished").all())

    @property
    def answer(self) -> str:
        """The table as Markdown, with its notes."""
        return self.files["table.md"]


def write_report(session: Session, outcomes: Outcomes, command: str, out: Path | None) -> Report:
    """Return the report and write it into the sweep's folder (and `out`/<name>, where given)."""
    file = session.sweep.file
    runs = runs_frame(session, outcomes)
    table = tables.result_table(
        runs,
        metric=file.metric.name,
        goal=file.metric.goal,
        baseline=baseline_row(session, runs),
        also=file.also,
        reference=paper_frame(session),
        alpha=file.alpha,
    )
    origin = tables.provenance(runs, command, hardware())
    head = [f"# {file.question}", "", file.source, ""]
    extra = [*data_notes(session), *tuning_notes(session, outcomes)]
    markdown = "\n".join([*head, tables.to_markdown(table), *_bullets([*extra, *origin])])
    files = {
        "table.md": markdown,
        "table.csv": tables.to_csv(table),
        "table.tex": tables.to_latex(table),
        "runs.csv": runs.to_csv(index=False, lineterminator="\n"),
        "sweep.resolved.json": resolved_sweep(session),
    }
    for folder in [session.folder, *([out / session.name] if out else [])]:
        make_folder(folder)
        for name, text in files.items():
            write_atomically(folder / name, text.rstrip("\n") + "\n")
    return Report(table, runs, files, out / session.name if out else session.folder)


def runs_frame(session: Session, outcomes: Outcomes) -> pd.DataFrame:
    """Return one line per compared run, planned ones that never ran included as missing."""
    jobs = [job for job in session.planner.jobs(outcomes) if job.stage == "seed"]
    lines = [_line(job, outcomes.get(job.identity), session) for job in jobs]
    searched = session.sweep.file.design == "search"
    planned = [] if searched and lines else session.cells[:1] if searched else session.cells
    present = {line["row"] for line in lines}
    for cell in planned:
        if cell.label not in present:
            lines += [_absent(cell, seed) for seed in session.sweep.file.seeds]
    if not searched:
        order = {cell.label: place for place, cell in enumerate(session.cells)}
        lines.sort(key=lambda line: order[line["row"]])
    return pd.DataFrame(lines)


def baseline_row(session: Session, runs: pd.DataFrame) -> str:
    """Return the row that others are compared with: the baseline, or what a search kept first."""
    baseline, axes = session.cells[0], list(session.sweep.file.axes)
    own = runs.loc[(runs[axes] == pd.Series(baseline.choice)[axes]).all(axis=1), "row"]
    return str(own.iloc[0] if len(own) else runs["row"].iloc[0])


def _line(job: Job, outcome: Outcome | None, session: Session) -> dict[str, Any]:
    record = outcome.record if outcome else {}
    label = job.cell.label
    if session.sweep.file.design == "search" and job.params:
        label += " " + ", ".join(
            f"{path.split('.')[-1]}={shown(value)}" for path, value in job.params.items()
        )
    return {
        "row": label,
        **job.cell.choice,
        "seed": job.seed,
        "status": outcome.status if outcome else "missing",
        "reason": outcome.reason if outcome else "",
        **job.params,
        **_costs(job.cell),
        "tokens_per_second": record.get("tokens_per_second", float("nan")),
        "seconds": record.get("seconds", float("nan")),
        "identity": job.identity,
        **{key: record.get(key) for key in _RECORDED},
        **record.get("metrics", {}),
    }


def _absent(cell: Cell, seed: int) -> dict[str, Any]:
    return {
        "row": cell.label, **cell.choice, "seed": seed, "status": "missing",
        "reason": "no tuning trial finished", **_costs(cell),
        "tokens_per_second": float("nan"), "identity": "",
        **dict.fromkeys(_RECORDED),
    }  # fmt: skip


def _costs(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell.costs, name) for name in _COSTS}


def paper_frame(session: Session) -> pd.DataFrame | None:
    """Return the paper's numbers for the table's own column, None where there are none."""
    paper = session.sweep.file.paper
    if paper is None:
        return None
    return pd.DataFrame(
        [{"row": row, "value": value, "note": paper.label} for row, value in paper.values.items()]
    )


def data_notes(session: Session) -> list[str]:
    """Say what an uninformed predictor reaches on each source."""
    notes = []
    for label, source in session.mixture.sources.items():
        known = ", ".join(
            f"{name} {value:.3g}" for name, value in source.reference.items() if "/" not in name
        )
        notes.append(f"{label} without learning: {known} (see hymba_lab/data)." if known else "")
    return [note for note in notes if note]


def tuning_notes(session: Session, outcomes: Outcomes) -> list[str]:
    """Say how every row was tuned, and which values won."""
    file = session.sweep.file
    if not file.search:
        return []
    chosen = {}
    for job in session.planner.jobs(outcomes):
        if job.stage == "seed":
            chosen[job.cell.label] = ", ".join(map(shown, job.params.values()))
    won = "; ".join(f"{label}: {values}" for label, values in chosen.items())
    trials = file.n_trials or file.trials_per_cell
    return [
        f"Tuned alike: {trials} trials of {', '.join(file.search)} "
        f"{'in all' if file.n_trials else 'per row'} on seed {file.tune_seed}, which is not among "
        f"the compared seeds {file.seeds}. Won: {won}."
    ]


def shown(value: Any) -> str:
    """Return a tuned value as text: numbers in three digits."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.3g}" if is_number else str(value)


def _bullets(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines]
