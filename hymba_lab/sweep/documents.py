"""What is made of an export: its table as texts, when its task was solved, where it is from."""

import pandas as pd

from hymba_lab import tables
from hymba_lab.sweep.export import Export, to_csv
from hymba_lab.sweep.luck import luck_notes, with_caution
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.question.level import level_of
from hymba_lab.sweep.widening import never_widened
from hymba_lab.tables.gates import Floor
from hymba_lab.tables.numbers import GUESS, SHARES
from hymba_lab.tables.solving import Task, task_of


def documents(export: Export) -> tuple[tables.Table, dict[str, str]]:
    """Return the table of an export, and it as Markdown, CSV and LaTeX by file name."""
    sweep, runs, facts = export.sweep, export.runs, export.facts
    task = task_of_export(export)
    asked = tables.Asked(
        metric=sweep.metric.name if task is None else task.metric,
        goal=sweep.metric.goal,
        baseline=facts.baseline,
        also=sweep.also,
        reference=paper_frame(sweep),
        alpha=sweep.alpha,
        margin=sweep.margin,
        looks=sweep.looks,
        factorial=list(sweep.axes) if sweep.design == "factorial" else (),
        task=task,
        control=sweep.control,
        choices=never_widened(sweep),
        floor=_floor(sweep.metric.name, runs),
        cautions=luck_notes(export),
    )
    table = with_caution(tables.result_table(runs, asked), export)
    bullets = [f"- {line}\n" for line in [*facts.notes, *origin(export)]]
    question, source = (tables.markdown_text(said) for said in (sweep.question, sweep.source))
    head = f"# {question}\n\n{source}\n\n"
    return table, {
        "table.md": head + tables.to_markdown(table) + "".join(bullets),
        "table.csv": tables.to_csv(table),
        "table.tex": tables.to_latex(table),
        **{f"{second.name}.csv": to_csv(second.frame) for second in table.more},
    }


def task_of_export(export: Export) -> Task | None:
    """Return the task that the runs were to solve, and when; None where its course is not kept."""
    level = level_of(export.sweep, export.base)
    if level is None or level.metric not in set(export.curves["metric"]):
        return None
    return task_of(export.runs, export.curves, level.metric, level.at, level.guess, goal=level.goal)


def _floor(metric: str, runs: pd.DataFrame) -> Floor | None:
    """Return what an evaluated task gives to one answer; None of other metrics, or unknown."""
    _, _, name = metric.rpartition("/")
    guess = f"{metric.removesuffix(name)}{GUESS}"
    if not metric.startswith("eval/") or name not in SHARES or guess not in runs:
        return None
    known = pd.to_numeric(runs[guess]).max()
    return None if pd.isna(known) else Floor(float(known), "one answer to every question")


def origin(export: Export) -> list[str]:
    """Return where the table comes from: command, commit, runs, data, hardware, time."""
    hours = ", ".join(f"{value:.2f} h {what}" for what, value in export.facts.hours.items())
    lines = tables.provenance(
        export.runs, export.facts.command, "; ".join(export.facts.hardware) or "unknown"
    )
    return [*lines, f"Training time: {hours or 'unknown'}"]


def paper_frame(sweep: SweepFile) -> pd.DataFrame | None:
    """Return the paper's numbers for the table's own column, None where there are none."""
    if sweep.paper is None:
        return None
    return pd.DataFrame(
        [
            {"row": row, "value": value, "note": sweep.paper.label}
            for row, value in sweep.paper.values.items()
        ]
    )
