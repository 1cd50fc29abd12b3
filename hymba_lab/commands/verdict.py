"""`python -m hymba_lab.verdict results.csv --row arch --seed seed --metric val_loss ...`.

The lab's verdicts for anybody's table of runs: a CSV file by hand, of MLflow or of W&B.
"""

import argparse
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymba_lab import cli, flags

if TYPE_CHECKING:
    import pandas as pd

    from hymba_lab.tables.verdict import RowVerdict, Verdicts


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab verdict",
        description="Judge the rows of a table of runs against a baseline; a line is a run.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.csv")
    add("--row", required=True, metavar="COLUMN", help="which variant a run is of")
    add("--metric", required=True, metavar="COLUMN", help="what is compared")
    add("--baseline", required=True, metavar="NAME", help="the row that others are held against")
    add("--goal", choices=("maximize", "minimize"), default="minimize", help="default: minimize")
    add("--seed", metavar="COLUMN", help="which repetition (default: runs of a row are numbered)")
    add(
        "--solved", metavar="COLUMN",
        help="1 or 0: the metric is a time, and the run solved its task then, or ended without",
    )  # fmt: skip
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
        help="the least and the largest value of the metric, e.g. 0 1",
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
    from hymba_lab.stats import NOWHERE
    from hymba_lab.tables.verdict import verdict

    found = verdict(
        read(options.file),
        row=options.row, seed=options.seed, metric=options.metric, goal=options.goal,
        baseline=options.baseline, solved=options.solved, floor=options.floor,
        solved_at=options.solved_at, same=options.same, alpha=options.alpha,
        margin=options.margin, params=options.params, unit=options.unit,
        limits=tuple(options.limits) if options.limits else NOWHERE,
    )  # fmt: skip
    print(as_json(found.rows) if options.json else as_text(found))
    return 0


def read(path: Path) -> "pd.DataFrame":
    """Return a CSV file as a frame; a `StoreError` says why it cannot be read."""
    import pandas as pd

    from hymba_lab.atomic import text_of
    from hymba_lab.errors import StoreError

    try:
        text = text_of(path, 1 << 32).removeprefix("\ufeff")
        twice = [
            name for name, n in Counter(next(csv.reader(io.StringIO(text)), [])).items() if n > 1
        ]
        _refuse_longer_lines(text)  # pandas would take their first field for a name of the line
        frame = pd.read_csv(io.StringIO(text))
    except (OSError, ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        reason = getattr(error, "strerror", None) or str(error).strip()
        raise StoreError(f"{path}: cannot be read as CSV with a header: {reason}.") from None
    if twice:
        raise StoreError(f"{path}: the header names {twice[0]!r} twice; rename one.")
    return frame


def _refuse_longer_lines(text: str) -> None:
    lines = csv.reader(io.StringIO(text))
    n_columns = len(next(lines, []))
    for line in lines:
        if len(line) > n_columns:
            raise ValueError(
                f"line {lines.line_num} has {len(line)} fields, the header {n_columns}; name "
                "every column, or take the comma at the end away"
            )


def as_json(rows: Sequence["RowVerdict"]) -> str:
    """Return the list; what is not known, and an open end, is null."""
    numbers = ("effect", "low", "high", "p")
    lines = [
        {
            "row": one.row,
            "n": one.n,
            **{name: _finite(getattr(one, name)) for name in numbers},
            "verdict": one.verdict,
        }
        for one in rows
    ]
    return json.dumps(lines, indent=1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_text(found: "Verdicts") -> str:
    """Return a line per row, then what must be known beside them."""
    from hymba_lab.tables.numbers import estimate, number

    lines = []
    for one in found.rows:
        effect = "" if math.isnan(one.effect) else estimate(one.effect, one.low, one.high)
        p = "" if math.isnan(one.p) else f"p = {one.p:.2g}"
        told = f"{one.row} ({one.n} runs)"
        lines.append(f"{told:24} {one.says}")
        if effect:
            lines.append(f"{'':24} {effect} {p}".rstrip())
    notes = [f"- {note}" for note in found.notes]
    if not math.isnan(found.wrong_winner):
        notes.append(
            "- One run per row, drawn at random, would have crowned another row than all runs do "
            f"{number(100 * found.wrong_winner, 0)} times in a hundred."
        )
    return "\n".join([*lines, *notes])


if __name__ == "__main__":
    cli.run(main)
