"""Trials per hour of a sweep: a worker on each core against a single worker.

    python benchmarks/sweep.py [--workers 2] [--rounds 2] [--json]

The demonstration sweep at 30 steps a trial, four rows and two seeds, run in a new folder each time,
with one torch thread per worker. Counted from the start of the first trial to the last result, so
without the start of the command, which a long sweep pays once. Milliseconds are those of a trial.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pairs import Outcome, Table, parser, show

REPOSITORY = Path(__file__).parents[1]
SMALL = ("scale=benchmark", "seeds=[0, 1]", "training.tokens=138240", "training.val_every=10")


def main() -> None:
    """Measure one and several workers in turns and print the table."""
    options = parser(__doc__, rounds=2)
    options.set_defaults(threads=1)
    options.add_argument("--workers", type=int, default=2, metavar="N", help="default: 2")
    chosen = options.parse_args()
    several, one = (Outcome(f"{n} worker{'s' * (n > 1)}") for n in (chosen.workers, 1))
    for _ in range(chosen.rounds):
        for outcome, n_workers in ((several, chosen.workers), (one, 1)):
            outcome.seconds.append(seconds_per_trial(n_workers, chosen.threads))
    for outcome in (several, one):
        assert outcome.median is not None
        outcome.figures["trials/hour"] = 3600 / outcome.median
    show(
        [Table("Eight trials of the demonstration sweep", [several, one], {one.name: 1.8})], chosen
    )


def seconds_per_trial(n_workers: int, n_threads: int) -> float:
    """Run the sweep in a folder of its own and return its time through its number of trials."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "hymba_lab.sweep", str(REPOSITORY / "sweeps" / "demo.yaml"),
            "--workers", str(n_workers), "--threads", str(n_threads),
            *(f"--set={text}" for text in SMALL),
        ]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        spans = [span(path) for path in Path(folder).glob("runs/*/result.json")]
    return (max(end for _, end in spans) - min(begin for begin, _ in spans)) / len(spans)


def span(result: Path) -> tuple[float, float]:
    """Return when a trial began and ended [s]: its file's time, and the durations in it."""
    record = json.loads(result.read_text())
    end = result.stat().st_mtime
    return end - record["seconds"] - record["seconds_outside"], end


if __name__ == "__main__":
    main()
