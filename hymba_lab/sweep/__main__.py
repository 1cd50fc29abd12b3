"""`python -m hymba_lab.sweep sweeps/meta_tokens.yaml`: train what is missing, print the table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli


def arguments() -> argparse.ArgumentParser:
    """Return the command line; importing what runs a sweep waits until it is asked for."""
    parser = cli.parser("sweep", "Answer one question with one table; run again to continue.")
    parser.add_argument(
        "--scale", metavar="NAME", help="one of scales/ beside the sweep, e.g. nano, 125m"
    )
    parser.add_argument(
        "--plan", action="store_true", help="show cells, costs and time; train nothing"
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="with --plan: measure a few steps of every cell"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="trials at a time (default: one per core)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="torch threads per worker (default: 1)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="also write the table's files here, e.g. results/"
    )
    parser.add_argument(
        "--until-decided", type=int, nargs="?", const=12, metavar="N",
        help="add seeds to undecided rows and the baseline, N a row at most (12 where not given)",
    )  # fmt: skip
    parser.add_argument(
        "--launcher", metavar="NAME", help="where trials run: local (default), slurm, ray"
    )
    parser.add_argument(
        "--resources", type=Path, metavar="FILE.yaml",
        help="what a trial asks of the cluster: GPUs, cores, memory, minutes, partition ...",
    )  # fmt: skip
    parser.add_argument(
        "--study-uri", metavar="URI", help="database of Optuna's study (default: a file)"
    )
    parser.add_argument(
        "--detach", action="store_true", help="run apart from this terminal: see status and stop"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try failed cells again, also after a nan"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 when a row has no result."""
    parser = arguments()
    options = parser.parse_args(argv)
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if options.until_decided is not None:
        options.overrides.append(f"until_decided={options.until_decided}")
    if options.plan:
        from hymba_lab.sweep.estimate import print_plan

        return print_plan(options)
    from hymba_lab.sweep.run import run_sweep

    return run_sweep(options)


if __name__ == "__main__":
    cli.run(main)
