"""`python -m hymba_lab.report [SWEEP ...]`: tables, figures and pages from the committed export."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli, flags


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab report",
        description="Make tables, figures and pages again from exported runs; needs no torch.",
    )
    add = parser.add_argument
    add("sweeps", nargs="*", metavar="SWEEP", help="fusion, fusion-nano or a path; default: all")
    add(
        "--results", type=Path, default=Path("results"), metavar="DIR",
        help="where the exports stand and the report is written (default: results)",
    )  # fmt: skip
    flags.add(
        parser, "tracking-uri", default=None,
        help="export the sweeps from this MLflow store first, e.g. sqlite:///mlflow.db",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and return 0."""
    options = arguments().parse_args(argv)
    from hymba_lab.report.all import report

    for page in report(options.sweeps, results=options.results, tracking_uri=options.tracking_uri):
        print(page, flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    cli.run(main)
