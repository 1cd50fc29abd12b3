"""The sweep file: the question, what is compared, what is tuned, what is repeated."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from hymba_lab.config import Config, load_document, resolve
from hymba_lab.config_errors import explain, suggest
from hymba_lab.errors import ConfigError
from hymba_lab.registry import Section
from hymba_lab.yaml_file import Document, parse_value

Count = Annotated[int, Field(ge=1)]
Goal = Literal["maximize", "minimize"]
Design = Literal["one_factor", "factorial", "cumulative", "leave_one_out", "search"]


class Metric(Section):
    """What is better: a metric of the runs (`val/...`) or a cost (`cost/cache_bytes`)."""

    name: str
    goal: Goal


class Range(Section):
    """A searched number between low and high (whole when both are), or one of the choices."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[str | int | float | bool] | None = None


class Match(Section):
    """Every variant gets the baseline's budget by solving one free integer."""

    params: Literal["baseline"] | None = None
    flops: Literal["baseline"] | None = None
    by: str
    tolerance: str = "0.5%"

    @property
    def fraction(self) -> float:
        """The tolerance as a fraction of the baseline's budget."""
        return float(self.tolerance.rstrip("%")) / 100


class Sampler(Section):
    """How `search` is sampled: Optuna's TPE with every option named, at random, or all choices."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    n_startup_trials: Count = 4  # these look at no result and are the same in every cell
    multivariate: bool = True
    n_ei_candidates: Count = 24
    lag: Count = 4  # a trial knows the results of those at least so many places before it


class Pruner(Section):
    """When a tuning trial is given up early; never used on the compared runs."""

    name: Literal["none", "median", "successive_halving"] = "none"
    n_startup_trials: Count = 2
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0  # median: training steps before the first look
    min_resource: Count = 1  # halving: training steps of the first rung
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Paper(Section):
    """Numbers of a paper, shown beside ours and never mixed with them."""

    label: str
    values: dict[str, float]


class SweepFile(Section):
    """One sweep, as written."""

    question: str
    source: str = ""
    base: str
    metric: Metric
    also: list[str] = []  # further metrics, shown without a verdict
    objectives: list[Metric] = []  # design: search with several goals
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    tune_seed: Annotated[int, Field(ge=0)] = 1000
    axes: dict[str, dict[str, dict[str, Any]]]
    baseline: str | None = None
    search: dict[str, Range] = {}
    trials_per_cell: Annotated[int, Field(ge=0)] = 0
    n_trials: Count | None = None
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    match: Match | None = None
    design: Design = "one_factor"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    trial_timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    retries: Annotated[int, Field(ge=0)] = 1  # after a crash; a nan is never tried again
    paper: Paper | None = None


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file with its base experiment."""

    name: str
    file: SweepFile
    document: Document
    base_document: Document
    base: Config

    def wrong(self, place: Sequence[str | int], said: str) -> ConfigError:
        """Return an error that stands at a place of the sweep file."""
        return ConfigError(f"{self.document.where(place)}: {'.'.join(map(str, place))}: {said}")


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Load a sweep and its base; overrides of the sweep's own keys go to it, others to the base."""
    document = load_document(path)
    own = [text for text in overrides if text.split("=")[0].split(".")[0] in SweepFile.model_fields]
    for text in own:
        key, _, value = text.partition("=")
        mark = f"--set {text}"
        document = document.patched(key.strip(), parse_value(value, mark), mark)
    try:
        file = SweepFile.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, document, SweepFile))) from None
    base_document = _base(path, file.base, document, [t for t in overrides if t not in own])
    base = resolve(base_document)
    sweep = Sweep(path.stem, file, document, _complete(base_document, base), base)
    _check(sweep)
    return sweep


def _base(path: Path, name: str, document: Document, overrides: Sequence[str]) -> Document:
    try:
        return load_document(path.parent / name, overrides)
    except ConfigError as error:
        if not (path.parent / name).is_file():
            raise ConfigError(f"{error}\n  named at {document.where(['base'])}: base") from None
        raise


def _complete(document: Document, base: Config) -> Document:
    """Return the document with every default filled in, so that patches find every path."""
    return Document({**base.resolved(), "plugins": base.plugins}, document.marks)


def _check(sweep: Sweep) -> None:
    """Refuse what the schema alone cannot see."""
    file, wrong = sweep.file, sweep.wrong
    if len(set(file.seeds)) != len(file.seeds):
        raise wrong(["seeds"], f"{file.seeds} repeats a seed; a repeated run is no new evidence.")
    if file.tune_seed in file.seeds:
        raise wrong(
            ["tune_seed"],
            f"{file.tune_seed} is one of the seeds {file.seeds}; a row tuned on the runs that judge "
            "it wins by luck. Take another.",
        )
    if bool(file.search) != bool(file.trials_per_cell or file.n_trials):
        raise wrong(
            ["search"], "search needs trials_per_cell (design: search: n_trials), and they need it."
        )
    if file.design == "search" and not file.n_trials:
        raise wrong(["design"], "search chooses over the axes; say how often with n_trials.")
    if file.match and (file.match.params is None) == (file.match.flops is None):
        raise wrong(["match"], "give one of params: baseline and flops: baseline.")
    if file.match:
        _check_tolerance(sweep, file.match.tolerance)
        require_path(sweep, ["match", "by"], file.match.by)
    for path, span in file.search.items():
        require_path(sweep, ["search", path], path)
        _check_range(sweep, path, span)
    if not file.axes:
        raise wrong(["axes"], "is empty; name at least one axis with two choices.")
    _check_axes(sweep)


def require_path(sweep: Sweep, place: list[str | int], path: str) -> None:
    """Refuse a path that the base experiment lacks, naming the nearest."""
    steps = path.split(".")
    for depth in range(1, len(steps) + 1):
        try:
            sweep.base_document.get(".".join(steps[:depth]))
        except KeyError:
            above = ".".join(steps[: depth - 1])
            holder = sweep.base_document.get(above) if above else sweep.base_document.data
            known = list(holder) if isinstance(holder, dict) else []
            raise sweep.wrong(
                place, f"{sweep.file.base} has no {path}: no key {steps[depth - 1]!r}"
                + suggest(steps[depth - 1], known)
            ) from None  # fmt: skip


def _check_tolerance(sweep: Sweep, text: str) -> None:
    try:
        fraction = float(text.rstrip("%"))
    except ValueError:
        fraction = -1.0
    if not text.endswith("%") or not 0 < fraction < 50:
        raise sweep.wrong(["match", "tolerance"], f"{text!r} is no share such as 0.5%.")


def _check_range(sweep: Sweep, path: str, span: Range) -> None:
    place = ["search", path]
    if span.choices is not None:
        if span.low is not None or span.high is not None or not span.choices:
            raise sweep.wrong(place, "give either low and high, or a non-empty list of choices.")
        return
    if span.low is None or span.high is None or not span.low < span.high:
        raise sweep.wrong(place, f"low = {span.low} must be below high = {span.high}.")
    if span.log and span.low <= 0:
        raise sweep.wrong(place, f"low = {span.low} must be above 0 on a logarithmic scale.")


def _check_axes(sweep: Sweep) -> None:
    setters: dict[str, str] = dict.fromkeys(sweep.file.search, "search")
    for axis, choices in sweep.file.axes.items():
        if len(choices) < 2:
            raise sweep.wrong(["axes", axis], "has fewer than two choices; there is no comparison.")
        paths = {path for patch in choices.values() for path in patch}
        for label, patch in choices.items():
            for path in patch:
                require_path(sweep, ["axes", axis, label, path], path)
        for path in sorted(paths):
            for other, owner in setters.items():
                if f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}."):
                    raise sweep.wrong(
                        ["axes", axis],
                        f"sets {path}, and {owner} sets {other}; one path has one owner.",
                    )
        setters.update(dict.fromkeys(paths, f"axis {axis!r}"))
