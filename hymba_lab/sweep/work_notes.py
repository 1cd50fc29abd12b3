"""What a sweep takes, for its plan: operations, memory, time."""

from collections.abc import Mapping

from hymba_lab.cost.flops import BACKWARD
from hymba_lab.cost.memory import device_memory
from hymba_lab.sweep.jobs import Outcomes
from hymba_lab.sweep.session import Session


def work_notes(
    session: Session, outcomes: Outcomes, speeds: Mapping[str, float], n_workers: int
) -> list[str]:
    """Say what all runs take, those that have ended included, and how long the rest does.

    `speeds` are seconds a step by row. Memory is told where no table of devices tells it.
    """
    notes = [_operations_note(session), _time_note(session, outcomes, speeds, n_workers)]
    return notes if session.sweep.hardware else [notes[0], _memory_note(session), notes[1]]


def _runs_a_row(session: Session) -> float:
    return session.sweep.file.runs_of(len(session.cells)) / len(session.cells)


def _operations_note(session: Session) -> str:
    tokens = session.sweep.base.training.tokens
    a_token = sum((1 + BACKWARD) * cell.costs.flops_per_token for cell in session.cells)
    whole = _runs_a_row(session) * tokens * a_token
    at_most = ", at most: a run that solves ends sooner" if session.sweep.file.stop else ""
    return f"Operations of all runs: {whole:.2g} FLOPs, forward and backward{at_most}."


def _memory_note(session: Session) -> str:
    """Of the row with the most FLOPs: an estimate takes its time, and rows are about as large."""
    most = max(session.cells, key=lambda cell: cell.costs.flops_per_token)
    memory = device_memory(most.config, session.mixture.vocab).total
    return (
        f"Memory of a run: about {memory / 1e9:.2g} GB ({most.label}) for weights, gradients, "
        "optimizer and activations, beside about half a GB of Python and torch."
    )


def _time_note(
    session: Session, outcomes: Outcomes, speeds: Mapping[str, float], n_workers: int
) -> str:
    missing = [cell.label for cell in session.cells if cell.label not in speeds]
    if missing or not speeds:
        return "Expected time: not known; --plan --calibrate measures a few steps of every row."
    n_steps, per_row = session.sweep.base.n_steps, _runs_a_row(session)
    seconds = sum(speeds[cell.label] * n_steps * per_row for cell in session.cells)
    share = 1 - min(1.0, len(outcomes) / max(1, session.planner.total()))
    minutes = seconds * share / n_workers / 60
    time = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{minutes * 60:.0f} seconds"
    hours = seconds * share / 3600
    return (
        f"Expected time: {time} with {n_workers} workers for what is left, {hours:.2g} hours of "
        "one worker."
    )
