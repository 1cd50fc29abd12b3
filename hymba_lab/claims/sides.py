"""The two sides of a claim at one scale: {seed: value} from the exports and the probes."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hymba_lab.claims.file import Claims
from hymba_lab.claims.probed import Probe
from hymba_lab.claims.schema import Claim
from hymba_lab.claims.values import NotRun, Side, Values, by_seed, tokens_of, values_at
from hymba_lab.config.yaml_file import read_yaml
from hymba_lab.errors import suggest
from hymba_lab.probes.whose import require_same
from hymba_lab.stats import Looks
from hymba_lab.sweep.documents import task_of_export
from hymba_lab.sweep.export import FILES, Export, curve_metrics, read_export
from hymba_lab.sweep.standing import Lost, lost_values, unfair
from hymba_lab.sweep.tuned import NAME as TUNING
from hymba_lab.sweep.tuned import chosen_by_one_run
from hymba_lab.tables.display import plain_heading
from hymba_lab.tables.solving import Task


class Pair(NamedTuple):
    """Two sides, under which condition (`at`), and the values of all rows that may say how noisy
    they are; `other` is the other row as the claim names it."""

    row: Side
    against: Side
    other: str
    at: str = ""
    table: Mapping[str, Values] = {}


class Results:
    """The exports of one scale, read once each."""

    def __init__(self, results: Path, scale: str) -> None:
        self.results, self.scale = results, scale
        self._exports: dict[str, Export] = {}
        self._probes: dict[Path, Probe] = {}
        self._tasks: dict[str, Task | None] = {}

    def of(self, claims: Claims) -> "Asked":
        """The results as a file of claims asks for them."""
        return Asked(claims, self)

    def export(self, name: str) -> Export:
        """The export in a folder; `NotRun` where there is none."""
        folder = self.results / name
        if not any((folder / file).is_file() for file in FILES):
            raise NotRun(f"no export {name}")
        if name not in self._exports:
            self._exports[name] = read_export(folder)
        return self._exports[name]

    @cached_property
    def lost(self) -> Lost:
        """What the races of this scale say of runs: which stand at a value that lost."""
        folders = self.results.glob(f"*-{self.scale}/{TUNING}")
        return lost_values(self.export(path.parent.name) for path in sorted(folders))

    def task(self, name: str) -> Task | None:
        """The task that an export's runs learn in a jump."""
        if name not in self._tasks:
            self._tasks[name] = task_of_export(self.export(name))
        return self._tasks[name]

    def probe(self, folder: str, name: str) -> Probe:
        """A probe of a sweep; `NotRun` where it was not probed."""
        path = self.results / folder / "probes" / f"{name}.csv"
        if path not in self._probes:
            if not path.is_file():
                raise NotRun(f"{folder} has no probe {name}")
            require_same(self.results / folder, self.export(folder).runs.to_dict("records"))
            self._probes[path] = Probe(path)
        return self._probes[path]


class Asked:
    """One file of claims and the results that it asks for."""

    def __init__(self, claims: Claims, results: Results) -> None:
        self.claims, self.results = claims, results

    def folder(self, claim: Claim) -> str:
        """The name of the sweep's folder in results."""
        return f"{claim.sweep}-{self.results.scale}"

    def metric(self, claim: Claim) -> str:
        """What the effect is of: a metric, a cost, or a probe with its column."""
        if claim.probe is not None:
            what = f", {claim.where['metric']}" if "metric" in claim.where else ""
            of = f" over {claim.relative_to}" if claim.relative_to else ""
            apart = ", ".join(str(word) for word in claim.apart_from.values())
            return f"{claim.probe} {claim.value}{of}{what}" + (
                f", apart from {apart}" * bool(apart)
            )
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
        task = self.results.task(self.folder(claim))
        if task is None or claim.probe == "needle":
            return task
        of = claim.where.get("metric", "") if claim.probe else self.metric(claim)
        return task if str(of).removesuffix("_auc") == task.metric else None

    def control_failed(self, claim: Claim, task: Task) -> bool:
        """Whether the row that is known to solve the task did not, every run of it."""
        return task.failed(self._export(claim).sweep.control)

    def levels(self, claim: Claim, metric: str, rows: Sequence[str]) -> dict[str, Values]:
        """A metric of these rows' finished runs, by seed."""
        done = self._finished(claim)
        return {row: by_seed(done[done["row"] == row], metric) for row in rows}

    def answered(self, claim: Claim, pair: Pair) -> tuple[float, float] | None:
        """How often each side answered a needle's question at all; None where nobody measured."""
        if claim.probe != "needle":
            return None
        probe = self.results.probe(self.folder(claim), "needle")
        mine = probe.answered(pair.row.row, claim.where)
        theirs = probe.answered(pair.against.row, claim.where)
        return None if mine is None or theirs is None else (mine, theirs)

    def pairs(self, name: str, claim: Claim) -> list[Pair]:
        """Every comparison of a claim; raises `NotRun` where a side of one is not there."""
        if claim.probe is not None:
            return self._probed(name, claim)
        metric, rows = self.metric(claim), [claim.row, *claim.others]
        labels = [self._present(claim, row) for row in rows]
        self._require(name, claim, metric)
        return [
            self._pair(claim, metric, labels[0], label, other)
            for label, other in zip(labels[1:], claim.others, strict=True)
        ]

    def _pair(self, claim: Claim, metric: str, row: str, other: str, named: str) -> Pair:
        """Two rows at the end of their runs, or where they ended at different times, before."""
        export, runs = self._export(claim), self._finished(claim)
        table, at = {}, ""
        stops = export.sweep.stop is not None and not claim.exact
        if stops and metric in curve_metrics(export.sweep):
            tokens = tokens_of(export.curves, metric, (row, other))
            at = f"after {tokens:,} tokens, when the first of them ended"
            table = values_at(export.curves, metric, tokens)
        else:
            table = {str(label): by_seed(own, metric) for label, own in runs.groupby("row")}
        sides = [self._side(claim, label, table.get(label, {})) for label in (row, other)]
        return Pair(sides[0], sides[1], named, at, table)

    def _probed(self, name: str, claim: Claim) -> list[Pair]:
        probe = self.results.probe(self.folder(claim), claim.probe or "")
        probe.require(self.claims, name, claim)
        there = claim.where if claim.against_where is None else claim.against_where
        mine = self._present(claim, claim.row)
        found = []
        for other in claim.others:
            label = self._present(claim, other)
            for at, here, beyond in probe.conditions(claim, label, there):
                found.append(
                    Pair(
                        self._side(claim, mine, probe.values(claim, mine, here)),
                        self._side(claim, label, probe.values(claim, label, beyond)),
                        other, at,
                    )
                )  # fmt: skip
        return found

    def _present(self, claim: Claim, row: str) -> str:
        export, label = self._export(claim), self._in_words(row)
        if label not in set(export.runs["row"]):
            raise NotRun(f"{export.name} has no row “{label}”")
        return label

    def _side(self, claim: Claim, label: str, values: Values) -> Side:
        if not values:
            raise NotRun(f"no finished run of “{label}” in {self.folder(claim)}")
        runs = self._finished(claim)
        own = runs[runs["row"] == label]
        pairs = zip(own["seed"], own["identity"], strict=True)
        used = tuple(str(identity) for seed, identity in pairs if int(seed) in values)
        return Side(label, values, used)

    def _require(self, name: str, claim: Claim, metric: str) -> None:
        runs = self._export(claim).runs
        if metric not in runs:
            known = [column for column in map(str, runs) if "/" in column]
            said = f"the runs of {self.folder(claim)} have no {metric!r}" + suggest(metric, known)
            raise self.claims.wrong(["claims", name, "metric"], said)

    def _finished(self, claim: Claim) -> pd.DataFrame:
        runs = self._export(claim).runs
        return runs[runs["status"] == "finished"]

    def by_one_run(self, claim: Claim) -> str:
        """Of which of the claim's rows one run of each value chose; "" where a race did."""
        if self._export(claim).sweep.tuned_by_one_run:
            return self.folder(claim)
        rows = [row for row in map(self._in_words, [claim.row, *claim.others])
                if row in self._unraced(claim)]  # fmt: skip
        return f"{self.folder(claim)} ({', '.join(dict.fromkeys(rows))})" if rows else ""

    def is_lucky(self, claim: Claim, pair: Pair) -> bool:
        """Whether one run of each value chose one of the two rows' own."""
        rows = {pair.row.row, pair.against.row}
        whole = self._export(claim).sweep.tuned_by_one_run
        return whole or not rows.isdisjoint(self._unraced(claim))

    def _unraced(self, claim: Claim) -> list[str]:
        export = self._export(claim)
        return chosen_by_one_run(export.tuning, export.sweep)

    def unfair(self, claim: Claim, pair: Pair, timed: bool) -> str:
        """Why the two rows may not be compared as they stand; "" where they may."""
        sweep, rows = self._export(claim).sweep, (pair.row.row, pair.against.row)
        if rows[0] == rows[1]:
            return ""
        as_tuned = timed or self.metric(claim) == sweep.metric.name
        tuned_for = "" if as_tuned else plain_heading(sweep.metric.name)
        runs, lost = self._finished(claim), self.results.lost
        return unfair(runs, rows, lost, search=list(sweep.search), tuned_for=tuned_for)

    def _export(self, claim: Claim) -> Export:
        return self.results.export(self.folder(claim))

    @cached_property
    def _words(self) -> Mapping[str, object]:
        folder = self.claims.folder / self.claims.file.sweeps / "scales"
        path = folder / f"{self.results.scale}.yaml"
        words = read_yaml(path).data.get("words") if path.is_file() else None
        return words if isinstance(words, dict) else {}

    def _in_words(self, row: str) -> str:
        return re.sub(r"\$(\w+)", lambda found: str(self._words.get(found[1], found[0])), row)
