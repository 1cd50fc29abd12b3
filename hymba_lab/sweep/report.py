"""From outcomes to the table: the tidy frame of the compared runs, its verdicts, the files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab import tables
from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.sweep.cells import Cell
from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import (
    Facts,
    curve,
    curve_metrics,
    curves_csv,
    facts_json,
    parse_export,
    to_csv,
)
from hymba_lab.sweep.jobs import Job, Outcome, Outcomes, Stage
from hymba_lab.sweep.notes import table_notes
from hymba_lab.sweep.question.designs import row_label
from hymba_lab.sweep.question.file import Stop
from hymba_lab.sweep.session import Session, resolved_sweep
from hymba_lab.sweep.solving import solving_facts, tokens_per_step
from hymba_lab.sweep.tuned import NAME, chosen_by, tuning_csv
from hymba_lab.tables.columns import COSTS, SHARED, WHENCE

_RECORDED = (*SHARED, *WHENCE)


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
    def verdicts(self) -> pd.DataFrame:
        """Every row with its effect, interval and verdict, a line each."""
        wanted = ("row", "seeds", "effect", "effect_low", "effect_high", "p_holm", "verdict")
        frame = self.table.frame
        return frame[[name for name in wanted if name in frame]]

    @property
    def answer(self) -> str:
        """The table as Markdown, with its notes."""
        return self.files["table.md"]


def write_report(session: Session, outcomes: Outcomes, command: str, out: Path | None) -> Report:
    """Return the report and write it into the sweep's folder (and `out`/<name>, where given).

    The table is made from the export's own text, as `hymba_lab.report` makes it again.
    """
    jobs = session.planner.jobs(outcomes)
    runs = runs_frame(session, outcomes)
    facts = Facts(
        command=command,
        baseline=baseline_row(session, runs),
        hardware=sorted({str(found["hardware"]) for found in _records(jobs, outcomes)}),
        hours={
            "of compared runs": _hours(_records(jobs, outcomes, "seed")),
            "of tuning": _hours(_records(jobs, outcomes, "tune", "race")),
        },
        notes=table_notes(session, jobs, outcomes),
    )
    texts = {
        "export.json": facts_json(facts),
        "sweep.resolved.json": resolved_sweep(session) + "\n",
        "runs.csv": to_csv(runs),
        "curves.csv": curves_csv(curve_lines(session, jobs, outcomes)),
    }
    file = session.sweep.file
    if file.search:
        task = chosen_by(file, session.sweep.base.resolved())
        texts[NAME] = tuning_csv(file, task, tuning_lines(session, task, jobs, outcomes), runs)
    export = parse_export(session.folder, texts)
    table, tables_by_name = documents(export)
    files = {**texts, **tables_by_name}
    for folder in [session.folder, *([out / session.name] if out else [])]:
        make_folder(folder, "--root" if folder == session.folder else "--out")
        for name, text in files.items():
            write_atomically(folder / name, text)
    return Report(table, runs, files, out / session.name if out else session.folder)


def curve_lines(
    session: Session, jobs: Sequence[Job], outcomes: Outcomes
) -> Iterator[dict[str, Any]]:
    """Yield a line per validation and metric of every compared run that finished."""
    for job in jobs:
        outcome = outcomes.get(job.identity)
        if job.stage == "seed" and outcome and outcome.status == "finished":
            yield from curve(
                row_label(session.sweep.file.design, job.cell.label, job.params),
                job.seed,
                outcome.record["history"],
                curve_metrics(session.sweep.file),
                tokens_per_step(job.config),
            )


def tuning_lines(
    session: Session, task: Stop | None, jobs: Sequence[Job], outcomes: Outcomes
) -> Iterator[dict[str, Any]]:
    """Yield a line for every run that ended and chose values; in a race compared runs choose."""
    file = session.sweep.file
    choosing = ("race", "seed") if file.tuning == "race" else ("tune",)
    for job in _once(jobs):
        outcome = outcomes.get(job.identity)
        if outcome is not None and job.stage in choosing:
            yield {
                "row": row_label(file.design, job.cell.label, job.params),
                "seed": job.seed,
                "status": outcome.status,
                **job.params,
                **solving_facts(outcome.record, tokens_per_step(job.config), task),
                **outcome.record.get("metrics", {}),
                **{key: outcome.record.get(key) for key in ("seconds", "commit")},
                "identity": job.identity,
            }


def _records(jobs: Sequence[Job], outcomes: Outcomes, *stages: Stage) -> list[Mapping[str, Any]]:
    """Return the records of what was trained, of some stages or of all."""
    asked = [job for job in jobs if not stages or job.stage in stages]
    ended = [outcomes.get(job.identity) for job in _once(asked)]
    return [outcome.record for outcome in ended if outcome and "hardware" in outcome.record]


def _once(jobs: Sequence[Job]) -> list[Job]:
    """Return every run once: a sampler may suggest values again."""
    return list({job.identity: job for job in reversed(jobs)}.values())[::-1]


def _hours(records: Sequence[Mapping[str, Any]]) -> float:
    return round(sum(float(record["seconds"]) for record in records) / 3600, 4)


def runs_frame(session: Session, outcomes: Outcomes) -> pd.DataFrame:
    """Return one line per compared run, planned ones that never ran included as missing."""
    every = session.planner.jobs(outcomes)
    jobs = [job for job in every if job.stage == "seed"]
    lines = [_line(job, outcomes.get(job.identity), session) for job in jobs]
    searched = session.sweep.file.design == "search"
    planned = [] if searched and lines else session.cells[:1] if searched else session.cells
    present = {line["row"] for line in lines}
    for cell in planned:
        if cell.label not in present:
            own = [outcomes.get(job.identity) for job in every if job.cell.label == cell.label]
            reasons = [one.reason for one in own if one]
            lines += [_absent(cell, seed, reasons) for seed in session.sweep.file.seeds]
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
    return {
        "row": row_label(session.sweep.file.design, job.cell.label, job.params),
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
        **solving_facts(record, tokens_per_step(job.config), session.sweep.file.stop),
        **record.get("metrics", {}),
    }


def _absent(cell: Cell, seed: int, reasons: Iterable[str]) -> dict[str, Any]:
    why = ", ".join(dict.fromkeys(reason for reason in reasons if reason))
    return {
        "row": cell.label, **cell.choice, "seed": seed, "status": "missing",
        "reason": "no tuning trial finished" + (f": {why}" if why else ""), **_costs(cell),
        "tokens_per_second": float("nan"), "identity": "",
        **dict.fromkeys(_RECORDED),
    }  # fmt: skip


def _costs(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell.costs, name) for name in COSTS}
