"""The sweep in the terminal: a live table where there is one, plain lines elsewhere."""

import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hymba_lab import cli, tables
from hymba_lab.errors import TrialFailed, TrialInterrupted
from hymba_lab.runs.store_uri import is_server
from hymba_lab.sweep.jobs import Job, Outcome, value_of
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.tuning_notes import edge_notes

if TYPE_CHECKING:
    from hymba_lab.sweep.report import Report

_MOST_SHOWN = 20  # runs in the live table
_SHARES_S = 5.0  # how long it is believed how far the runs are: each is a file
_SILENT_S = 600.0  # a log without a terminal says how far the sweep is after so long without a line


def _page(uri: str, experiment_id: str) -> str:
    """Return the address of the experiment's runs: MLflow's first page shows none."""
    server = uri.rstrip("/") if is_server(uri) else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{experiment_id}/runs"


class View:
    """Counts cells done, running and failed; shows the best so far and the time left."""

    def __init__(self, session: Session, console: Console) -> None:
        self.session, self.console = session, console
        self.metric = session.sweep.file.metric
        self.trouble: Callable[[], str] = lambda: ""  # what the launcher waits for
        self.done: list[tuple[Job, Outcome]] = []
        self.trained_s: list[float] = []
        self._since: dict[str, tuple[float, float]] = {}  # run -> when it was asked for, its start
        self._spoke = time.monotonic()
        self._n_interrupted: Counter[str] = Counter()
        self._running: Mapping[str, Job] = {}
        self._n_running = 1
        self._warned: set[str] = set()
        self._live: Live | None = None
        self._shares: tuple[float, dict[str, float]] = (-math.inf, {})

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the running sweep meanwhile."""
        left = self.session.planner.total() - len(self.done)
        self.console.print(
            f"{self.session.name}: {len(self.done)} runs finished before, {left} to go.",
            soft_wrap=True,
        )
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=2, transient=True) as self._live:
            yield
        self._live = None

    def started(self, job: Job) -> None:
        """Note since when it runs, and from where: a killed run goes on from its checkpoint."""
        self._since[job.identity] = (time.monotonic(), self._share(job))

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Count the run; print a line for it when it was trained now."""
        self.done.append((job, outcome))
        self._since.pop(job.identity, None)
        if not trained:
            return
        self.trained_s.append(outcome.record.get("seconds", 0.0) if outcome.record else 0.0)
        value = value_of(job, outcome, self.metric)
        said = f"{self.metric.name} {value:.4g}" if outcome.status == "finished" else outcome.status
        if outcome.status == "failed":
            said = f"failed ({outcome.reason}): {outcome.message}"
        total = max(self.session.planner.total(), len(self.done))
        line = f"[{len(self.done)}/{total}] {job.name}: {said}"
        self._print(line if self.console.is_terminal else line + self._time_left())
        self._warn_of_edges()

    def _warn_of_edges(self) -> None:
        """Print once of every row that its tuning has ended at an edge of its values."""
        outcomes = {job.identity: outcome for job, outcome in self.done}
        warnings = edge_notes(self.session.sweep, self.session.planner.jobs(outcomes))
        for line in warnings:
            self._print_once(line)

    def _print_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._print(line)

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """Say why an attempt ended early."""
        self._n_interrupted[why.reason] += 1
        self._since.pop(job.identity, None)
        self._print(f"{job.name}: {why.reason}: {why.message}")

    def _print(self, line: str) -> None:
        self._spoke = time.monotonic()
        if self.console.is_terminal:
            self.console.print(line, markup=False, soft_wrap=True)  # a path stays in one piece
        else:
            print(line, file=self.console.file, flush=True)

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Refresh the live table; in a log, say now and then how far the sweep is."""
        self._running, self._n_running = running, max(1, len(running))
        if trouble := self.trouble():
            self._print_once(f"waits: {trouble}")
        if self._live is not None:
            self._live.update(self._picture(running))
        elif running and time.monotonic() - self._spoke > _SILENT_S:
            self._print(self._head(running) + self._time_left())

    def nothing_to_do(self) -> None:
        """Say that the sweep is read back."""
        self.console.print(
            f"{self.session.name}: all {len(self.done)} runs are finished; nothing to train.",
            soft_wrap=True,
        )

    def report(self, report: "Report", uri: str, experiment_id: str) -> None:
        """Print the table, its notes and where to look next."""
        self.console.print()
        self.console.print(Text(self.session.sweep.file.question, style="bold"))
        self.console.print(tables.to_rich(report.table, self.console.width))
        where = report.folder
        self.console.print(
            f"\nFiles: {where}/table.md, table.csv, table.tex, runs.csv\n"
            f"Charts: mlflow ui --backend-store-uri {shlex.quote(uri)}\n"
            f"        open {_page(uri, experiment_id)}, group runs by 'row'",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _picture(self, running: Mapping[str, Job]) -> Group:
        table = Table("run", "step", self.metric.name, box=None)
        for job in list(running.values())[:_MOST_SHOWN]:
            progress = self.session.run_folder(job.identity).progress or {}
            step = f"{progress.get('step', 0)}/{job.config.n_steps}"
            loss = progress.get("metrics", {}).get("train/loss")
            table.add_row(job.name, step, "" if loss is None else f"train/loss {loss:.3f}")
        if len(running) > _MOST_SHOWN:
            table.add_row(f"and {len(running) - _MOST_SHOWN} more", "", "")
        return Group(Text(self._head(running) + self._best() + self._time_left()), table)

    def _head(self, running: Mapping[str, Job]) -> str:
        failed = sum(outcome.status == "failed" for _, outcome in self.done)
        total = self.session.planner.total()
        head = f"done {len(self.done)}/{total}  running {len(running)}  failed {failed}"
        ended = "".join(f"  {reason} {n}" for reason, n in sorted(self._n_interrupted.items()))
        return head + ended

    def _best(self) -> str:
        sign = -1 if self.metric.goal == "maximize" else 1
        finished = [
            (sign * value_of(job, o, self.metric), job)
            for job, o in self.done
            if o.status == "finished"
        ]
        if not finished:
            return ""
        value, job = min(finished, key=lambda pair: pair[0])
        return f"  best so far {sign * value:.4g} ({job.name})"

    def _time_left(self) -> str:
        """Return the time left in words; "" while no run has ended or shown how fast it is."""
        shares = self._shares_now()
        whole_s = self._seconds_of_a_run(shares)
        if whole_s is None:
            return ""
        left = self.session.planner.total() - len(self.done) - sum(shares.values())
        return f"  about {cli.span(max(0.0, left) * whole_s / self._n_running)} left"

    def _shares_now(self) -> dict[str, float]:
        """Return how much of every running run is trained, as it was some seconds ago at most."""
        read_at, shares = self._shares
        if time.monotonic() - read_at > _SHARES_S:
            shares = {identity: self._share(job) for identity, job in self._running.items()}
            self._shares = time.monotonic(), shares
        return {identity: share for identity, share in shares.items() if identity in self._since}

    def _seconds_of_a_run(self, shares: Mapping[str, float]) -> float | None:
        """Return how long a run takes: the mean of those that ended, else by the fastest one's."""
        if self.trained_s:
            return sum(self.trained_s) / len(self.trained_s)
        now, speeds = time.monotonic(), []
        for identity, share in shares.items():
            begun, start = self._since[identity]
            if share > start and now > begun:
                speeds.append((share - start) / (now - begun))
        return 1 / max(speeds) if speeds else None

    def _share(self, job: Job) -> float:
        """Return how much of a run is trained, from 0 to 1."""
        progress = self.session.run_folder(job.identity).progress or {}
        return min(1.0, float(progress.get("step", 0)) / max(1, job.config.n_steps))
