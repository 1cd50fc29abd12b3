"""`hymba-lab stop SWEEP`: end a sweep's coordinators and their trials; nothing is lost."""

import argparse
import time
from collections.abc import Sequence

from hymba_lab import cli, flags
from hymba_lab.commands.status import sweep_folder


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
    """Ask every coordinator to stop and wait for it; 1 when one is still there afterwards."""
    options = arguments().parse_args(argv)
    from hymba_lab.sweep.detach import queued
    from hymba_lab.sweep.launchers import slurm_queue
    from hymba_lab.sweep.observers.state import ask_to_stop, coordinators

    folder = sweep_folder(options.root, options.sweep)
    waiting = queued(folder)
    if waiting is not None:
        slurm_queue.cancel([waiting])
        print(f"{folder.name}: Slurm job {waiting}, its coordinator that waited, is cancelled.")
    if not coordinators(folder):
        if waiting is not None:
            return 0
        print(f"{folder.name}: no coordinator is running.")
        return 0
    ask_to_stop(folder)
    end = time.monotonic() + options.wait
    while (left := coordinators(folder)) and time.monotonic() < end:
        time.sleep(0.3)
    for one in left:
        holder = one["holder"]
        print(f"{folder.name}: process {holder['pid']} on {holder['host']} is still stopping.")
    if not left:
        print(f"{folder.name}: stopped; the same sweep command goes on from here.")
    return 1 if left else 0


if __name__ == "__main__":
    cli.run(main)
