"""Two or more sides measured alternately: what every benchmark here shares.

    Side("ours", make_ours, (shape,)), Side("peer", make_peer, (shape,))   ->  compare(...)

Each side lives in a process of its own, so that one side's memory, caches and threads are not the
other's. All are built and warmed up first; then they run in turns, A B A B, and a round's ratio is
taken inside the round: a machine that slows down slows both. Peak memory is the growth of the
process during one call, after the allocator gave back what it held.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hymba_lab.runs.provenance import commit, hardware

SAMPLE_S = 0.05  # shorter calls are repeated until a sample takes this long [s]
PAUSE_S = 0.01  # between samples: OpenMP threads of the last side spin for some milliseconds [s]
Step = Callable[[], Mapping[str, float] | None]


@dataclass(frozen=True)
class Side:
    """One side: `make(*args)` builds it in its process and returns the step to be timed.

    `make` is a function of a module, so that another process can find it. A step may return
    figures (a loss, a count); those of the last call are kept. `env` is set before anything is
    imported. `cold`: measured by one single call, for what takes minutes.
    """

    name: str
    make: Callable[..., Step]
    args: tuple[Any, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cold: bool = False


@dataclass
class Outcome:
    """Seconds of every call by round, growth of the process in one call [bytes], or why not."""

    name: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of one call; None where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else None

    def ratio(self, reference: "Outcome") -> float | None:
        """How many times as long as `reference`: the median of the ratios round by round."""
        if not self.seconds or not reference.seconds:
            return None
        if len(self.seconds) != len(reference.seconds):  # a cold side: one call
            return statistics.median(self.seconds) / statistics.median(reference.seconds)
        pairs = zip(self.seconds, reference.seconds, strict=True)
        return statistics.median(own / other for own, other in pairs)


def compare(sides: Sequence[Side], *, rounds: int, threads: int) -> list[Outcome]:
    """Return one outcome per side; a side that cannot run has a note instead of figures."""
    workers = [_Worker(side, threads) for side in sides]
    try:
        for worker in workers:  # one after another: building must not disturb building
            worker.ask("build")
        for _ in range(rounds):
            for worker in workers:
                if not worker.side.cold and not worker.outcome.note:
                    time.sleep(PAUSE_S)
                    worker.ask("time")
        for worker in workers:
            worker.ask("memory")
    finally:
        for worker in workers:
            worker.end()
    return [worker.outcome for worker in workers]


class _Worker:
    """The parent's end of one side."""

    def __init__(self, side: Side, threads: int) -> None:
        self.side, self.outcome = side, Outcome(side.name)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, side, threads), daemon=True)
        before = dict(os.environ)
        try:
            # as our commands set it: a side that waits must not spin on the core of another
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            os.environ.update(side.env)  # a child inherits what is set at its start
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def ask(self, what: str) -> None:
        """Let the side do one thing and note what came of it."""
        if self.outcome.note:
            return
        try:
            self.pipe.send(what)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            answer = {"note": f"its process died (exit code {self.process.exitcode})"}
        self.outcome.seconds += answer.pop("seconds", [])
        for name, value in answer.items():
            setattr(self.outcome, name, value)

    def end(self) -> None:
        """Stop the side's process."""
        self.pipe.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: Connection, side: Side, threads: int) -> None:
    """The side's process: answers until the parent hangs up."""
    import torch

    torch.set_num_threads(threads)
    runner = _Runner(side)
    try:
        while True:
            what = pipe.recv()
            try:
                answer = getattr(runner, what)()
            except Exception as error:  # a peer fails as it likes; the table says so
                answer = {"note": _one_line(error)}
            pipe.send(answer)
    except (EOFError, KeyboardInterrupt):
        pass


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}"


class _Runner:
    """A built side: times its step and watches its memory."""

    def __init__(self, side: Side) -> None:
        self.side, self.calls = side, 1

    def build(self) -> dict[str, Any]:
        """Build and warm up; a cold side is measured here."""
        self.step = self.side.make(*self.side.args)
        if self.side.cold:
            return self._cold()
        self.step()
        seconds, _ = self._run(1)
        self.calls = max(1, round(SAMPLE_S / seconds))
        return {}

    def time(self) -> dict[str, Any]:
        """One sample."""
        seconds, figures = self._run(self.calls)
        return {"seconds": [seconds], "figures": figures}

    def memory(self) -> dict[str, Any]:
        """One call more, for its peak."""
        if self.side.cold:
            return {}
        before = _reset_peak()
        self.step()
        return {"peak_bytes": _growth(before)}

    def _cold(self) -> dict[str, Any]:
        before = _reset_peak()
        seconds, figures = self._run(1)
        return {"seconds": [seconds], "figures": figures, "peak_bytes": _growth(before)}

    def _run(self, calls: int) -> tuple[float, dict[str, float]]:
        figures: Mapping[str, float] | None = None
        begun = time.perf_counter()
        for _ in range(calls):
            figures = self.step()
        return (time.perf_counter() - begun) / calls, dict(figures or {})


def _reset_peak() -> int | None:
    """Give free memory back, start a new peak and return the bytes held now [Linux]."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _growth(before: int | None) -> int | None:
    return None if before is None else _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


# ------------------------------------------------------------------ command line and tables


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return the options every benchmark has: --rounds, --threads, --json."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"samples (default: {rounds})")
    made.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    made.add_argument("--json", action="store_true", help="for machines")
    return made


@dataclass
class Table:
    """One comparison: `outcomes[0]` is the side that the others are divided by."""

    title: str
    outcomes: list[Outcome]
    limits: dict[str, float] = field(default_factory=dict)  # the least ratio to reach, by side


def show(tables: Sequence[Table], options: argparse.Namespace) -> None:
    """Print all tables with where they come from, as Markdown or as JSON."""
    source = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit().sha,
        "dirty": commit().dirty,
        "hardware": hardware(),
        "threads": options.threads,
    }
    if options.json:
        plain = [asdict(table) | {"summary": _summary(table)} for table in tables]
        print(json.dumps({**source, "tables": plain}, indent=1))
        return
    changed = " (changed)" if commit().dirty else ""
    print(f"Command: `{source['command']}`, commit {source['commit'][:10]}{changed},")
    print(f"{hardware()}, {options.threads} threads, medians.")
    for table in tables:
        print(f"\n{table.title}\n\n{markdown(table)}")


def markdown(table: Table) -> str:
    """Return the table: milliseconds, ratio and limit, peak extra memory, figures, notes."""
    figures = sorted({name for outcome in table.outcomes for name in outcome.figures})
    head = ["", "ms", "ratio", "to reach", "peak extra MB", *figures, "note"]
    lines = [" | ".join(head), " | ".join(["---", *["---:"] * (len(head) - 2), "---"])]
    for row, outcome in zip(_summary(table), table.outcomes, strict=True):
        numbers = [row["ms"], row["ratio"], row["to_reach"], row["peak_extra_mb"]]
        numbers += [outcome.figures.get(name) for name in figures]
        lines.append(" | ".join([outcome.name, *map(_cell, numbers), outcome.note]))
    return "\n".join(f"| {line} |" for line in lines)


def _summary(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "name": outcome.name,
            "ms": None if outcome.median is None else outcome.median * 1e3,
            "ratio": outcome.ratio(table.outcomes[0]),
            "to_reach": table.limits.get(outcome.name),
            "peak_extra_mb": None if outcome.peak_bytes is None else outcome.peak_bytes / 1e6,
        }
        for outcome in table.outcomes
    ]


def _cell(value: float | None) -> str:
    """Three digits, or nothing where nothing was measured."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
