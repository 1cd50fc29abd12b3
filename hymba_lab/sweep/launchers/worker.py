"""One attempt at a trial, in whatever process a launcher gives it: log, signals, time limit.

    python -m hymba_lab.sweep.launchers.worker FILE     what a job of a queue runs

Light until the task itself is read: a signal to leave may come at once.
"""

import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hymba_lab.errors import LeaseLost, TrialFailed
from hymba_lab.runs.root_id import ROOT_ID
from hymba_lab.sweep.launchers.attempt import Attempt

LEFT, SUPERSEDED, TIMED_OUT, REFUSED = 75, 76, 77, 78
"""Exit statuses: saved and left when asked to, another one trains, time is up, wrong place."""

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals by which a worker is asked to leave."""


def work(
    function: Callable[[Any], str],
    task: Any,
    environment: Mapping[str, str] = {},
    timeout_s: float | None = None,
) -> str:
    """Return function(task) with its output in the run's `trial.log`.

    Raises `TrialFailed("refused")` where the task's folder is not its coordinator's.
    """
    os.environ.update(environment)
    require_root(Path(task.root), task.root_id)
    attempt = Attempt(Path(task.folder), task.claim)
    _output_to(attempt.log)
    leave_when_asked(attempt)
    if timeout_s is not None:
        _limit(timeout_s, attempt)
    try:
        return function(task)
    except LeaseLost as error:
        print(error, file=sys.stderr, flush=True)
        return "superseded"
    except SystemExit as error:  # the training loop has saved, and ends with the signal's status
        if error.code != 128 + signal.SIGTERM:
            raise
        attempt.note(status="left")
        return "left"
    except Exception as error:
        traceback.print_exc()
        attempt.note(status="error", message=f"{type(error).__name__}: {error}"[:500])
        raise


def require_root(root: Path, root_id: str) -> None:
    """Refuse a folder that has the coordinator's name but is another one: nothing is shared."""
    file = root / "runs" / ROOT_ID
    try:
        found = file.read_text(encoding="utf-8").strip()
    except OSError:
        found = ""
    if found != root_id:
        raise TrialFailed(
            "refused",
            f"{socket.gethostname()}: {root} is not the coordinator's folder ({file.name} is "
            f"{found[:12] or 'missing'}, asked for {root_id[:12]}); share one folder under one "
            "path between all nodes, and name it with --root.",
        )


def leave_when_asked(attempt: Attempt) -> None:
    """Let a signal end the attempt without loss: after its step and a checkpoint, or at once.

    While a model trains, the training loop answers SIGTERM itself; before and after, nothing is
    left to save.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def leave(number: int, frame: object) -> None:
        if number != signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        elif signal.getsignal(signal.SIGTERM) is leave:  # else the training loop is in between
            attempt.note(status="left")
            os._exit(LEFT)

    for number in ASKING:
        signal.signal(number, leave)


def _output_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _limit(timeout_s: float, attempt: Attempt) -> None:
    def end() -> None:
        attempt.note(status="timeout")
        os._exit(TIMED_OUT)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()


def main(argv: list[str]) -> int:
    """Do what a file asks; the exit status says how it ended."""
    try:
        function, task = pickle.loads(Path(argv[0]).read_bytes())
    except FileNotFoundError:
        print(
            f"{socket.gethostname()}: {argv[0]} is not there; share one folder under one path "
            "between all nodes, and name it with --root.",
            file=sys.stderr,
        )
        return REFUSED
    try:
        status = work(function, task, timeout_s=task.timeout_s)
    except TrialFailed as error:
        if error.reason != "refused":
            raise
        print(error.message, file=sys.stderr)
        return REFUSED
    if status == "failed":  # its folder says why; the queue would say that the job completed
        Attempt(Path(task.folder), task.claim).note(status=status)
    return {"left": LEFT, "superseded": SUPERSEDED}.get(status, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
