"""The files of one attempt at a run: what it was asked, where it runs, what it said at its end.

runs/<identity>/  trial.log  job.json  attempt.<claim>.task  attempt.<claim>.json
"""

import json
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hymba_lab.atomic import facts_of, make_folder, write_atomically, write_bytes

LOG = "trial.log"


class Attempt:
    """One claim's files in a run's folder."""

    def __init__(self, folder: Path, claim: str) -> None:
        self.folder, self.claim = folder, claim
        self.task_file = folder / f"attempt.{claim[:12]}.task"
        self.note_file = folder / f"attempt.{claim[:12]}.json"
        self.log = folder / LOG

    def write_task(self, function: Callable[[Any], str], task: Any) -> None:
        """Keep what a process on another machine is to do."""
        make_folder(self.folder)
        write_bytes(self.task_file, pickle.dumps((function, task)))

    def note(self, **said: Any) -> None:
        """Say how the attempt ended, for a coordinator that hears of its end from a queue."""
        with suppress(Exception):  # a full disk: the queue's own word is left
            write_atomically(self.note_file, json.dumps(said), durable=False)

    @property
    def said(self) -> dict[str, Any]:
        """What the attempt said at its end; {} when it could not."""
        return facts_of(self.note_file)

    def last_line(self) -> str:
        """Return the last line of the log, "" where there is none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4000))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def remove(self) -> None:
        """Forget the attempt; its log stays."""
        for file in (self.task_file, self.note_file):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def job_name() -> str:
    """Return what a queue calls this process, "" where none started it."""
    return f"Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""


def write_job(folder: Path, launcher: str, claim: str, job: str, by: Path | None) -> None:
    """Note which job a queue has given a claim, for a coordinator that begins later.

    `by` is the state file of the one that asked: while it lives, the job is its own.
    """
    make_folder(folder)
    said = {"launcher": launcher, "claim": claim, "job": job}
    if by is not None:
        said["by"] = os.path.relpath(by, folder)  # another machine may mount the root elsewhere
    write_atomically(folder / "job.json", json.dumps(said), durable=False)


def read_job(folder: Path) -> dict[str, Any]:
    """Return what `write_job` noted last, {} where nothing was."""
    return facts_of(folder / "job.json")


def is_of_another(noted: dict[str, Any], folder: Path, mine: Path | None) -> bool:
    """Whether a coordinator that lives, another one than that with the file `mine`, watches it."""
    # torch comes with it, which a fork server must not have imported
    from hymba_lab.sweep.observers.state import state_of_one

    if not isinstance(noted.get("by"), str):
        return False
    path = Path(os.path.normpath(folder / noted["by"]))
    ours = mine is not None and path.name == mine.name
    return not ours and state_of_one(path) is not None
