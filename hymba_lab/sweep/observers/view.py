"""The sweep in the terminal: a live table where there is one, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hymba_lab import tables
from hymba_lab.errors import TrialInterrupted
from hymba_lab.sweep.jobs import Job, Outcome, value_of
from hymba_lab.sweep.session import Session

if TYPE_CHECKING:
    from hymba_lab.sweep.report import Report


class View:
    """Counts cells done, running and failed; shows the best so far and the time left."""

    def __init__(self, session: Session, console: Console) -> None:
        self.session, self.console = session, console
        self.metric = session.sweep.file.metric
        self.done: list[tuple[Job, Outcome]] = []
        self.trained_s: list[float] = []
        self._n_running = 1
        self._n_interrupted: Counter[str] = Counter()
        self._live: Live | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the running sweep meanwhile."""
        left = self.session.planner.total() - len(self.done)
        self.console.print(
            f"{self.session.name}: {len(self.done)} runs finished before, {left} to go."
        )
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=2, transient=True) as self._live:
            yield
        self._live = None

    def started(self, job: Job) -> None:
        """Nothing to print: the live table shows it."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Count the run; print a line for it when it was trained now."""
        self.done.append((job, outcome))
        if not trained:
            return
        self.trained_s.append(outcome.record.get("seconds", 0.0) if outcome.record else 0.0)
        value = value_of(job, outcome, self.metric)
        said = f"{self.metric.name} {value:.4g}" if outcome.status == "finished" else outcome.status
        if outcome.status == "failed":
            said = f"failed ({outcome.reason}): {outcome.message}"
        total = max(self.session.planner.total(), len(self.done))
        line = f"[{len(self.done)}/{total}] {job.name}: {said}"
        self.console.print(line, markup=False, soft_wrap=True)  # a path stays in one piece

    def broke_off(self, job: Job, why: TrialInterrupted) -> None:
        """Say why an attempt ended early."""
        self._n_interrupted[why.reason] += 1
        line = f"{job.name}: {why.reason}: {why.message}"
        self.console.print(line, markup=False, soft_wrap=True)

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Refresh the live table."""
        self._n_running = max(1, len(running))
        if self._live is not None:
            self._live.update(self._picture(running))

    def nothing_to_do(self) -> None:
        """Say that the sweep is read back."""
        self.console.print(
            f"{self.session.name}: all {len(self.done)} runs are finished; nothing to train."
        )

    def report(self, report: "Report", uri: str) -> None:
        """Print the table, its notes and where to look next."""
        self.console.print()
        self.console.print(Text(self.session.sweep.file.question, style="bold"))
        self.console.print(tables.to_rich(report.table))
        where = report.folder
        self.console.print(
            f"\nFiles: {where}/table.md, table.csv, table.tex, runs.csv\n"
            f"Charts: mlflow ui --backend-store-uri {uri}\n"
            f"        then open experiment {self.session.name!r}, group runs by 'row', compare.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _picture(self, running: Mapping[str, Job]) -> Group:
        failed = sum(outcome.status == "failed" for _, outcome in self.done)
        total = self.session.planner.total()
        head = f"done {len(self.done)}/{total}  running {len(running)}  failed {failed}"
        ended = "".join(f"  {reason} {n}" for reason, n in sorted(self._n_interrupted.items()))
        table = Table("run", "step", self.metric.name, box=None)
        for job in running.values():
            progress = self.session.run_folder(job.identity).progress or {}
            step = f"{progress.get('step', 0)}/{job.config.n_steps}"
            loss = progress.get("metrics", {}).get("train/loss")
            table.add_row(job.name, step, "" if loss is None else f"train/loss {loss:.3f}")
        return Group(Text(head + ended + self._best() + self._time_left(running)), table)

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

    def _time_left(self, running: Mapping[str, Job]) -> str:
        if not self.trained_s:
            return ""
        left = self.session.planner.total() - len(self.done)
        seconds = sum(self.trained_s) / len(self.trained_s) * left / self._n_running
        return f"  about {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
