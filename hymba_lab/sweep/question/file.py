"""The sweep file: the question, what is compared, what is tuned, what is repeated.

The schema is here; what needs the base experiment or several keys at once is in `checks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hymba_lab.config import Config, load_document, overridden, resolve
from hymba_lab.config.kinds import refuse_another
from hymba_lab.config.messages import checked
from hymba_lab.config.resolve import base_file
from hymba_lab.config.shipped import PREFIX
from hymba_lab.config.yaml_file import Document, parse_value
from hymba_lab.errors import ConfigError
from hymba_lab.registry import Section
from hymba_lab.stats import Looks, plan_looks
from hymba_lab.sweep.question.paper import Paper, looked_up
from hymba_lab.sweep.question.scale import Hardware, at_scale, hardware_of

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Goal = Literal["maximize", "minimize"]
Design = Literal["one_factor", "factorial", "cumulative", "leave_one_out", "search"]


class Metric(Section):
    """What is better: a metric of the runs (`val/...`) or a cost (`cost/cache_bytes`)."""

    name: str  # `val/...` of the runs; among `objectives` also `cost/...`
    goal: Goal  # which way is better


class Stop(Section):
    """A level at which a run has solved its task and may end: `{metric, at}`."""

    metric: str  # a metric of every validation
    at: float  # the level
    goal: Goal = "maximize"  # on which side of it the task is solved


class Range(Section):
    """A searched number between low and high (whole when both are), or one of the choices."""

    low: int | float | None = None  # smallest value
    high: int | float | None = None  # largest value
    log: bool = False  # draw on a logarithmic scale
    choices: list[str | int | float | bool] | None = None  # or these values only


class Held(Section):
    """An integer that keeps its ratio to the free one: `ratio` times it, to a multiple of `of`."""

    ratio: Annotated[float, Field(gt=0)]  # times the free integer
    of: Count = 1  # rounded to a multiple of this


class Match(Section):
    """Every row gets one budget, the baseline's or a number, by solving one free integer."""

    params: int | str | None = None  # "baseline" or a number
    flops: int | str | None = None  # "baseline" or a number of forward FLOPs a token
    by: str  # path of the free integer
    rows: dict[str, str] = {}  # rows that free another integer than `by`, e.g. for want of an MLP
    hold: dict[str, dict[str, Held]] = {}  # row -> what moves with `by`: shares stay as they are
    tolerance: str = "0.5%"  # largest difference allowed

    @property
    def fraction(self) -> float:
        """The tolerance as a fraction of the budget."""
        return float(self.tolerance.rstrip("%")) / 100


class Sampler(Section):
    """How `search` is sampled: Optuna's TPE with every option named, at random, or all choices."""

    name: Literal["tpe", "random", "grid"] = "tpe"  # grid: all choices
    n_startup_trials: Count = 4  # these look at no result and are the same in every cell
    multivariate: bool = True  # TPE: all values together
    n_ei_candidates: Count = 24  # TPE: candidates a trial
    lag: Count = 4  # a trial knows the results of those at least so many places before it


class Pruner(Section):
    """When a tuning trial is given up early; never used on the compared runs."""

    name: Literal["none", "median", "successive_halving", "overtaken"] = "none"  # the rule
    n_startup_trials: Count = 2  # median, halving: trials before the first is given up
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0  # median: training steps before the first look
    min_resource: Count = 1  # halving: training steps of the first rung
    reduction_factor: Annotated[int, Field(ge=2)] = 3  # halving: one of so many goes on


class SweepFile(Section):
    """One sweep, as written."""

    question: str  # what the table answers, in one sentence
    source: str = ""  # where the question comes from
    scale: str | None = None  # see `scale`: gives base and defaults
    base: str  # the experiment that the rows vary, beside this file or hymba_lab:NAME
    set: dict[str, Any] = {}  # path -> value that every row has in place of the base's
    metric: Metric  # what decides
    also: list[str] = []  # further metrics, shown without a verdict
    objectives: list[Metric] = []  # design: search with several goals
    seeds: Annotated[list[Seed], Field(min_length=1)]  # each trains every row
    tune_seed: Seed = 1000  # seed of the tuning trials; never one of `seeds`
    axes: dict[str, dict[str, dict[str, Any]]]  # axis -> row label -> the values it sets, by path
    baseline: str | None = None  # others are compared with it; by default the first row
    control: str | None = None  # a row known to solve the task: else none is judged
    stop: Stop | None = None  # end a run that has solved its task; no part of its identity
    search: dict[str, Range] = {}  # path -> values tried alike in every row
    trials_per_cell: Annotated[int, Field(ge=0)] = 0  # tuning trials of each row
    tuning: Literal["one_seed", "race"] = "one_seed"  # trials on tune_seed alone, or on all seeds
    behind: Annotated[float, Field(gt=0)] | None = None  # race without a task: out after one seed
    widen: bool = False  # go on past an edge of the choices until the winner is inside
    n_trials: Count | None = None  # design search: trials over all axes
    sampler: Sampler = Sampler()  # how `search` is sampled
    pruner: Pruner = Pruner()  # when a tuning trial is given up
    match: Match | None = None  # one budget for every row
    design: Design = "one_factor"  # which combinations of the axes are rows
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05  # chance of any false verdict in the table
    margin: Annotated[float, Field(gt=0)] | None = None  # equivalent within: its unit, or a factor
    until_decided: Annotated[int, Field(ge=2, le=1000)] | None = None  # seeds a row at most
    trial_timeout_minutes: Annotated[float, Field(gt=0, le=1e7)] | None = None  # a trial's limit
    retries: Annotated[int, Field(ge=0)] = 1  # after a crash; a nan is never tried again
    paper: Paper | None = None  # numbers of a paper beside ours

    @property
    def looks(self) -> Looks | None:
        """The planned looks of `until_decided`; None where the seeds are fixed."""
        if self.until_decided is None:
            return None
        return plan_looks(self.seeds, self.until_decided, reserved=[self.tune_seed])

    @property
    def tuned_by_one_run(self) -> bool:
        """Whether every row's values were chosen by one run of each: no interval has that luck."""
        chosen = self.trials_per_cell > 1 and self.design != "search"
        return chosen and self.tuning == "one_seed"

    @property
    def runs_per_row(self) -> int:
        """How many runs a row comes to; of a race, about: two values after the first seed.

        The 28 rows of the first four races in results/ took 14.6 runs each, by this rule 14.
        """
        if self.tuning == "race":
            return self.trials_per_cell + min(self.trials_per_cell, 2) * (len(self.seeds) - 1)
        return self.trials_per_cell + len(self.seeds)

    def runs_of(self, n_rows: int) -> int:
        """How many runs so many rows come to: a search tries them all, and repeats the best."""
        if self.design == "search":
            return (self.n_trials or 0) + len(self.seeds)
        return n_rows * self.runs_per_row


@dataclass(frozen=True)
class Sweep:
    """A sweep file with its base experiment."""

    name: str
    file: SweepFile
    document: Document
    base_document: Document
    base: Config
    hardware: Hardware | None = None
    overrides: tuple[str, ...] = ()  # of the base, as after --set

    def wrong(self, place: Sequence[str | int], said: str) -> ConfigError:
        """Return an error that stands at a place of the sweep file."""
        return self.document.wrong(place, said)


def load_sweep(path: Path, overrides: Sequence[str] = (), scale: str | None = None) -> Sweep:
    """Load a sweep and its base; overrides of the sweep's own keys go to it, others to the base."""
    document = load_document(path)
    refuse_another(document.data, path, "a sweep")
    document = at_scale(document, path, scale)
    own = [text for text in overrides if _names_own_key(text)]
    for text in own:
        key, _, value = text.partition("=")
        mark = f"--set {text}"
        document = document.patched(key.strip(), parse_value(value, mark), mark)
    file = checked(document, SweepFile)
    if file.paper:
        paper = looked_up(file.paper, document, path.parent)
        file = file.model_copy(update={"paper": paper})
    base_document = _base(path, file.base, document, [])
    if file.set:
        base_document = _with_set(base_document, file, document)
    others = [text for text in overrides if text not in own]
    base_document = overridden(base_document, others)
    base = resolve(base_document)
    complete = _complete(base_document, base)
    given = tuple(others)
    return Sweep(path.stem, file, document, complete, base, hardware_of(path, document), given)


def _with_set(base: Document, file: SweepFile, document: Document) -> Document:
    """Return the base with what `set:` fixes for every row, each value at a path that is there."""
    known = _complete(base, resolve(base))
    for path, value in file.set.items():
        mark = document.where(["set", path])
        try:
            known.get(path)
        except KeyError:
            said = f"{file.base} has no {path}; set: fixes what the base has."
            raise ConfigError(f"{mark}: set.{path}: {said}") from None
        base = base.patched(path, value, mark)
    return base


def _names_own_key(override: str) -> bool:
    """Whether `a.b=c` sets a key of the sweep itself; without `=` it is refused with the rest.

    `scale=...` is the base's label; a sweep's scale is an option of its own, --scale.
    """
    key = override.split("=")[0].strip().split(".")[0]
    return "=" in override and key != "scale" and key in SweepFile.model_fields


def _base(path: Path, name: str, document: Document, overrides: Sequence[str]) -> Document:
    file = base_file(path, name)
    try:
        found = load_document(file, overrides)
        refuse_another(found.data, file, "an experiment")
        return found
    except ConfigError as error:
        if not name.startswith(PREFIX) and not (path.parent / name).is_file():
            raise ConfigError(f"{error}\n  named at {document.where(['base'])}: base") from None
        raise


def _complete(document: Document, base: Config) -> Document:
    """Return the document with every default filled in, so that patches find every path."""
    data = {**base.resolved(), "plugins": base.plugins}
    for stage in data.get("stages", {}).values():
        stage["contents"] = None  # a row may name other files
    return Document(data, document.marks)
