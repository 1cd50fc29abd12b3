"""What the laboratory adds to training: start of the commands, time outside the loop of a trial.

    python benchmarks/overhead.py [--json]

Each command is timed as a user runs it, five times, in an empty folder; a small sweep then gives
the time per trial that was not spent in the training loop, and the time of the same sweep again,
when nothing is left to train. Medians; machines are noisy.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hymba_lab.runs.provenance import commit, hardware

REPOSITORY = Path(__file__).parents[1]
SWEEP = REPOSITORY / "sweeps" / "meta_tokens.yaml"
LARGE = [str(REPOSITORY / "sweeps" / "roadmap.yaml"), "--scale", "125m", "--plan"]
SMALL = [
    f"--set={text}"
    for text in (
        "scale=overhead",
        "model.d_model=32",
        "training.tokens=12000",
        "training.seq_len=32",
        "training.val_every=50",
        "data={recall: {name: mqar, rows: 8, vocab: 32, n_pairs: [1, 2], n_val: 32}}",
        "also=[]",
        "seeds=[0, 1, 2]",
    )
]
LIMITS = {
    "--help": 0.5,
    "--plan": 4.0,
    "--plan of roadmap at 125m": 6.0,
    "outside the loop, per trial": 1.0,
    "again, all finished": 8.0,
}


def main() -> None:
    """Measure and print the figures with their limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    if options.json:
        print(json.dumps({"seconds": figures, "commit": commit().sha, "hardware": hardware()}))
        return
    print(f"commit {commit().sha[:10]}{' (changed)' if commit().dirty else ''}, {hardware()}\n")
    print(f"{'':28} {'median [s]':>10} {'limit [s]':>10}")
    for name, seconds in figures.items():
        print(f"{name:28} {seconds:10.2f} {LIMITS[name]:10.1f}")


def measure(folder: Path) -> dict[str, float]:
    """Return the median seconds by name."""
    figures = {
        "--help": median_time(folder, "--help"),
        "--plan": median_time(folder, str(SWEEP), "--plan"),
        "--plan of roadmap at 125m": median_time(folder, *LARGE),
    }
    command(folder, str(SWEEP), *SMALL)
    records = [json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")]
    figures["outside the loop, per trial"] = statistics.median(
        record["seconds_outside"] for record in records if record["seconds_outside"] is not None
    )
    figures["again, all finished"] = median_time(folder, str(SWEEP), *SMALL)
    return figures


def median_time(folder: Path, *arguments: str, repeats: int = 5) -> float:
    """Return the median wall-clock time of the command [s]."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        command(folder, *arguments)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def command(folder: Path, *arguments: str) -> None:
    """Run `python -m hymba_lab.sweep` in a folder of its own."""
    subprocess.run(
        [sys.executable, "-m", "hymba_lab.sweep", *arguments],
        cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    main()
