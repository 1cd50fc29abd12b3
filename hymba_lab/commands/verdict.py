"""`hymba-lab verdict results.csv --row arch --seed seed --metric val_loss ...`.

The lab's verdicts for anybody's table of runs: a CSV file by hand, of MLflow or of W&B.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.stats import Goal


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab verdict",
        description="Judge the rows of a table of runs against a baseline; a line is a run.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.csv", help="a run a line, below the columns' names")
    add("--row", required=True, metavar="COLUMN", help="which variant a run is of")
    add("--metric", required=True, metavar="COLUMN", help="what is compared")
    add("--baseline", required=True, metavar="NAME", help="the row that others are held against")
    add("--goal", choices=("maximize", "minimize"), help="default: minimize")
    add("--seed", metavar="COLUMN", help="which repetition (default: each has a seed of its own)")
    add(
        "--solved", metavar="COLUMN",
        help="1 or 0: the metric is a time, and the run solved its task then, or ended without",
    )  # fmt: skip
    add("--censored", metavar="COLUMN", help="the same, with 1 for a run that ended without")
    add(
        "--floor",
        type=flags.number,
        metavar="X",
        help="what a guess reaches: below it is not learned",
    )
    add(
        "--solved-at", type=flags.number, metavar="X", help="level at which a task counts as solved"
    )
    add(
        "--same", action="append", default=[], metavar="COLUMN",
        help="all runs must agree in it, e.g. tokens; may be repeated",
    )  # fmt: skip
    add("--alpha", type=flags.number, default=0.05, metavar="P", help="default: 0.05")
    add(
        "--margin",
        type=flags.number,
        metavar="X",
        help="show equivalence within X (a factor of times)",
    )
    add(
        "--limits", type=flags.number, nargs=2, metavar=("LOW", "HIGH"),
        help="the least and the largest value of the metric, e.g. 0 1 (default: by its name)",
    )  # fmt: skip
    add(
        "--params", type=flags.number, default=math.nan, metavar="N",
        help="parameters of the models, e.g. 124e6: where every row has too few seeds, the noise "
        "of public runs of this size is told",
    )  # fmt: skip
    add(
        "--unit", choices=("nats", "bits_per_byte"),
        help="of the metric, for --params (default: by its name)",
    )  # fmt: skip
    flags.add(parser, "json", help="a list of {row, n, effect, low, high, p, verdict}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the verdicts and return 0."""
    options = arguments().parse_args(argv)
    goal = options.goal or _goal(options.metric)
    from hymba_lab.tables.given_csv import read_given
    from hymba_lab.tables.verdict import verdict
    from hymba_lab.tables.verdict_text import as_json, as_text

    found = verdict(
        read_given(options.file),
        row=options.row, seed=options.seed, metric=options.metric, goal=goal,
        baseline=options.baseline, solved=options.solved, censored=options.censored,
        floor=options.floor, solved_at=options.solved_at, same=options.same, alpha=options.alpha,
        margin=options.margin, params=options.params, unit=options.unit,
        limits=tuple(options.limits) if options.limits else None,
    )  # fmt: skip
    print(as_json(found.rows, found.timed) if options.json else as_text(found))
    return 0


def _goal(metric: str) -> "Goal":
    """Return what is meant where nothing is said, but never against the metric's own name."""
    from hymba_lab.tables.goals import goal_of

    if goal_of(metric) == "maximize":
        raise UserError(
            f"--goal: minimize is the default, and {metric!r} sounds as if more of it were better; "
            "give --goal maximize, or --goal minimize if less is meant."
        )
    return "minimize"


if __name__ == "__main__":
    cli.run(main)
