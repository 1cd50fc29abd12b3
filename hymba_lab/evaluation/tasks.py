"""The harness's tasks of a suite, with their data: offline unless told otherwise."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hymba_lab.atomic import give_datasets_a_home
from hymba_lab.errors import DataError, UserError
from hymba_lab.evaluation.suites import Asked, Suite, check_no_code


def load_tasks(suite: Suite, *, download: bool = False, run_code: bool = False) -> dict[str, Any]:
    """Return what the harness evaluates for every task of a suite, by the task's name.

    Data come from the task's own files, which in a user's folder may lie beside the task file, or
    from the cache of `datasets`; only with `download` is anything fetched. Task files of the user's
    own run no code unless `run_code`: neither what `!function` names, nor what
    a template could reach.

    Raises `DataError` over all tasks whose data are missing, `UserError` for a broken task file.
    """
    if suite.own is not None and not run_code:
        check_no_code(suite.own)
    with _offline(not download):
        import datasets
        import lm_eval.tasks
        import lm_eval.utils
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from lm_eval.tasks import TaskManager

        datasets.disable_progress_bars()
        for name in ("lm_eval", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if not run_code:  # templates stand in task files: they may format, not reach the system
            given = lm_eval.utils.env
            guarded = ImmutableSandboxedEnvironment(loader=given.loader, undefined=given.undefined)
            guarded.filters |= given.filters
            lm_eval.utils.env = guarded
        below = Path(lm_eval.tasks.__file__).parent
        places = {suite.own or below / one.folder for one in suite.asked}
        manager = TaskManager(include_defaults=False, include_path=sorted(places))
        return _built(suite, manager)


def _built(suite: Suite, manager: Any) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for one in suite.asked:
        try:
            tasks[one.task] = manager.load([_beside_its_file(one.task, manager, suite.own)])
        except (ConnectionError, FileNotFoundError, OSError) as error:
            faults[one.task] = _first(error)
        except Exception as error:  # a task file may break in any way; the harness checks little
            if _is_missing(error):
                faults[one.task] = _first(error)
                continue
            where = f"{suite.own or 'the harness'}: task {one.task}"
            raise UserError(f"{where} cannot be made: {_first(error)}.") from error
    if faults:
        raise DataError(_missing(suite, faults))
    return tasks


def _beside_its_file(name: str, manager: Any, own: Path | None) -> Any:
    """Return what to load: the task, or it with its data files as they lie beside its own."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(name)
    settings = getattr(entry, "cfg", None) or {}
    given = settings.get("dataset_kwargs") or {}
    if own is None or getattr(entry, "yaml_path", None) is None or "group" in settings:
        return name
    files = given.get("data_files")
    found = _placed(files, Path(entry.yaml_path).parent)
    if found == files:
        return name
    whole = load_yaml(entry.yaml_path)  # an override alone is not joined with the file
    return {**whole, "dataset_kwargs": {**given, "data_files": found}}


def _placed(files: Any, folder: Path) -> Any:
    """Return data files with those that lie in `folder`, and not where the command runs, named."""
    if isinstance(files, dict):
        return {split: _placed(one, folder) for split, one in files.items()}
    if isinstance(files, list):
        return [_placed(one, folder) for one in files]
    beside = isinstance(files, str) and not Path(files).exists() and (folder / files).is_file()
    return str(folder / files) if beside else files


def _missing(suite: Suite, faults: dict[str, str]) -> str:
    said = "\n  ".join(f"{task}: {fault}" for task, fault in faults.items())
    return (
        f"the data of {len(faults)} task(s) are neither in files nor in the cache of datasets:\n  "
        f"{said}\nfetch them once, with a network: hymba-lab evaluate --suite {suite.name} "
        "--download"
    )


def _is_missing(error: Exception) -> bool:
    known = ("OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFoundError")
    return type(error).__name__ in known or "Couldn't find cache" in str(error)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Let `datasets` and the hub's client fetch nothing, imported already or not."""
    give_datasets_a_home()
    names = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    if wanted:
        os.environ.update(dict.fromkeys(names, "1"))
    import datasets.config
    import huggingface_hub.constants

    switches = [(datasets.config, "HF_DATASETS_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE"),
                (huggingface_hub.constants, "HF_HUB_OFFLINE")]  # fmt: skip
    kept = [(place, name, getattr(place, name, None)) for place, name in switches]
    try:
        if wanted:
            for place, name, _ in kept:
                setattr(place, name, True)
        yield
    finally:
        for place, name, value in kept:
            setattr(place, name, value)
        for name, text in before.items():
            os.environ.pop(name, None) if text is None else os.environ.update({name: text})


def n_questions(task: Any, one: Asked) -> int:
    """Return how many questions a loaded task asks."""
    total = sum(len(member.eval_docs) for member in task["tasks"].values())
    members = max(1, len(task["tasks"]))
    return total if one.limit is None else min(total, one.limit * members)
