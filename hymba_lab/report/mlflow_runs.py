"""From a sweep's runs in MLflow to its export: the same frame as from the runs' folders."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.errors import StoreError, UserError, suggest
from hymba_lab.report.find import is_called
from hymba_lab.runs.tracking import STAGE, Store, param_name
from hymba_lab.sweep.export import (
    Facts,
    Resolved,
    curve,
    curve_metrics,
    curves_csv,
    facts_json,
    parse_export,
    parse_json,
    scale_of,
    sweep_of,
    to_csv,
)
from hymba_lab.sweep.question.designs import design_choices, row_label
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.solving import batch_tokens, solving_facts
from hymba_lab.sweep.tuned import NAME as TUNING
from hymba_lab.tables.columns import COSTS

_TAGS = {  # column of the frame -> tag of the run
    "identity": "hymba_lab.identity",
    "data_fingerprint": "hymba_lab.data",
    "tokens": "hymba_lab.tokens",
    "code_version": "hymba_lab.code_version",
    "scale": "hymba_lab.scale",
    "commit": "mlflow.source.git.commit",
    "dirty": "hymba_lab.dirty",
    "tokens_per_second": "hymba_lab.tokens_per_second",
    "seconds": "hymba_lab.seconds",
}


_RESOLVED = "sweep.resolved.json"
Course = list[tuple[int, dict[str, float]]]


def export_from(uri: str, names: Sequence[str], results: Path) -> list[str]:
    """Write the exports of these sweeps (none named: of all) into `results`; return their names.

    Raises `StoreError` for a store that is not there, `UserError` for a sweep that is not in it.
    """
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("sqlite:///") and not file.is_file():
        raise StoreError(f"tracking store {uri}: no such file; name another with --tracking-uri.")
    store = Store(uri, Path())
    there = store.sweeps()
    wanted = [] if names else list(there)
    for name in names:
        own = [known for known in there if is_called(known, name, _scale(store, there[known]))]
        if not own:
            raise UserError(f"{uri}: no experiment of a sweep {name!r}{suggest(name, there)}")
        wanted += own
    if not wanted:
        raise UserError(f"{uri}: no sweep has written to it; run one first.")
    for name in dict.fromkeys(wanted):
        texts = export_texts(store, there[name], name)
        make_folder(results / name, "--results")
        for file_name, text in texts.items():
            write_atomically(results / name / file_name, text)
    return list(dict.fromkeys(wanted))


def _scale(store: Store, experiment: str) -> str:
    return scale_of(store.attached(experiment, (_RESOLVED,)).get(_RESOLVED, ""))


def export_texts(store: Store, experiment: str, name: str) -> dict[str, str]:
    """Return the export's files, made from the experiment's runs and what its sweep attached."""
    attached = store.attached(experiment, ("sweep.resolved.json", "export.json", TUNING))
    if "sweep.resolved.json" not in attached:
        raise StoreError(f"experiment {name!r}: its sweep attached no sweep.resolved.json.")
    where = Path(name) / "sweep.resolved.json"
    resolved = parse_json(Resolved, where, attached["sweep.resolved.json"])
    file, per_step = (
        resolved.sweep,
        batch_tokens(resolved.base["data"], resolved.base["training"]["seq_len"]),
    )
    trials = list(store.runs_by_identity(experiment).values())
    found = [
        (line, history)
        for run in trials
        if run.data.tags.get(STAGE) == "seed"
        for line, history in [_read(store, file, run, per_step)]
    ]
    lines = [line for line, _ in found]
    _refuse_strangers(name, file, lines)
    _refuse_doubles(name, lines)
    runs = sorted([*lines, *_absent(file, lines)], key=partial(_place, file))
    curves = (
        line
        for own, history in sorted(found, key=lambda pair: _place(file, pair[0]))
        for line in curve(own["row"], own["seed"], history, curve_metrics(file), per_step)
    )
    own = sweep_of(name, str(resolved.base.get("scale", "")))
    texts = {
        "export.json": attached.get("export.json") or facts_json(_facts(file, own, runs, trials)),
        "sweep.resolved.json": attached["sweep.resolved.json"],
        "runs.csv": to_csv(pd.DataFrame(runs)),
        "curves.csv": curves_csv(curves),
        **({TUNING: attached[TUNING]} if TUNING in attached else {}),
    }
    parse_export(Path(name), texts)
    return texts


def _refuse_strangers(name: str, file: SweepFile, lines: Sequence[Mapping[str, Any]]) -> None:
    """Rows and seeds that the sweep no longer has, or another sweep of this name."""
    if file.design == "search":
        return
    rows = set(design_choices(file))
    seeds = set(file.seeds) if file.looks is None else {s for own, _ in file.looks for s in own}
    for line in lines:
        if line["row"] not in rows or line["seed"] not in seeds:
            raise UserError(
                f"experiment {name!r} holds a run of {line['row']!r} seed {line['seed']}, identity "
                f"{line['identity'][:12]}, which its sweep does not have: the sweep was changed, "
                "or another one of this name wrote to the store. Delete the runs that do not "
                "count, or report from the export."
            )


def _refuse_doubles(name: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """A changed sweep leaves its old runs in the experiment; nobody guesses which ones count."""
    seen: dict[tuple[str, int], str] = {}
    for line in lines:
        other = seen.setdefault((line["row"], line["seed"]), line["identity"])
        if other != line["identity"]:
            raise UserError(
                f"experiment {name!r} holds two runs of {line['row']!r} seed {line['seed']}, "
                f"identities {other[:12]} and {line['identity'][:12]}: the sweep was changed in "
                "between. Delete the runs that no longer count, or report from the export."
            )


def _read(store: Store, file: SweepFile, run: Any, per_step: int) -> tuple[dict[str, Any], Course]:
    """Return a run's line and the course of its metrics, empty for one that did not finish."""
    line = _line(file, run)
    if line["status"] != "finished":
        return line, []
    found: dict[int, dict[str, float]] = {}
    for metric in curve_metrics(file):
        for step, value in store.course(run.info.run_id, metric):
            found.setdefault(step, {})[metric] = value
    history = sorted(found.items())
    record = {"history": history, "n_steps": max(found, default=0)}
    return {**line, **solving_facts(record, per_step, file.stop)}, history


def _line(file: SweepFile, run: Any) -> dict[str, Any]:
    params, tags = run.data.params, run.data.tags
    needed = ["row", "seed", *map(param_name, file.axes)]
    if absent := [one for one in needed if one not in params]:
        raise UserError(
            f"MLflow run {run.info.run_id} ({run.info.run_name}) has no {', '.join(absent)}: it "
            "was mirrored before the sweep had these, or could not be. Delete it and run the sweep "
            "again, which mirrors it anew, or report from the export."
        )
    tuned = {path: _value(params[path]) for path in file.search if path in params}
    status, reason = _state(run)
    return {
        "row": row_label(file.design, params["row"], tuned),
        **{axis: params[param_name(axis)] for axis in file.axes},
        "seed": int(params["seed"]),
        "status": status,
        "reason": reason,
        **tuned,
        **{cost: float(params.get(cost, "nan")) for cost in COSTS},
        **{column: tags.get(tag, "") for column, tag in _TAGS.items()},
        **{key: value for key, value in run.data.metrics.items() if _measures(file, key)},
    }


def _measures(file: SweepFile, key: str) -> bool:
    """Whether it is a metric of the finished model, not of a training step or of the machine."""
    return key.startswith(("val/", "eval/")) or key in curve_metrics(file)


def _state(run: Any) -> tuple[str, str]:
    tags, ended = run.data.tags, run.info.status
    if ended == "FAILED":
        return "failed", tags.get("hymba_lab.failure", "").partition(":")[0]
    if ended == "FINISHED":
        return tags.get("hymba_lab.status", "finished"), ""
    return "missing", f"its run is {ended.lower()}"


def _absent(file: SweepFile, lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a line for every planned run that is not in the store (a search plans none)."""
    if file.design == "search":
        return
    there = {(line["row"], line["seed"]) for line in lines}
    known = {line["row"]: {cost: line[cost] for cost in COSTS} for line in lines}
    nothing = {**dict.fromkeys(_TAGS, ""), **dict.fromkeys(COSTS, math.nan)}
    for row, choice in design_choices(file).items():
        for seed in file.seeds:
            if (row, seed) not in there:
                why = {"status": "missing", "reason": "not in the store"}
                yield {"row": row, **choice, "seed": seed, **why, **nothing, **known.get(row, {})}


def _place(file: SweepFile, line: Mapping[str, Any]) -> tuple[int, int]:
    """Return where a line belongs: rows as in the sweep's file, the baseline first, then seeds."""
    rows = list(design_choices(file))
    if line["row"] == (file.baseline or rows[0]):
        return -1, line["seed"]
    return rows.index(line["row"]) if line["row"] in rows else len(rows), line["seed"]


def _facts(
    file: SweepFile, sweep: str, runs: Sequence[Mapping[str, Any]], trials: Sequence[Any]
) -> Facts:
    """Return what the runs tell by themselves: the sweep has not come to its own export yet."""
    seconds: dict[str, float] = {}
    for run in trials:
        if "hymba_lab.seconds" in run.data.tags:
            compared = run.data.tags.get(STAGE) == "seed"
            stage = "of compared runs" if compared else "of tuning"
            told = float(run.data.tags["hymba_lab.seconds"])
            seconds[stage] = seconds.get(stage, 0.0) + told
    hardware = {run.data.tags.get("hymba_lab.hardware", "") for run in trials} - {""}
    return Facts(
        command=f"python -m hymba_lab.sweep sweeps/{sweep}.yaml --out results",
        baseline=file.baseline or str(runs[0]["row"]),
        hardware=sorted(hardware),
        hours={stage: round(told / 3600, 4) for stage, told in sorted(seconds.items())},
        notes=["Made from the runs in MLflow before the sweep had written its own notes."],
    )  # fmt: skip


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
