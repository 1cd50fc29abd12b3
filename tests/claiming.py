"""A folder with claims, a table of the paper, a scale and exports: for the tests of claims."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab.claims.__main__ import main
from hymba_lab.claims.file import Claims, load_claims

CURVES = "row,seed,step,tokens,metric,value\n"
HEAD = "title: A paper\npaper: paper\nsweeps: sweeps\n"
REMOVAL = """\
  removal:
    claim: The first SSM branch is critical.
    source: figure 3
    sweep: heads
    row: hybrid
    probe: removal
    value: change
    where: {branch: ssm, layer: 0}
    against_where: {branch: ssm, layer: {not: 0}}
    reproduced_if: {below: 0}
"""

HYBRID = """\
  hybrid:
    claim: A hybrid recalls more.
    source: table 1
    sweep: heads
    row: hybrid
    against: mamba
    reproduced_if: {above: 0}
    paper: {table: one, cell: [a, recall], minus: [b, recall]}
"""


class Desk:
    """A folder with claims, a table of the paper, a scale and exports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("paper/one.csv", "row,recall,cache\na,50.25,40.0\nb,40.0,\n")
        self.write("sweeps/scales/nano.yaml", "words: {window: 9}\n")
        self.claim(HYBRID)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def claim(self, *claims: str) -> None:
        self.write("claims.yaml", HEAD + "claims:\n" + "".join(claims))

    def export(
        self,
        rows: dict[str, Sequence[float]],
        name: str = "heads",
        until_decided: int | None = None,
        sweep: Mapping[str, Any] = {},
        base: Mapping[str, Any] = {},
        curves: str = "",
        **columns: Mapping[str, Any],
    ) -> None:
        """Write an export; NaN is a run that failed.

        A column is given by row, the same for all of its runs or a list, one for each.
        """
        runs = [
            {
                "row": row, "axis": row, "seed": seed,
                "status": "failed" if math.isnan(value) else "finished", "reason": "",
                "val/recall_accuracy": value, "identity": f"{row}-{seed}".ljust(40, "0"),
                "data_fingerprint": "f", "tokens": 10, "code_version": 1, "scale": "nano",
                "commit": "c", "dirty": False,
                **{column: _of(by_row[row], seed) for column, by_row in columns.items()},
            }
            for row, values in rows.items()
            for seed, value in enumerate(values)
        ]  # fmt: skip
        asked = {
            "question": "?", "base": "x.yaml", "seeds": [0, 1, 2],
            "until_decided": until_decided,
            "metric": {"name": "val/recall_accuracy", "goal": "maximize"},
            "axes": {"axis": {row: {"model.x": row} for row in rows}},
            **sweep,
        }  # fmt: skip
        facts = {
            "format": 1, "command": "c", "baseline": next(iter(rows)), "hardware": ["h"],
            "hours": {}, "notes": [],
        }  # fmt: skip
        folder = f"results/{name}-nano"
        self.write(f"{folder}/runs.csv", pd.DataFrame(runs).to_csv(index=False))
        self.write(f"{folder}/curves.csv", CURVES + curves)
        resolved = {"sweep": asked, "base": {"scale": "nano", **base}}
        self.write(f"{folder}/sweep.resolved.json", json.dumps(resolved))
        self.write(f"{folder}/export.json", json.dumps(facts))

    def run(self, scale: str = "nano", claims: str = "claims.yaml") -> list[dict[str, str]]:
        (self.folder / "results").mkdir(exist_ok=True)
        results = ["--results", str(self.folder / "results"), "--scale", scale]
        assert main(["--claims", str(self.folder / claims), *results]) == 0
        return list(csv.DictReader(io.StringIO(self.text("csv", scale))))

    def text(self, kind: str, scale: str = "nano") -> str:
        return (self.folder / "results" / f"claims-{scale}.{kind}").read_text()

    def load(self) -> Claims:
        return load_claims(self.folder / "claims.yaml")


def _of(given: Any, seed: int) -> Any:
    return given[seed] if isinstance(given, list) else given
