"""What stands under a table beside the statistics: data, tuning, ends before their time."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from hymba_lab.sweep.jobs import Job, Outcomes
from hymba_lab.sweep.references import data_notes
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.tuning_notes import tuning_notes

_MOST_TOLD = 8  # runs that a note names


def table_notes(session: Session, jobs: Sequence[Job], outcomes: Outcomes) -> list[str]:
    """Return the notes of a table, a line each; `jobs` are all that the outcomes determine."""
    return [
        *data_notes(session),
        *set_notes(session),
        *stop_notes(session),
        *tuning_notes(session.sweep, jobs, outcomes),
        *axis_notes(session, jobs, outcomes),
        *ending_notes(session, jobs),
    ]


def set_notes(session: Session) -> list[str]:
    """Say what the sweep fixes for every row in place of its base."""
    fixed = session.sweep.file.set
    told = "; ".join(f"{path} = {json.dumps(value)}" for path, value in fixed.items())
    return [f"Set for every row, in place of {session.sweep.file.base}: {told}."] if fixed else []


def stop_notes(session: Session) -> list[str]:
    """Say what ended a run early, and what that means for a schedule that decays on its budget."""
    stop, schedule = session.sweep.file.stop, session.sweep.base.schedule
    if stop is None:
        return []
    sign = ">=" if stop.goal == "maximize" else "<="
    notes = [f"A run ends when {stop.metric} {sign} {stop.at:g}, or with its budget."]
    if schedule.name != "constant":
        notes.append(
            f"schedule {schedule.name} follows the whole budget: a run that ended early never saw "
            "its decay, so compare when tasks were solved, not what was reached in the end."
        )
    return notes


def ending_notes(session: Session, jobs: Sequence[Job]) -> list[str]:
    """Say how many attempts ended before their time and why; nothing where none did."""
    counts: Counter[str] = Counter()
    runs = {}
    for job in {job.identity: job for job in jobs}.values():
        if endings := session.run_folder(job.identity).endings:
            counts.update(endings)
            runs[job.name] = _counted(endings)
    if not counts:
        return []
    told = "; ".join(f"{name}: {said}" for name, said in list(runs.items())[:_MOST_TOLD])
    more = f"; and {len(runs) - _MOST_TOLD} runs more" if len(runs) > _MOST_TOLD else ""
    return [
        f"Attempts that ended before their time: {_counted(counts)} ({told}{more}); "
        "each next one went on from the last checkpoint."
    ]


def _counted(endings: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in sorted(endings.items()))


def axis_notes(session: Session, jobs: Sequence[Job], outcomes: Outcomes) -> list[str]:
    """Say which axes a search's result depended on; nothing for other designs."""
    if session.sweep.file.design != "search":
        return []
    from hymba_lab.sweep.importance import importance_notes  # imports scikit-learn: a second

    tuned = [job for job in jobs if job.stage == "tune" and job.identity in outcomes]
    done = [(job, outcomes[job.identity]) for job in tuned]
    return importance_notes(session.sweep.file, done)
