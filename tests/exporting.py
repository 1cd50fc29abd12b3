"""A small export for the tests of reports and notebooks: two rows, three seeds, all by formula."""

import io
import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from sweeping import Ended

from hymba_lab import cli
from hymba_lab.report import write
from hymba_lab.report.__main__ import main

METRIC = "val/recall_accuracy"
ROWS = ("mean", "gate | <b>")  # what a label may hold
SEEDS = (0, 1, 2)
SWEEP: dict[str, Any] = {
    "question": "Does a gate recall more than the mean?",
    "source": "nowhere",
    "base": "tiny.yaml",
    "metric": {"name": METRIC, "goal": "maximize"},
    "also": ["val/text_bits_per_byte"],
    "seeds": list(SEEDS),
    "axes": {"fusion": {row: {"model.fusion": {"name": "mean"}} for row in ROWS}},
    "search": {"optimizer.lr": {"choices": [0.001, 0.01]}},
    "trials_per_cell": 2,
}
BASE = {"scale": "tiny", "data": {"recall": {"name": "mqar"}, "text": {"name": "stdlib"}}}
FACTS = {
    "command": "python -m hymba_lab.sweep sweeps/fusion.yaml --out results",
    "baseline": ROWS[0],
    "hardware": ["an abacus, 2 cores"],
    "hours": {"of compared runs": 0.5, "of tuning": 0.25},
    "notes": ["Tuned alike."],
}


def run(row: str, seed: int, **changes: Any) -> dict[str, Any]:
    """One line of runs.csv."""
    place = ROWS.index(row)
    facts = {
        "row": row, "fusion": row, "seed": seed, "status": "finished", "reason": "",
        "optimizer.lr": 0.001, "params": 1000 + place, "flops_per_token": 2000.0 + 500 * place,
        "cache_bytes": 300 + 100 * place, "ssm_to_attention": math.nan,
        "tokens_per_second": 1234.5, "seconds": 60.0, "identity": f"{place}{seed}" * 32,
        "data_fingerprint": "ab" * 32, "tokens": 5000, "code_version": 1, "scale": "tiny",
        "commit": "c0ffee" * 6, "dirty": False,
        METRIC: 0.5 + 0.3 * place + 0.01 * seed ** (2 - place),
        "val/text_bits_per_byte": 2.0 + seed / 7,
    }  # fmt: skip
    return {**facts, **changes}


def runs_with(gate: tuple[float, float, float], **changes: Any) -> list[dict[str, Any]]:
    """All lines of runs.csv, the second row's metric as given, seed by seed."""
    mean = [run(ROWS[0], seed) for seed in SEEDS]
    return mean + [
        run(ROWS[1], seed, **{METRIC: value, **changes})
        for seed, value in zip(SEEDS, gate, strict=True)
    ]


def write_export(
    results: Path,
    name: str = "fusion-tiny",
    runs: Sequence[dict[str, Any]] | None = None,
    sweep: dict[str, Any] | None = None,
) -> Path:
    """Write an export into `results`/<name> and return its folder."""
    lines = [run(row, seed) for row in ROWS for seed in SEEDS] if runs is None else list(runs)
    curves = [
        {
            "row": line["row"], "seed": line["seed"], "step": step, "tokens": 50 * step,
            "metric": metric, "value": round(line[metric] * step / 100, 6),
        }
        for line in lines if line["status"] == "finished"
        for step in (20, 60, 100) for metric in (METRIC, "val/text_bits_per_byte")
    ]  # fmt: skip
    folder = results / name
    folder.mkdir(parents=True, exist_ok=True)
    resolved = {"sweep": {**SWEEP, **(sweep or {})}, "base": {**BASE, "scale": name.split("-")[-1]}}
    (folder / "sweep.resolved.json").write_text(json.dumps(resolved))
    (folder / "export.json").write_text(json.dumps(FACTS))
    pd.DataFrame(lines).to_csv(folder / "runs.csv", index=False)
    columns = ["row", "seed", "step", "tokens", "metric", "value"]
    pd.DataFrame(curves, columns=columns).to_csv(folder / "curves.csv", index=False)
    return folder


def write_probe(folder: Path) -> None:
    """Write one probe beside an export: the entropy of the maps of two layers."""
    lines = [
        {
            "sweep": folder.name, "row": row, "seed": seed, "data": "recall", "layer": layer,
            "branch": "attention", "head": 0, "value": 1.0 + layer + seed / 10, "uniform": 3.0,
        }
        for row in ROWS for seed in SEEDS for layer in (0, 1)
    ]  # fmt: skip
    (folder / "probes").mkdir(exist_ok=True)
    pd.DataFrame(lines).to_csv(folder / "probes" / "entropy.csv", index=False)


def report(*argv: object, drawing: bool = False) -> Ended:
    """Run the command in this process; without drawing, pages come out without figures."""
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        for change in (redirect_stdout(out), redirect_stderr(err)):
            stack.enter_context(change)
        stack.enter_context(patch.object(sys, "argv", ["report", *map(str, argv)]))
        if not drawing:
            stack.enter_context(patch.object(write, "draw", lambda wanted, folder: []))
        end = stack.enter_context(pytest.raises(SystemExit))
        cli.run(main)
    return Ended(end.value.code, out.getvalue(), err.getvalue())
