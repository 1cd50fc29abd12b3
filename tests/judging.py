"""Verdicts of small tables written by row: for the tests of verdicts."""

import pandas as pd

from hymba_lab.tables.verdict import Verdicts, verdict


def judged(rows: dict[str, list[float]], goal: str = "maximize", **options: object) -> Verdicts:
    lines = [
        {"arch": label, "seed": seed, "y": value}
        for label, values in rows.items()
        for seed, value in enumerate(values)
    ]
    return verdict(
        pd.DataFrame(lines), row="arch", seed="seed", metric="y", goal=goal,  # type: ignore[arg-type]
        baseline="base", **options,  # type: ignore[arg-type]
    )  # fmt: skip
