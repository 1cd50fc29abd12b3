"""The selective scan against other ways to compute it on a CPU, and against the machine's limit.

    python benchmarks/scan.py [--shape 4,512,512,16] [--rounds 5] [--threads 2] [--slow] [--json]

The peers come with `pip install "hymba-lab[bench]"`. The limit does the scan's exp and
multiply-adds in registers and moves no data. `--slow` adds what takes a minute to start or to run:
`associative_scan`, compiled, and one cold step of transformers' Mamba without its kernels.
"""

import argparse

import scan_sides
from pairs import Outcome, Side, Table, compare, parser, show

SHAPES = ["4,512,512,16", "4,1536,1024,16"]
LIMITS = {"mambapy's parallel scan": 60.0, "loop over unbind": 40.0, "limit": 0.5}
FALLBACK = "ours, plain torch"


def main() -> None:
    """Print a table for each shape and direction, and one for the fallback."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--shape", action="append", metavar="B,D,T,N", help=f"default: {SHAPES}")
    made.add_argument("--slow", action="store_true", help="the sides that take minutes, too")
    options = made.parse_args()
    tables = []
    for text in options.shape or SHAPES:
        shape = tuple(map(int, text.split(",")))
        for backward in (False, True):
            title = f"({text}), {'forward + backward' if backward else 'forward'}"
            outcomes = compare(
                sides(shape, backward, options), rounds=options.rounds, threads=options.threads
            )
            tables.append(Table(f"Scan {title}", outcomes, LIMITS if backward else {}))
            tables.append(fallback(title, outcomes))
    show(tables, options)


def sides(shape: tuple[int, ...], backward: bool, options: argparse.Namespace) -> list[Side]:
    """Return ours first, the limit second, then the other builds and the peers."""
    every = [
        Side("ours, C++", scan_sides.ours, (shape, backward)),
        Side("limit", scan_sides.limit, (shape, backward)),
        Side("ours, C++ for AVX2", scan_sides.ours, (shape, backward, "v3")),
        Side("ours, C++ without flags", scan_sides.ours, (shape, backward, "plain")),
        Side(FALLBACK, scan_sides.ours, (shape, backward), {"HYMBA_LAB_SCAN": "torch"}),
        Side("mambapy's parallel scan", scan_sides.mambapy, (shape, backward)),
        Side("loop over unbind", scan_sides.unbind, (shape, backward)),
    ]
    if not options.slow:
        return every
    cold = "transformers' Mamba, one cold step"
    return [
        *every,
        Side("associative_scan, compiled", scan_sides.associative, (shape, backward)),
        Side(cold, scan_sides.transformers, (shape, backward), cold=True),
    ]


def fallback(title: str, outcomes: list[Outcome]) -> Table:
    """Return what an install without a compiler gets, against the same peer."""
    chosen = [o for o in outcomes if o.name in (FALLBACK, "mambapy's parallel scan")]
    limits = {"mambapy's parallel scan": 4.0} if "backward" in title else {}
    return Table(f"Without a compiler {title}", chosen, limits)


if __name__ == "__main__":
    main()
