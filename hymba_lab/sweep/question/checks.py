"""What the schema of a sweep file cannot see: keys that belong together, known metrics."""

import re
from collections.abc import Iterable
from math import prod

from hymba_lab.cost import Costs
from hymba_lab.errors import UserError, suggest
from hymba_lab.stages.chain import metrics_of_stages, tasks_of
from hymba_lab.sweep.question.designs import check_size
from hymba_lab.sweep.question.file import Range, Sweep
from hymba_lab.sweep.question.level import task_of_sweep
from hymba_lab.sweep.question.names import check_names
from hymba_lab.sweep.question.paths import check_axes, overlap, require_path, require_variable
from hymba_lab.sweep.widening import reachable


def check_sweep(sweep: Sweep) -> None:
    """Raise `ConfigError` for the first thing that cannot work, at its place in the file."""
    _check_name(sweep)
    _check_seeds(sweep)
    _check_design(sweep)
    for path, span in sweep.file.search.items():
        require_variable(sweep, ["search", path], path)
        _check_range(sweep, path, span)
    _check_sampler(sweep)
    _check_widen(sweep)
    _check_pruner(sweep)
    check_names(sweep)
    check_axes(sweep)
    check_size(sweep)
    _check_match(sweep)


def check_staged(sweep: Sweep) -> None:
    """Refuse what looks at a pretraining under way where the question is about what follows it."""
    if not sweep.base.stages:
        return
    if sweep.file.pruner.name != "none":
        raise sweep.wrong(
            ["pruner"], "looks at validations of the pretraining, and the base has stages behind."
        )
    if sweep.file.stop is not None:
        raise sweep.wrong(
            ["stop"], "ends a pretraining early, and the base has stages that go on from its end."
        )


def check_metrics(sweep: Sweep, known: Iterable[str]) -> None:
    """Refuse a metric that no run of this data will have, before anything is trained."""
    file, names = sweep.file, [*known, *metrics_of_stages(sweep.base)]
    tasks = tasks_of(sweep.base)
    costs = [f"cost/{name}" for name in Costs.__dataclass_fields__]
    wanted: list[tuple[list[str | int], str, list[str]]]
    wanted = [(["metric", "name"], file.metric.name, names)]
    wanted += [(["also", number], name, names) for number, name in enumerate(file.also)]
    wanted += [
        (["objectives", number, "name"], goal.name, [*names, *costs])
        for number, goal in enumerate(file.objectives)
    ]
    if file.stop is not None and file.margin is not None and file.margin <= 1:
        raise sweep.wrong(
            ["margin"],
            f"{file.margin:g}, but rows are compared by when they solved: give a factor above 1, "
            "e.g. 1.2, or leave it out.",
        )
    if file.stop is not None:
        values = [name for name in names if not name.endswith("_auc")]  # areas are known at the end
        wanted.append((["stop", "metric"], file.stop.metric, values))
    for where, name, allowed in wanted:
        if (asked := re.fullmatch(r"eval/([^/]+)/[^/]+", name)) and where[0] != "stop":
            if tasks is not None and asked[1] not in tasks:
                raise sweep.wrong(where, f"no task {asked[1]!r}" + suggest(asked[1], tasks))
            if where[0] != "also":
                _require_known_in_time(sweep, where, name, staged=tasks is not None)
            continue  # a stage, or `hymba-lab evaluate runs/<id>`, adds it to the run's record
        if name not in allowed:
            raise sweep.wrong(where, f"no run will have {name!r}" + suggest(name, allowed))


def _require_known_in_time(
    sweep: Sweep, where: list[str | int], name: str, *, staged: bool
) -> None:
    """What chooses values is there when a run ends; what gives trials up, while they train."""
    file = sweep.file
    if (file.search or file.design == "search") and not staged:
        raise sweep.wrong(
            where,
            f"{name} is there once `hymba-lab evaluate` was run, too late to choose values by it: "
            "give an evaluate stage, or a metric of the training.",
        )
    if file.pruner.name not in ("none", "overtaken") and where[0] == "metric":
        raise sweep.wrong(
            ["pruner", "name"],
            f"{file.pruner.name} compares trials while they train, and {name} is there after it; "
            "use none, or a metric of the training.",
        )


def _check_name(sweep: Sweep) -> None:
    """The name becomes a folder and an experiment of MLflow."""
    for what, text in (("the file's name", sweep.name), ("the base's scale", sweep.base.scale)):
        if not re.fullmatch(r"\w[\w.+-]*", text):
            raise sweep.wrong(
                ["base"],
                f"{what} {text!r} names the folder of results: use letters, digits, . + - _",
            )


def _check_seeds(sweep: Sweep) -> None:
    file = sweep.file
    if len(set(file.seeds)) != len(file.seeds):
        raise sweep.wrong(
            ["seeds"], f"{file.seeds} repeats a seed; a repeated run is no new evidence."
        )
    if file.tune_seed in file.seeds:
        raise sweep.wrong(
            ["tune_seed"],
            f"{file.tune_seed} is one of the seeds {file.seeds}; a row tuned on the runs that "
            "judge it wins by luck. Take another.",
        )
    if file.until_decided is not None and file.design == "search":
        raise sweep.wrong(["until_decided"], "is for designs with named rows, not for search.")
    try:
        _ = file.looks
    except UserError as error:
        raise sweep.wrong(["until_decided"], str(error)) from None


def _check_design(sweep: Sweep) -> None:
    """`design: search` counts its trials over all rows, every other design within each row."""
    file, wrong = sweep.file, sweep.wrong
    if file.design == "search":
        if file.tuning == "race":
            raise wrong(["tuning"], "race is for designs with named rows, not for search.")
        if not file.n_trials:
            raise wrong(["design"], "search chooses over the axes; say how often with n_trials.")
        if file.trials_per_cell:
            raise wrong(
                ["trials_per_cell"], "design: search counts all trials; give n_trials only."
            )
        return
    if file.n_trials:
        raise wrong(["n_trials"], "is for design: search; other designs take trials_per_cell.")
    if file.objectives:
        raise wrong(["objectives"], "several goals are for design: search; others take metric.")
    if file.search and not file.trials_per_cell:
        raise wrong(
            ["search"], "is never tried: trials_per_cell is 0; say how many trials to make."
        )
    if file.tuning == "race" and (not file.search or file.sampler.name != "grid"):
        raise wrong(["tuning"], "race needs search with choices: [...] and sampler: {name: grid}.")
    _check_behind(sweep)
    if file.trials_per_cell and not file.search:
        raise wrong(["trials_per_cell"], "there is nothing to try: search is missing or empty.")


def _check_behind(sweep: Sweep) -> None:
    """A race of a metric needs to know what is far behind; one for a task knows it."""
    file, race = sweep.file, sweep.file.tuning == "race"
    task = race and task_of_sweep(file, sweep.base.resolved()) is not None
    if race and not task and file.behind is None:
        raise sweep.wrong(
            ["tuning"],
            f"race for {file.metric.name}, which is no task to solve: say with behind: how far "
            "behind the best, in its unit, a value is given up after one seed (two to four "
            "standard deviations of a seed), or give stop: {metric, at}.",
        )
    if file.behind is not None and (not race or task):
        raise sweep.wrong(
            ["behind"], "is for tuning: race without a task to solve; drop it, or see tuning."
        )


def _check_range(sweep: Sweep, path: str, span: Range) -> None:
    place: list[str | int] = ["search", path]
    if span.choices is not None:
        if span.low is not None or span.high is not None or not span.choices:
            raise sweep.wrong(place, "give either low and high, or a non-empty list of choices.")
        for number, choice in enumerate(span.choices):
            if choice in span.choices[:number]:
                raise sweep.wrong([*place, "choices", number], f"repeats {choice!r}; drop one.")
        return
    if span.low is None or span.high is None or not span.low < span.high:
        raise sweep.wrong(place, f"low = {span.low} must be below high = {span.high}.")
    if span.log and span.low <= 0:
        raise sweep.wrong(place, f"low = {span.low} must be above 0 on a logarithmic scale.")


def _check_sampler(sweep: Sweep) -> None:
    """A grid tries every combination of choices once: no ranges, and as many trials as points."""
    file = sweep.file
    if file.sampler.name != "grid":
        return
    for path, span in file.search.items():
        if span.choices is None:
            raise sweep.wrong(["search", path], "sampler: grid takes choices: [...], not a range.")
    counts = [len(span.choices or []) for span in file.search.values()]
    if file.design == "search":
        counts += map(len, file.axes.values())
    key = "n_trials" if file.design == "search" else "trials_per_cell"
    given = file.n_trials if file.design == "search" else file.trials_per_cell
    if given and given != prod(counts):
        raise sweep.wrong(
            [key], f"{given}, but the grid has {prod(counts)} points; give that many."
        )


def _check_widen(sweep: Sweep) -> None:
    """Widening goes past the choices of numbers that every row tried; a search has no rows."""
    file = sweep.file
    if not file.widen:
        return
    numbers = [span for span in file.search.values() if len(reachable(span).choices or []) > 2]
    if not numbers or file.design == "search" or file.sampler.name != "grid":
        raise sweep.wrong(
            ["widen"],
            "goes on past choices: [...] of two numbers or more, all tried in every row; give "
            "search such choices and sampler: {name: grid}, in a design with named rows.",
        )


def _check_pruner(sweep: Sweep) -> None:
    """Being overtaken is about when a row's trials solve their task."""
    file = sweep.file
    if file.pruner.name == "overtaken" and (file.stop is None or file.design == "search"):
        raise sweep.wrong(
            ["pruner", "name"],
            "overtaken gives up a trial that has not solved its task by the time another one of "
            "its row had; it needs stop: {metric, at}, in a design with named rows.",
        )


def _check_match(sweep: Sweep) -> None:
    match = sweep.file.match
    if match is None:
        return
    if (match.params is None) == (match.flops is None):
        raise sweep.wrong(["match"], "give one of params and flops: baseline, or a number.")
    kind, asked = ("params", match.params) if match.flops is None else ("flops", match.flops)
    if asked != "baseline" and not (isinstance(asked, int) and asked > 0):
        raise sweep.wrong(["match", kind], f"{asked!r} is neither baseline nor a positive number.")
    try:
        fraction = float(match.tolerance.removesuffix("%"))
    except ValueError:
        fraction = -1.0
    if not match.tolerance.endswith("%") or not 0 < fraction < 50:
        raise sweep.wrong(["match", "tolerance"], f"{match.tolerance!r} is no share such as 0.5%.")
    require_path(sweep, ["match", "by"], match.by)
    for row, path in match.rows.items():
        require_path(sweep, ["match", "rows", row], path)
        _require_unsearched(sweep, ["match", "rows", row], path)
    for row, paths in match.hold.items():
        for path in paths:
            _require_unsearched(sweep, ["match", "hold", row, path], path)
    _require_unsearched(sweep, ["match", "by"], match.by)
    owners = {
        path: f"axis {axis!r}"
        for axis, choices in sweep.file.axes.items()
        for patch in choices.values()
        for path in patch
    }
    if match.by in owners:
        raise sweep.wrong(
            ["match", "by"], f"{match.by} is set by {owners[match.by]}; free another integer."
        )


def _require_unsearched(sweep: Sweep, place: list[str | int], path: str) -> None:
    """What gives a row its budget is solved once: no trial may set it anew."""
    for searched in sweep.file.search:
        if overlap(path, searched):
            raise sweep.wrong(
                place, f"{path} is set by search: {searched}; free another integer, or drop that."
            )
