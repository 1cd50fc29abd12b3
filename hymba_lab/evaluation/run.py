"""A suite on a model, task by task: each finished task is a file, and is not asked again."""

import hashlib
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hymba_lab.atomic import json_of, make_folder, write_atomically
from hymba_lab.config.stages import contents_of
from hymba_lab.evaluation.blind import blind_guess
from hymba_lab.evaluation.harness_model import HarnessModel
from hymba_lab.evaluation.suites import Asked, Suite
from hymba_lab.evaluation.tasks import load_tasks, n_questions
from hymba_lab.tables.numbers import GUESS

SEED = 1234  # the harness's own, for the draw of examples
BOOTSTRAPS = 1000  # draws for the standard error of what is no mean

Record = dict[str, Any]


def run_suite(
    model: HarnessModel,
    suite: Suite,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    download: bool = False,
    run_code: bool = False,
    keep_samples: bool = False,
    told: Callable[[Asked, Record, float | None], None] = lambda one, record, left: None,
) -> dict[str, Record]:
    """Return the record of every task, and write it to `folder/<task>.json` as soon as it is done.

    `facts` are what a result depends on beside the task (weights, precision, longest text), as the
    contents of task files of the user's own: a record with the same facts is read back, one with
    others is kept as `<task>.<digest>.json`. `told` hears of every task, and of the seconds left
    by the speed so far. Raises what `load_tasks` raises, before anything is computed.
    """
    import lm_eval

    found: dict[str, Record] = {}
    own = {} if suite.own is None else {"contents": contents_of(suite.own)}
    wanted = {
        one.task: {"task": one.task, "n_shot": one.n_shot, "limit": one.limit,
                   "lm_eval": lm_eval.__version__, **own, **facts}
        for one in suite.asked
    }  # fmt: skip
    done = {
        one.task: _finished(folder, one.task, wanted[one.task], keep_samples)
        for one in suite.asked
    }  # fmt: skip
    missing = [one for one in suite.asked if done[one.task] is None]
    tasks = load_tasks(suite._replace(asked=tuple(missing)), download=download, run_code=run_code)
    sizes = {one.task: n_questions(tasks[one.task], one) for one in missing}
    started, asked = time.monotonic(), 0
    for one in suite.asked:
        record = done[one.task]
        if record is None:
            record = _evaluated(model, tasks[one.task], one, wanted[one.task])
            _keep(folder, one.task, record, keep_samples)
            asked += sizes.pop(one.task)
        speed = asked / (time.monotonic() - started) if asked else None
        told(one, record, sum(sizes.values()) / speed if speed else None)
        found[one.task] = record
    return found


def _evaluated(model: HarnessModel, task: Any, one: Asked, wanted: Record) -> Record:
    """Return the record of one task; the seeds are those of the harness's own command."""
    from lm_eval.evaluator import evaluate

    started, cut_before = time.monotonic(), model.n_cut
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    for member in task["tasks"].values():
        own = member.get_config("num_fewshot")
        if own is None or (one.n_shot is not None and own != 0):  # a task may insist on none
            member.set_config(key="num_fewshot", value=one.n_shot or 0)
        member.set_fewshot_seed(seed=SEED)
    results = evaluate(
        model, task, limit=one.limit, bootstrap_iters=BOOTSTRAPS, log_samples=True, verbosity=None,
        apply_chat_template=model.template is not None,
        fewshot_as_multiturn=bool(wanted.get("chat", {}).get("multiturn")),
    )  # fmt: skip
    assert results is not None, "one process evaluates"
    return {
        "asked": wanted,
        "metrics": _metrics(results),
        "guess": _guesses(results),
        "n_questions": {name: n["effective"] for name, n in results["n-samples"].items()},
        "n_shot": results.get("n-shot", {}),
        "versions": results.get("versions", {}),
        "note": one.note,
        "n_cut": model.n_cut - cut_before,
        "seconds": time.monotonic() - started,
        "samples": [sample for part in results["samples"].values() for sample in part],
    }


def _metrics(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return metric and standard error by task or group: `acc,none` becomes `acc`."""
    found: dict[str, dict[str, float]] = {}
    for task, values in results["results"].items():
        mine = found.setdefault(task, {})
        for key, value in values.items():
            name, _, kind = key.partition(",")
            if isinstance(value, int | float) and kind and math.isfinite(value):
                mine[_named(name, kind)] = float(value)
        for name in [name for name in mine if "_stderr" not in name]:
            of = [sample[name] for sample in results["samples"].get(task, ()) if name in sample]
            if f"{name}_stderr" not in mine and len(of) > 1 and _is_mean(of, mine[name]):
                mine[f"{name}_stderr"] = statistics.stdev(of) / math.sqrt(len(of))
    return {task: values for task, values in found.items() if values}


def _named(metric: str, kind: str) -> str:
    """Return `acc`, or `acc-<filter>`; of a standard error `..._stderr` stays the end."""
    bare = metric.removesuffix("_stderr")
    return bare + ("" if kind == "none" else f"-{kind}") + metric[len(bare) :]


def _guesses(results: Mapping[str, Any]) -> dict[str, float]:
    """Return what one answer to every question reaches, by task; groups are told by their parts."""
    found = {task: blind_guess(samples) for task, samples in results["samples"].items()}
    return {task: value for task, value in found.items() if not math.isnan(value)}


def _is_mean(of: list[Any], value: float) -> bool:
    """Return whether a metric is the mean of its samples: of others the error is not known here."""
    numbers = all(isinstance(one, int | float) for one in of)
    return numbers and math.isclose(statistics.fmean(of), value, rel_tol=1e-9, abs_tol=1e-12)


def metrics_of(records: Mapping[str, Record]) -> dict[str, float]:
    """Return every metric as `eval/<task>/<metric>`, standard errors as `..._stderr`.

    `eval/<task>/guess` is the share right by one answer to all questions, where that is known.
    """
    found: dict[str, float] = {}
    for record in records.values():
        for task, values in record["metrics"].items():
            found |= {f"eval/{task}/{name}": value for name, value in values.items()}
        for task, value in record.get("guess", {}).items():
            found[f"eval/{task}/{GUESS}"] = value
    return found


def _finished(folder: Path, task: str, wanted: Record, with_samples: bool) -> Record | None:
    """Return the record that answers what is asked now, the newest one of the task or another."""
    for stem in (task, f"{task}.{_digest(wanted)}"):
        if with_samples and not (folder / f"{stem}.samples.jsonl").is_file():
            continue
        record = _read(folder / f"{stem}.json")
        if record is not None and record.get("asked") == wanted:
            return record
    return None


def _keep(folder: Path, task: str, record: Record, with_samples: bool) -> None:
    """Write a record, and its samples before it; what was asked otherwise before is put aside."""
    make_folder(folder, "--out")
    samples = record.pop("samples")
    before = _read(folder / f"{task}.json")
    if before is not None and before.get("asked") != record["asked"]:
        for end in ("samples.jsonl", "json"):
            if (folder / f"{task}.{end}").is_file():
                aside = folder / f"{task}.{_digest(before.get('asked'))}.{end}"
                os.replace(folder / f"{task}.{end}", aside)
    if with_samples:
        lines = (json.dumps(sample, default=str) for sample in samples)
        write_atomically(folder / f"{task}.samples.jsonl", "\n".join(lines) + "\n")
    write_atomically(folder / f"{task}.json", json.dumps(record, indent=1))


def _digest(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _read(path: Path) -> Record | None:
    try:
        record = json_of(path)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("metrics"), dict) else None
