"""What the seeds of a sweep can show, said before they are run."""

import math

from hymba_lab.stats import LEAST_SEEDS, detectable_effect, run_sd, showable_margin
from hymba_lab.sweep.jobs import Outcomes
from hymba_lab.sweep.judging import times_of, values_of
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.question.level import level_of
from hymba_lab.sweep.session import Session
from hymba_lab.tables.published import Prior, Unit, prior, unit_of


def power_notes(session: Session, outcomes: Outcomes) -> list[str]:
    """Say which effect and which equivalence the sweep's seeds are enough for."""
    file = session.sweep.file
    if file.design == "search" or len(session.cells) < 2:
        return []
    notes = _of_seeds(session, outcomes)
    if file.looks is not None:
        later = ", ".join(map(str, file.looks.sizes[1:]))
        notes.append(f"Until decided: undecided rows and the baseline go on to {later} seeds.")
    return notes


def _of_seeds(session: Session, outcomes: Outcomes) -> list[str]:
    file, n_rows = session.sweep.file, len(session.cells) - 1
    n_seeds = len(file.seeds)
    if n_seeds < LEAST_SEEDS:
        seeds = "one seed gives" if n_seeds == 1 else f"{n_seeds} seeds give"
        return [f"Warning: {seeds} no verdict; plan at least {LEAST_SEEDS}."]
    by_time, spread = run_spread(session, outcomes)
    rows = "1 row" if n_rows == 1 else f"{n_rows} rows"
    found = _detectable(session, by_time, spread)
    notes = [f"Smallest effect that {n_seeds} seeds detect in {rows}: {found}."]
    if file.margin is not None and not math.isnan(spread):
        size = showable_margin(spread, n_seeds, n_rows, alpha=_first_alpha(file))
        size = math.exp(size) if by_time else size
        notes.append(
            f"Equivalence within {file.margin:g}: {n_seeds} seeds show margins down to {size:.3g}."
        )
    return notes


def run_spread(session: Session, outcomes: Outcomes) -> tuple[bool, float]:
    """Return whether rows are compared by time, and a run's standard deviation so far (or NaN).

    It is one of the metric, or of the logarithm of the training tokens until the task was solved.
    """
    sweep, jobs = session.sweep, session.planner.jobs(outcomes)
    labels = [cell.label for cell in session.cells]
    level = level_of(sweep.file, sweep.base.resolved())
    if level is None:
        return False, run_sd(values_of(sweep.file.metric, labels, jobs, outcomes).values())
    rows = times_of(sweep, level, labels, jobs, outcomes).values()
    logs = [{seed: math.log(run.time) for seed, run in row.items() if run.solved} for row in rows]
    return True, run_sd(logs)


def _detectable(session: Session, by_time: bool, spread: float) -> str:
    file, n_rows = session.sweep.file, len(session.cells) - 1
    known, unit = not math.isnan(spread), unit_of(file.metric.name)
    public = None if known or by_time or unit is None else _published(session, unit)
    sd = spread if known else public.sd if public else 1.0
    size = detectable_effect(sd, len(file.seeds), n_rows, alpha=_first_alpha(file))
    if public:
        return f"{size:.3g} in {file.metric.name} at the noise of others: {public}"
    if not known:
        what = "log training tokens until solved" if by_time else "a run"
        return f"{size:.1f} standard deviations of {what} (spread not known yet)"
    if by_time:
        return f"{math.exp(size):.3g} times the tokens until solved (from the runs so far)"
    return f"{size:.3g} in {file.metric.name} (from the runs so far)"


def _first_alpha(file: SweepFile) -> float:
    """What the seeds of the file may spend: of several looks, the first one's share."""
    return file.alpha * (next(iter(file.looks))[1] if file.looks else 1.0)


def _published(session: Session, unit: Unit) -> Prior | None:
    return prior(session.cells[0].costs.params, unit)
