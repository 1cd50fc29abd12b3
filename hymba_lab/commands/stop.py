"""`hymba-lab stop SWEEP`: end a sweep's coordinators and their trials; nothing is lost."""

import argparse
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hymba_lab import cli, flags
from hymba_lab.commands.status import sweep_folder
from hymba_lab.errors import LaunchError


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab stop", description="Stop a sweep; the same sweep command goes on later."
    )
    parser.add_argument("sweep", metavar="SWEEP", help="its file, or its name in runs/sweeps/")
    flags.add(parser, "root")
    parser.add_argument(
        "--wait",
        type=flags.number,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for its end (default: 60)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Ask every coordinator to stop and wait for it; 1 when one is still there afterwards.

    Then the jobs end that coordinators have left which are gone. Raises `LaunchError` where Slurm
    does not say what it runs, after whatever could be done without it.
    """
    options = arguments().parse_args(argv)
    from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy
    from hymba_lab.sweep.observers.state import ask_to_stop

    folder, end = sweep_folder(options.root, options.sweep), time.monotonic() + options.wait
    job, away = None, None
    try:
        job = _withdrawn(folder, end)
    except (SlurmBusy, LaunchError) as error:
        away = error
    found = _at_work(folder, job)
    if found:
        ask_to_stop(folder)
    while (left := _at_work(folder, job)) and time.monotonic() < end:
        time.sleep(0.3)
    for one in left:
        holder = one["holder"]
        print(f"{folder.name}: process {holder['pid']} on {holder['host']} is still stopping.")
    if found and not left:
        print(f"{folder.name}: stopped; the same sweep command goes on from here.")
    elif not found and job is None:
        print(f"{folder.name}: no coordinator is running.")
    try:
        _end_jobs(options.root, folder, {one["file"] for one in left})
    except (SlurmBusy, LaunchError) as error:
        away = error
    if away is not None:
        raise LaunchError(
            f"{folder.name}: what Slurm runs of it is not known, and goes on ({away}); run this "
            "command again where Slurm answers."
        )
    return 1 if left else 0


def _withdrawn(folder: Path, end: float) -> str | None:
    """Cancel the coordinator's job where it waits or has just begun; return it."""
    from hymba_lab.sweep.detach import withdraw

    job = withdraw(folder, end)
    if job is not None:
        print(f"{folder.name}: Slurm job {job}, its coordinator, is cancelled.")
    return job


def _at_work(folder: Path, withdrawn: str | None) -> list[dict[str, Any]]:
    """Return the coordinators that live; what a job that was cancelled wrote last is no life."""
    from hymba_lab.sweep.observers.state import coordinators

    gone = f"Slurm job {withdrawn}"
    return [one for one in coordinators(folder) if one["holder"].get("job") != gone]


def _end_jobs(root: Path, folder: Path, alive: Collection[str]) -> None:
    """End the jobs whose coordinator is not `alive`, and a coordinator that begins just now."""
    from hymba_lab.sweep.detach import withdraw
    from hymba_lab.sweep.launchers.slurm_leaving import end_jobs, left_behind

    withdraw(folder, time.monotonic())
    if n := end_jobs(left_behind(root, folder, alive)):
        said = "1 job of its trials is" if n == 1 else f"{n} jobs of its trials are"
        print(f"{folder.name}: {said} ended; they had lost their coordinator.")


if __name__ == "__main__":
    cli.run(main)
