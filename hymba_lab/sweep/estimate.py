"""What a sweep will cost, before anything is trained: cells, budgets, time, detectable effect."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from hymba_lab.atomic import json_of, make_folder, write_atomically
from hymba_lab.cli import plain_console
from hymba_lab.runs.provenance import hardware
from hymba_lab.stages.chain import count, identities, names
from hymba_lab.sweep.coordinator import Coordinator
from hymba_lab.sweep.devices import device_notes, device_rows, device_table
from hymba_lab.sweep.jobs import Outcomes
from hymba_lab.sweep.launch_plan import launch_notes
from hymba_lab.sweep.launchers.base import Site, launchers
from hymba_lab.sweep.launchers.local import trials_at_once, visible_gpus
from hymba_lab.sweep.notes import stop_notes
from hymba_lab.sweep.power_notes import power_notes
from hymba_lab.sweep.resources import Resources, load_resources
from hymba_lab.sweep.session import Session, open_session
from hymba_lab.sweep.tuning_notes import edge_notes
from hymba_lab.sweep.work_notes import work_notes


@dataclass(frozen=True)
class Plan:
    """What a sweep will train: its question, a table of its rows, and what to know before.

    `devices` is what the rows take on the card that the scale names, None where it names none.
    """

    question: str
    table: Table
    notes: list[str]
    devices: Table | None = None


def plan(
    file: str | Path,
    *,
    scale: str | None = None,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    workers: int | None = None,
    threads: int = 1,
    calibrate: bool = False,
    launcher: str | None = None,
    resources: Path | None = None,
) -> Plan:
    """Return what `run_sweep` of the same arguments would do; trains nothing.

    `calibrate` measures steps of every row first, each with `threads` torch threads, until two
    rounds of them agree, and says when they did not, or the machine was busy. Of
    another `launcher` than this machine it says the jobs, their hours and how they are asked for.
    """
    cluster = load_resources(resources, launcher)
    session = open_session(file, scale=scale, overrides=overrides, root=root)
    cluster.check([cell.label for cell in session.cells], session.sweep)
    outcomes = finished_so_far(session)
    speeds, told = (
        _calibrate(session, threads) if calibrate else (_known_speeds(session, threads), [])
    )
    notes = plan_notes(session, outcomes, speeds, _workers(session, cluster, workers)) + told
    if cluster.spec.name != "local":
        asked = launchers.build(cluster.spec, Site(session.name, threads, n_workers=workers))
        notes += launch_notes(session, cluster, asked, outcomes)
    table, devices = _cell_table(session, outcomes, speeds), None
    if session.sweep.hardware:
        rows = device_rows(session)
        devices, notes = device_table(session, rows), notes + device_notes(session, rows)
    return Plan(session.sweep.file.question, table, notes, devices)


def _workers(session: Session, cluster: Resources, asked: int | None) -> int:
    """Return how many trials would run at a time on this machine."""
    devices = max(cell.config.training.devices for cell in session.cells)
    options = cluster.spec.options() if cluster.spec.name == "local" else {}
    per_gpu = cluster.asked(session.sweep.base.scale).trials_per_gpu
    return trials_at_once(
        len(visible_gpus()), devices, options.get("trials_per_gpu") or per_gpu, asked
    )


def print_plan(found: Plan) -> None:
    """Print the plan."""
    console = plain_console()
    console.print(found.question, style="bold")
    console.print(found.table)
    if found.devices:
        console.print(found.devices)
    for line in found.notes:
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap="\n" in line)


def finished_so_far(session: Session) -> Outcomes:
    """Return the outcomes that the runs' folders hold already."""
    return Coordinator(session.planner, session.root, _no_task, []).run(None)


def _no_task(*_: Any) -> Any:
    raise AssertionError("a plan starts no task")


def plan_notes(
    session: Session, outcomes: Outcomes, speeds: Mapping[str, float], n_workers: int
) -> list[str]:
    """Return what a reader should know before starting, warnings included."""
    base = session.sweep.base
    return [
        _runs_note(session, outcomes),
        *_stage_notes(session, outcomes),
        f"{base.training.tokens:,} tokens = {base.n_steps:,} steps a run, scale {base.scale}.",
        *work_notes(session, outcomes, speeds, n_workers),
        *edge_notes(session.sweep, session.planner.jobs(outcomes)),
        *power_notes(session, outcomes),
        *_budget_notes(session),
        *_course_notes(session),
        *stop_notes(session),
        *_repeat_notes(session),
    ]


def _course_notes(session: Session) -> list[str]:
    """Warn of runs whose course is one point: an area under it is its last value."""
    training, n_steps = session.sweep.base.training, session.sweep.base.n_steps
    if training.val_every < n_steps:
        return []
    return [
        f"Warning: training.val_every = {training.val_every} gives {n_steps} steps one validation: "
        "there is no learning curve, and every `_auc` is the last value; validate more often."
    ]


def _repeat_notes(session: Session) -> list[str]:
    """Say how often a run reads each corpus: what is read many times teaches less each time."""
    notes = []
    for label, source in session.mixture.sources.items():
        if hasattr(source, "repeats"):
            repeats = source.repeats(session.sweep.base.n_steps)
            said = ", ".join(f"{corpus} {times:.3g}" for corpus, times in repeats.items())
            notes.append(f"Times that a run reads each corpus of data.{label}: {said}.")
    return notes


def _runs_note(session: Session, outcomes: Outcomes) -> str:
    file = session.sweep.file
    failed = sum(outcome.status == "failed" for outcome in outcomes.values())
    done = f"{len(outcomes) - failed} finished{f', {failed} failed' if failed else ''}"
    if file.design == "search":
        return (
            f"{file.n_trials} trials over the axes, then {len(file.seeds)} seeds of each that no "
            f"other beats; {done}."
        )
    if file.tuning == "race":
        return (
            f"About {session.planner.total()} runs: in each of {len(session.cells)} rows "
            f"{file.trials_per_cell} values race over {len(file.seeds)} seeds, {done}."
        )
    return (
        f"{session.planner.total()} runs ({len(session.cells)} rows x ({file.trials_per_cell} "
        f"tuning trials + {len(file.seeds)} seeds)), {done}."
    )


def _stage_notes(session: Session, outcomes: Outcomes) -> list[str]:
    """Count the runs of every stage: those that start alike are one, and may be there already."""
    jobs = session.planner.jobs(outcomes)
    if not session.sweep.base.stages or not jobs:
        return []
    chains = [identities(j.config, j.seed, session.mixture.fingerprint) for j in jobs]
    counts = count(chains, names(session.sweep.base), session.root)
    known = "" if len(jobs) >= session.planner.total() else " of the runs that are known so far"
    return [f"Stages{known}, in order: {', '.join(counts)}; each goes on from the one before."]


def _budget_notes(session: Session) -> list[str]:
    match, cells = session.sweep.file.match, session.cells
    if match:
        worst = max(cells, key=lambda cell: abs(cell.residual))
        return [
            f"Matched {'parameters' if match.params else 'FLOPs'} by {match.by}; the largest "
            f"residual is {worst.residual:+.2%} ({worst.label}), allowed {match.tolerance}."
        ]
    if any(abs(cell.costs.params / cells[0].costs.params - 1) > 0.02 for cell in cells):
        return ["Warning: rows differ by more than 2 % in parameters; add match: to the sweep."]
    return []


def _cell_table(session: Session, outcomes: Outcomes, speeds: Mapping[str, float]) -> Table:
    table = Table(
        "row", "params", "vs first", "SSM:attn", "MFLOP/tok", "cache kB", "done",
        *(["ms/step"] if speeds else []), box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False,
        caption="cache: fp16 after 8000 tokens; MFLOP: forward", caption_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:  # numbers stay whole; labels are broken where room is short
        column.no_wrap, column.justify = True, "right"
    table.columns[0].overflow = "fold"
    file = session.sweep.file
    planned = f"/{file.runs_per_row}" if file.design != "search" else ""
    finished = Counter(
        label
        for label, identity in {(j.cell.label, j.identity) for j in session.planner.jobs(outcomes)}
        if identity in outcomes and outcomes[identity].status != "failed"
    )
    first = session.cells[0].costs
    for cell in session.cells:
        costs, ratio = cell.costs, cell.costs.ssm_to_attention
        table.add_row(
            Text(cell.label),
            f"{costs.params:,}",
            f"{costs.params / first.params - 1:+.2%}",
            "" if math.isnan(ratio) else f"{ratio:.2f}",
            f"{costs.flops_per_token / 1e6:.3f}",
            f"{costs.cache_bytes / 1e3:,.1f}",
            f"{finished[cell.label]}{planned}",
            *([f"{1e3 * speeds[cell.label]:.0f}"] if cell.label in speeds else []),
        )
    return table


def _measured(session: Session) -> dict[str, dict[str, float]]:
    """Return what every --calibrate so far measured [s per step], by machine and row's digest."""
    try:
        stored = json_of(session.folder / "calibration.json")
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _here(n_threads: int) -> str:
    """Where a step took its time, as calibration.json names it."""
    return f"{hardware()}; threads {n_threads}"


def _known_speeds(session: Session, n_threads: int) -> dict[str, float]:
    """Return what an earlier --calibrate measured here with as many threads [s per step]."""
    known = _measured(session).get(_here(n_threads), {})
    return {c.label: known[c.config.digest] for c in session.cells if c.config.digest in known}


def _calibrate(session: Session, n_threads: int) -> tuple[dict[str, float], list[str]]:
    """Measure every cell's step, keep the figures for the plans to come; say what to doubt."""
    from hymba_lab.sweep.calibrate import load, time_of_step

    told = [load()]
    with plain_console().status("measuring a few steps of every row"):
        times = {
            cell.label: time_of_step(cell.config, session.mixture, n_threads)
            for cell in session.cells
        }
    if moving := [label for label, time in times.items() if not time.settled]:
        told.append(f"Times of a step did not settle: {', '.join(moving)}; calibrate again.")
    speeds = {label: time.seconds for label, time in times.items()}
    digests = {cell.config.digest: speeds[cell.label] for cell in session.cells}
    make_folder(session.folder)
    known, here = _measured(session), _here(n_threads)
    known[here] = known.get(here, {}) | digests
    write_atomically(session.folder / "calibration.json", json.dumps(known))
    return speeds, told
