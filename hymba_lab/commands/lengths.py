"""`hymba-lab lengths`: cache against the length of the sequence (figure 2 of the paper).

`hymba-lab lengths NAME=FILE.yaml ... --peers PEERS.csv --out FOLDER` writes exact bytes, by the
paper's accounting, and their figure; nothing is trained, measured or held.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

FIGURE = "cache_against_length"


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab lengths",
        description="Cache against the length of the sequence, by the paper's accounting.",
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="NAME=FILE.yaml", help="experiments with SSM heads")
    add("--peers", type=Path, required=True, metavar="PEERS.csv",
        help="shapes beside, e.g. analysis/paper/peers.csv")  # fmt: skip
    flags.add(parser, "out", default=Path("results"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write cache_against_length.csv and its figure (SVG, PNG, PDF); returns 0."""
    options = arguments().parse_args(argv)
    from hymba_lab.atomic import make_folder, write_atomically
    from hymba_lab.config import load_config
    from hymba_lab.cost.lengths import cache_by_length
    from hymba_lab.cost.peers import read_peers
    from hymba_lab.figures import cache_against_length, save

    hybrids = {name: load_config(file).model for name, file in map(_named, options.models)}
    frame = cache_by_length(hybrids, read_peers(options.peers))
    make_folder(options.out, "--out")
    text = frame.to_csv(index=False, lineterminator="\n")
    write_atomically(options.out / f"{FIGURE}.csv", text)
    save(cache_against_length(frame), options.out, FIGURE)
    return 0


def _named(given: str) -> tuple[str, str]:
    name, equals, file = given.partition("=")
    if not name or not equals or not file:
        raise UserError(f"{given!r}: write NAME=FILE.yaml, the name as the figure shows it.")
    return name, file


if __name__ == "__main__":
    cli.run(main)
