"""The two sides of a claim at one scale: {seed: value} from the exports and the probes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from hymba_lab.claims.file import Claim, Claims, Condition
from hymba_lab.config.yaml_file import read_yaml
from hymba_lab.errors import StoreError, suggest
from hymba_lab.probes.columns import TEXT as PROBE_TEXT
from hymba_lab.stats import Looks
from hymba_lab.sweep.export import FILES, Export, read_export, task_of_export
from hymba_lab.tables.csv_frame import read_csv
from hymba_lab.tables.solving import Task


class NotRun(Exception):
    """The claim has no runs or probes at this scale; says what is missing."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: values by seed, and the runs they come from."""

    row: str
    values: Mapping[int, float]
    identities: tuple[str, ...]


class Results:
    """The exports of one scale, read once each."""

    def __init__(self, claims: Claims, results: Path, scale: str) -> None:
        self.claims, self.results, self.scale = claims, results, scale
        self._exports: dict[str, Export] = {}
        self._probes: dict[Path, pd.DataFrame] = {}

    def folder(self, claim: Claim) -> str:
        """The name of the sweep's folder in results."""
        return f"{claim.sweep}-{self.scale}"

    def metric(self, claim: Claim) -> str:
        """What the effect is of: a metric, a cost, or a probe with its column."""
        if claim.probe is not None:
            what = f", {claim.where['metric']}" if "metric" in claim.where else ""
            return f"{claim.probe} {claim.value}{what}"
        if claim.metric is None:
            try:
                return self._export(claim).sweep.metric.name
            except NotRun:
                return "the sweep's metric"
        return claim.metric

    def looks(self, claim: Claim) -> Looks | None:
        """The looks of a sweep whose seeds were added until decided."""
        return self._export(claim).sweep.looks

    def task(self, claim: Claim) -> Task | None:
        """The task of a claim about recall that is learned in a jump; None for other claims."""
        if claim.probe not in (None, "needle"):
            return None
        task = task_of_export(self._export(claim))
        recall = claim.probe or (task and self.metric(claim).removesuffix("_auc") == task.metric)
        return task if recall else None

    def levels(self, claim: Claim, metric: str, rows: Sequence[str]) -> dict[str, dict[int, float]]:
        """A metric of these rows' finished runs, by seed."""
        runs = self._export(claim).runs
        done = runs[runs["status"] == "finished"]
        return {row: _by_seed(done[done["row"] == row], metric) for row in rows}

    def sides(self, name: str, claim: Claim) -> list[tuple[Side, Side]]:
        """The row beside each of the others; raises `NotRun` where one of them is not there."""
        there = claim.where if claim.against_where is None else claim.against_where
        mine = self._side(name, claim, claim.row, claim.where)
        return [(mine, self._side(name, claim, other, there)) for other in claim.others]

    def _side(self, name: str, claim: Claim, row: str, where: Condition) -> Side:
        export, label = self._export(claim), self._in_words(row)
        runs = export.runs
        if label not in set(runs["row"]):
            raise NotRun(f"{export.name} has no row “{label}”")
        own = runs[(runs["row"] == label) & (runs["status"] == "finished")]
        values = (
            self._of_runs(name, claim, export, own)
            if claim.probe is None
            else self._of_probe(name, claim, label, where)
        )
        if not values:
            raise NotRun(f"no finished run of “{label}” in {export.name}")
        pairs = zip(own["seed"], own["identity"], strict=True)
        used = (str(identity) for seed, identity in pairs if int(seed) in values)
        return Side(label, values, tuple(used))

    def _of_runs(
        self, name: str, claim: Claim, export: Export, own: pd.DataFrame
    ) -> dict[int, float]:
        metric = self.metric(claim)
        if metric not in own:
            known = [name for name in map(str, own) if "/" in name]
            said = f"the runs of {export.name} have no {metric!r}" + suggest(metric, known)
            raise self.claims.wrong(["claims", name, "metric"], said)
        return _by_seed(own, metric)

    def _of_probe(self, name: str, claim: Claim, label: str, where: Condition) -> dict[int, float]:
        path = self.results / self.folder(claim) / "probes" / f"{claim.probe}.csv"
        if path not in self._probes:
            if not path.is_file():
                raise NotRun(f"{self.folder(claim)} has no probe {claim.probe}")
            self._probes[path] = _read_probe(path)
        lines = self._probes[path]
        for column in (claim.value, *where):
            if column not in lines:
                said = f"{path} has no column {column!r}" + suggest(column, map(str, lines))
                raise self.claims.wrong(["claims", name], said)
        lines = lines[lines["row"] == label]
        for column, wanted in where.items():
            wrong = isinstance(wanted, dict)
            word = wanted["not"] if isinstance(wanted, dict) else wanted
            lines = lines[(lines[column] == word) != wrong]
        if lines.empty:
            raise NotRun(f"probe {claim.probe} of {self.folder(claim)} has no line for “{label}”")
        return _by_seed(lines, claim.value)

    def _export(self, claim: Claim) -> Export:
        folder = self.results / self.folder(claim)
        if not any((folder / file).is_file() for file in FILES):
            raise NotRun(f"no export {self.folder(claim)}")
        if folder.name not in self._exports:
            self._exports[folder.name] = read_export(folder)
        return self._exports[folder.name]

    @cached_property
    def _words(self) -> Mapping[str, object]:
        folder = self.claims.folder / self.claims.file.sweeps / "scales"
        path = folder / f"{self.scale}.yaml"
        words = read_yaml(path).data.get("words") if path.is_file() else None
        return words if isinstance(words, dict) else {}

    def _in_words(self, row: str) -> str:
        return re.sub(r"\$(\w+)", lambda found: str(self._words.get(found[1], found[0])), row)


def _read_probe(path: Path) -> pd.DataFrame:
    try:
        lines = read_csv(path, path.read_text(encoding="utf-8"), PROBE_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}.") from None
    if not {"row", "seed"} <= set(lines):
        raise StoreError(f"{path}: has no columns row and seed; run hymba_lab.probes again.")
    return lines


def _by_seed(lines: pd.DataFrame, column: str) -> dict[int, float]:
    """{seed: mean of the column}; what is not a finite number is left out."""
    values: dict[int, list[float]] = {}
    for seed, value in zip(lines["seed"], pd.to_numeric(lines[column]), strict=True):
        values.setdefault(int(seed), []).append(float(value))
    means = {seed: math.fsum(found) / len(found) for seed, found in sorted(values.items())}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}
