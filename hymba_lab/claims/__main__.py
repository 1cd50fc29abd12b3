"""`python -m hymba_lab.claims [--scale nano]`: what became of the papers' claims."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab claims",
        description="Judge papers' claims by the exported runs; needs no torch.",
    )
    add = parser.add_argument
    add(
        "--claims", type=Path, metavar="PATH",
        help="a file of claims, or a folder of them (default: analysis/claims here, else the "
        "shipped one)",
    )  # fmt: skip
    add(
        "--results", type=Path, default=Path("results"), metavar="DIR",
        help="where the exports stand and the page is written (default: results)",
    )  # fmt: skip
    add("--scale", default="nano", metavar="NAME", help="e.g. nano, 125m (default: nano)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write DIR/claims-<scale>.md and .csv and return 0."""
    options = arguments().parse_args(argv)
    from hymba_lab.claims.write import write_claims
    from hymba_lab.config.shipped import own_or_shipped

    claims = options.claims or own_or_shipped("claims", "analysis")
    for path in write_claims(claims, options.results, options.scale):
        print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
