"""What a cluster itself takes for trials of 0.1 s: as many jobs or tasks, none of them a sweep's.

    python benchmarks/bare_trials.py slurm [--trials 500] [--cpus 1] [--memory-mb 300]
    python benchmarks/bare_trials.py ray --address HOST:PORT [--trials 500]

Twice: `sleep` alone, which starts no Python of ours, and with the modules that a worker of
`sizes.py trials` imports. What `sizes.py` measures beyond the second is the sweep's own.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import fake_trial

from hymba_lab.runs.provenance import commit, hardware

HERE = Path(__file__).parent
IMPORTS = "import hymba_lab.sweep.launchers.worker, fake_trial"


def main() -> None:
    """Run both kinds and print the wall time a trial beside its 0.1 s."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cluster", choices=["slurm", "ray"])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory-mb", type=int, default=300)
    parser.add_argument("--address", default="auto")
    asked = parser.parse_args()
    print(f"commit {commit().sha[:10]}{' (changed)' if commit().dirty else ''}, {hardware()}")
    for name, imports in (("nothing but 0.1 s", False), ("with a worker's imports", True)):
        begun = time.perf_counter()
        slurm(asked, imports) if asked.cluster == "slurm" else ray(asked, imports)
        each = (time.perf_counter() - begun) / asked.trials - fake_trial.SECONDS
        print(f"  {name:32} wall a trial beside its 0.1 s [s] {each:8.3f}", flush=True)


def slurm(asked: argparse.Namespace, imports: bool) -> None:
    """Submit the jobs one after the other and wait until the queue has none of them."""
    sleep = f"sleep {fake_trial.SECONDS}"
    python = f"{sys.executable} -c 'import time; {IMPORTS}; time.sleep({fake_trial.SECONDS})'"
    command = [
        "sbatch", "--parsable", "--job-name=bare", "--output=/dev/null",
        f"--cpus-per-task={asked.cpus}", f"--mem={asked.memory_mb}M",
        f"--wrap={python if imports else sleep}",
    ]  # fmt: skip
    for _ in range(asked.trials):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE)
    listed = ["squeue", "--me", "--noheader", "--name=bare", "--format=%A"]
    while subprocess.run(listed, check=True, capture_output=True, text=True).stdout.strip():
        time.sleep(0.5)


def ray(asked: argparse.Namespace, imports: bool) -> None:
    """Ask for the tasks at once, each in a process of its own, and wait for them."""
    import ray

    def bare() -> None:
        if imports:
            exec(IMPORTS)
        time.sleep(fake_trial.SECONDS)

    if not ray.is_initialized():
        ray.init(address=asked.address, log_to_driver=False, configure_logging=False)
    task = ray.remote(num_cpus=asked.cpus, max_calls=1, max_retries=0)(bare)
    ray.get([task.remote() for _ in range(asked.trials)])


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(  # of workers on a cluster
        [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    main()
