"""What a coordinator is doing, in a file of the sweep's folder, for `hymba-lab status` and `stop`.

runs/sweeps/<sweep>/coordinators/<id>.json     renewed every few seconds
runs/sweeps/<sweep>/stop                       every coordinator that sees it stops
"""

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.errors import SweepStopped, TrialFailed, TrialInterrupted
from hymba_lab.runs.lease import age_s, is_alive, this_process
from hymba_lab.sweep.jobs import Job, Outcome

_EVERY_S = 2.0
_LAST = "last.json"
SILENT_S = 60.0
"""A coordinator on another machine that was silent so long [s] is taken for gone."""


class StateFile:
    """An observer that keeps one coordinator's file."""

    def __init__(
        self,
        folder: Path,
        total: Callable[[], int],
        launcher: str,
        trouble: Callable[[], str] = lambda: "",
        job: str = "",
        path: Path | None = None,
    ) -> None:
        """`total()` is the planned number of runs, `trouble()` what the launcher waits for; `path`
        is one that `new_state_file` named."""
        self.trouble, self.path = trouble, path or new_state_file(folder)
        self._old_word = stop_word(folder)  # before anybody can see that there is one to stop
        self._total, self._written, self._known = total, 0.0, False
        self._done: dict[str, int] = {"finished": 0, "pruned": 0, "failed": 0}
        self._seconds: list[float] = []
        self._failed: list[dict[str, str]] = []
        self._interrupted: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._facts = {"holder": this_process(job), "launcher": launcher, "started": time.time()}
        make_folder(self.path.parent)
        self._write({})

    def read_back(self, outcomes: Mapping[str, Outcome]) -> None:
        """Count what was finished before, whatever was counted until now."""
        self._known, self._failed = True, []
        self._done = dict.fromkeys(self._done, 0)
        for identity, outcome in outcomes.items():
            self._done[outcome.status] += 1
            if outcome.status == "failed":
                said = {"reason": outcome.reason, "message": outcome.message}
                self._failed.append({"name": f"run {identity[:12]}", "identity": identity, **said})
        self._write({})

    def started(self, job: Job) -> None:
        """Note since when the run is asked for."""
        self._since[job.identity] = time.time()

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Count it."""
        self._known = True
        self._done[outcome.status] += 1
        self._since.pop(job.identity, None)
        if outcome.status == "failed":
            said = {"reason": outcome.reason, "message": outcome.message}
            self._failed.append({"name": job.name, "identity": job.identity, **said})
        elif trained:
            self._seconds.append(float(outcome.record.get("seconds") or 0.0))

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """Count why; the run is asked for again."""
        self._interrupted[why.reason] += 1

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Write the file now and then; raises `SweepStopped` once that was asked for."""
        if stop_word(self.path.parents[1]) not in (None, self._old_word):
            raise SweepStopped(self.path.parents[1].name)
        if time.monotonic() - self._written > _EVERY_S:
            self._write(running)

    def close(self) -> None:
        """The coordinator ends; what it knew last, if it came so far, stays as `last.json`."""
        if not self._known:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            return
        self._write({})
        with suppress(OSError):
            os.replace(self.path, self.path.with_name(_LAST))

    def _write(self, running: Mapping[str, Job]) -> None:
        self._written = time.monotonic()
        state = {
            **self._facts, "done": self._done, "total": self._total(), "failed": self._failed[-50:],
            "interrupted": self._interrupted,
            "trouble": self.trouble(),
            "seconds": sum(self._seconds) / len(self._seconds) if self._seconds else None,
            "running": [
                {"name": job.name, "identity": identity, "n_steps": job.config.n_steps,
                 "since": self._since.get(identity)}
                for identity, job in running.items()
            ],
        }  # fmt: skip
        with suppress(Exception):  # a full disk stops no sweep here
            write_atomically(self.path, json.dumps(state), durable=False)


class _Running(BaseModel):
    name: str
    identity: str
    n_steps: int


class _State(BaseModel):
    """What a reader needs of a coordinator's file, which may be cut, edited, or of later days."""

    holder: dict[str, Any]
    launcher: str
    started: float
    done: dict[str, int]
    total: int
    failed: list[dict[str, str]]
    interrupted: dict[str, int]
    trouble: str | None = None
    seconds: float | None
    running: list[_Running]


def _read(path: Path) -> dict[str, Any] | None:
    """Return a coordinator's state, None for whatever is no whole one."""
    try:
        return _State.model_validate_json(path.read_bytes()).model_dump()
    except (OSError, ValidationError):
        return None


def new_state_file(folder: Path) -> Path:
    """Return where a coordinator of the sweep may keep its state."""
    return folder / "coordinators" / f"{uuid.uuid4().hex[:12]}.json"


def coordinators(folder: Path) -> list[dict[str, Any]]:
    """Return the state of every coordinator of a sweep that lives; files of dead ones are left."""
    found = []
    for path in sorted((folder / "coordinators").glob("*.json")):
        if path.name == _LAST:
            continue
        if (state := state_of_one(path)) is not None:
            found.append(state)
    return found


def state_of_one(path: Path) -> dict[str, Any] | None:
    """Return what a coordinator that lives says in its file, None where it is gone."""
    state = _read(path)
    if state is None:
        return None
    alive, age = is_alive(state["holder"]), age_s(path)
    if alive is False or (alive is None and abs(age) > SILENT_S):
        return None
    return {**state, "file": path.name, "age_s": age}


def last_state(folder: Path) -> dict[str, Any] | None:
    """Return what the coordinator that ended last knew, None where none has ended."""
    return _read(folder / "coordinators" / _LAST)


def ask_to_stop(folder: Path) -> None:
    """Leave the word that every coordinator of this sweep looks for."""
    write_atomically(folder / "stop", f"{time.time()}\n", durable=False)


def stop_word(folder: Path) -> tuple[int, int] | None:
    """Return what tells the word that was left from a later one, None where there is none.

    Its time alone says nothing of before and after: a clock may have been years ahead.
    """
    try:
        found = (folder / "stop").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
