"""`python -m hymba_lab.train experiments/nano.yaml`: train one model, log it to MLflow."""

import argparse
import os
from collections.abc import Sequence

from hymba_lab import cli


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.parser("train", "Train one experiment; run again to continue.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--threads", type=int, metavar="N", help="torch threads (default: torch's)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print the metrics; returns 0."""
    options = arguments().parse_args(argv)
    # read when torch is imported: waiting threads leave shared cores to others
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from hymba_lab.training.single import train_one

    return train_one(options)


if __name__ == "__main__":
    cli.run(main)
