"""How much seeds differ at scales where nobody here has measured it: a prior, from public runs.

`noise.csv` holds the standard deviation between seeds of one recipe's final loss, a line for each
set of runs. A prior is what all sets of about a size say together; it stands in for a measurement
only where there is none, and is told as what it is. Where nothing is public it is unknown.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from hymba_lab.stats import Spread

NEAR = 1.5  # times larger or smaller counts as of the same size
Unit = Literal["nats", "bits_per_byte"]


@dataclass(frozen=True)
class Set:
    """One set of runs that differ in their seed."""

    source: str
    name: str
    params: float
    unit: str
    sd: float
    n: int


@dataclass(frozen=True)
class Prior:
    """The seeds' noise at a size: `sd` over all sets with `freedom`; `least` to `most` of one."""

    params: float
    unit: Unit
    sd: float
    freedom: int
    least: float
    most: float
    n_sets: int
    n_runs: int
    sources: tuple[str, ...]

    @property
    def spread(self) -> Spread:
        """The variance with its degrees of freedom."""
        return Spread(self.sd**2, self.freedom)

    def __str__(self) -> str:
        unit = "nats/token" if self.unit == "nats" else "bits per byte"
        return (
            f"published seeds at {self.params / 1e6:.0f}M parameters ({', '.join(self.sources)}: "
            f"{self.n_sets} sets, {self.n_runs:,} runs) have sd {self.sd:.2g} {unit}, of single "
            f"sets {self.least:.2g} to {self.most:.2g}: a prior, not measured here"
        )


def prior(params: float, unit: Unit) -> Prior | None:
    """Return what public runs of about this size say of the seeds' noise; None: unknown.

    Of several sizes within a factor `NEAR` the nearest counts, by the ratio.
    """
    if not params > 0:
        return None
    own = [one for one in sets() if one.unit == unit]
    near = [one for one in own if abs(math.log(one.params / params)) <= math.log(NEAR)]
    if not near:
        return None
    nearest = min(near, key=lambda one: abs(math.log(one.params / params))).params
    return _pooled([one for one in near if one.params == nearest], unit)


def unit_of(metric: str) -> Unit | None:
    """Return in which unit a metric's noise may be published, by its name; None: in none."""
    words = metric.lower()
    if "bits_per_byte" in words or "bpb" in words:
        return "bits_per_byte"
    return "nats" if "loss" in words else None


@cache
def sets() -> tuple[Set, ...]:
    """Return every published set."""
    text = files("hymba_lab.tables").joinpath("noise.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Set(
            line["source"], line["set"], float(line["params"]), line["unit"], float(line["sd"]),
            int(line["n"]),
        )
        for line in lines
    )  # fmt: skip


def _pooled(own: Iterable[Set], unit: Unit) -> Prior:
    """sd^2 = sum (n - 1) sd^2 / sum (n - 1), the mean square within sets."""
    found = list(own)
    freedom = sum(one.n - 1 for one in found)
    variance = math.fsum((one.n - 1) * one.sd**2 for one in found) / freedom
    deviations = [one.sd for one in found]
    return Prior(
        found[0].params, unit, math.sqrt(variance), freedom, min(deviations), max(deviations),
        len(found), sum(one.n for one in found), tuple(sorted({one.source for one in found})),
    )  # fmt: skip
