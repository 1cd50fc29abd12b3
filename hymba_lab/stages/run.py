"""One stage on the run before it, in a run's folder of its own.

    runs/<identity>/  model/  weights.safetensors  result.json      of a tuned stage
                      evaluation/<task>.json                        of an evaluation

`model/` is what transformers reads, with tokenizer and template; `weights.safetensors` is the same
as every run of the lab has it. A stage that was killed goes on from what stands in its folder.
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymba_lab.config import Config
from hymba_lab.config.stages import EvaluateStage
from hymba_lab.config.start import RUN_WEIGHTS
from hymba_lab.errors import StoreError
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.stages.chain import chain, is_whole
from hymba_lab.training.shards import remove_checkpoint

Log = Callable[[Mapping[str, float], int], None]
MODEL = "model"
_START = "start"


@dataclass(frozen=True)
class Staged:
    """What a run of a chain measured: all that the runs before it did, and its own."""

    metrics: dict[str, float]
    history: list[tuple[int, Mapping[str, float]]]
    n_steps: int
    seconds: float
    tokens_per_second: float
    own: dict[str, Any]
    """What its record says beside the metrics."""


def run_chain(
    config: Config,
    folder: RunFolder,
    *,
    seed: int,
    root: Path,
    fingerprint: str,
    pretrain: Callable[[Config, RunFolder], dict[str, Any]],
    recorded: Callable[[Config, Staged], dict[str, Any]],
    log: Log,
    told: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return the record of the last run, whose folder the caller holds and finishes.

    Runs before it are read back where they are finished, waited for where another process has
    them, and otherwise made here: `pretrain(config, folder)` trains and returns a record,
    `recorded(config, staged)` makes the record of a stage. `log(metrics, step)` gets all metrics,
    steps of a stage behind those before it.
    """
    parts, before = chain(config), None
    for n, part in enumerate(parts[:-1]):
        run = RunFolder(root, run_identity(part, seed, fingerprint))
        with run.locked():
            record = run.result
            if not is_whole(record):
                if before is None:
                    record = pretrain(part, run)
                else:
                    record = recorded(part, _stage(part, run, before, seed, log, told))
                run.finish(record)
                remove_checkpoint(run.checkpoint)
        assert record is not None
        for step, metrics in record["history"] if n == 0 else ():
            log(metrics, step)
        log(record["metrics"], last_step(record))
        before = run
    assert before is not None, "a chain of one has no stages"
    return recorded(config, _stage(config, folder, before, seed, log, told))


def _stage(
    config: Config,
    folder: RunFolder,
    before: RunFolder,
    seed: int,
    log: Log,
    told: Callable[[str], None],
) -> Staged:
    """Run the last stage of a configuration on the run before it."""
    record, begun = before.result, time.monotonic()
    assert record is not None, "the run before is finished"
    label, stage = list(config.stages.items())[-1]
    told(f"stage {label} ({stage.name}), from {before.path}")
    if isinstance(stage, EvaluateStage):
        metrics, own = _evaluated(stage, folder, before, config)
    else:
        metrics, own = _tuned(label, stage, config, folder, before, seed, record, log, told)
    log(metrics, last_step(record) + int(own.get("n_steps", 0)))
    return Staged(
        {**record["metrics"], **metrics},
        record["history"],
        record["n_steps"],
        record["seconds"] + time.monotonic() - begun,
        record["tokens_per_second"],
        {"stage": {"label": label, "from": before.identity, **own}},
    )


def last_step(record: Mapping[str, Any]) -> int:
    """Return the step of the whole chain up to a run."""
    return int(record.get("stage", {}).get("last_step", record["n_steps"]))


def _tuned(
    label: str,
    stage: Any,
    config: Config,
    folder: RunFolder,
    before: RunFolder,
    seed: int,
    record: Mapping[str, Any],
    log: Log,
    told: Callable[[str], None],
) -> tuple[dict[str, float], dict[str, Any]]:
    from hymba_lab.cost.throughput import device_of
    from hymba_lab.finetune.run import finetune

    first = last_step(record)
    start = _start(folder, before, config)

    class Logged:
        """Metrics under the stage's label, behind the steps of the runs before."""

        def log(self, metrics: Mapping[str, float], step: int) -> None:
            log({f"{label}/{name}": value for name, value in metrics.items()}, first + step)

    asked = stage.of(label, start, seed)
    out = folder.path / MODEL
    result = finetune(asked, out, device=device_of(None), told=told, logged=Logged())
    _as_run(out, folder, config, before)
    _remove_start(folder)
    metrics = {f"{label}/{name}": value for name, value in result["metrics"].items()}
    own = {"n_steps": result["n_steps"], "trained": result["trained"],
           "last_step": first + result["n_steps"]}  # fmt: skip
    return metrics, own


def _start(folder: RunFolder, before: RunFolder, config: Config) -> Path:
    """Return the folder to tune: that of the stage before, or the pretrained run written as one."""
    if (before.path / MODEL / "config.json").is_file():
        return before.path / MODEL
    from hymba_lab.finetune.run import quiet
    from hymba_lab.hf.from_run import save_run

    quiet()
    start, aside = folder.path / _START, folder.path / f".{_START}"
    if not start.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        save_run(before.path, aside, [Path(path) for path in config.plugins])
        os.replace(aside, start)
    return start


def _remove_start(folder: RunFolder) -> None:
    """Whole or not there: a kill in between leaves no half of a model to start from."""
    start, aside = folder.path / _START, folder.path / f".{_START}"
    shutil.rmtree(aside, ignore_errors=True)
    if start.is_dir():
        os.replace(start, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _as_run(model: Path, folder: RunFolder, config: Config, before: RunFolder) -> None:
    """Write the tuned weights as those of a run."""
    from hymba_lab.checkpoints.load import load
    from hymba_lab.checkpoints.weights import load_weights, save_weights

    net, _ = load(model, None, texts=False, plugins=[Path(path) for path in config.plugins])
    _, facts = load_weights(before.path / RUN_WEIGHTS)
    guard = folder.lease.require if folder.lease else None
    facts = {**facts, "config": config.resolved()}
    save_weights(folder.path / RUN_WEIGHTS, net.state_dict(), facts, guard)


def _evaluated(
    stage: EvaluateStage, folder: RunFolder, before: RunFolder, config: Config
) -> tuple[dict[str, float], dict[str, Any]]:
    from hymba_lab.evaluation.evaluate import Chat, measured
    from hymba_lab.evaluation.run import metrics_of
    from hymba_lab.evaluation.suites import suite_of

    suite = suite_of(str(stage.options()["suite"]), limit=stage.limit, n_shot=stage.n_shot)
    tuned = before.path / MODEL
    chat = Chat(None, stage.fewshot_as_multiturn) if stage.apply_chat_template else None
    with redirect_stderr(io.StringIO()):  # the harness draws bars, of which a sweep has its own
        records, _ = measured(
            tuned if (tuned / "config.json").is_file() else before.path,
            suite,
            folder.path / "evaluation",
            batch_size=stage.batch_size,
            max_length=stage.max_length,
            bos=stage.bos,
            chat=chat,
            plugins=[Path(path) for path in config.plugins],
        )
    _linked(before.path / RUN_WEIGHTS, folder.path / RUN_WEIGHTS)
    asked = {name: one["asked"] for name, one in records.items()}
    return metrics_of(records), {"evaluation": asked}


def _linked(there: Path, here: Path) -> None:
    """Let the evaluated weights stand in this run, too, without a second copy where that can be."""
    if here.exists():
        return
    try:
        os.link(there, here)
    except OSError:
        try:
            shutil.copyfile(there, here.with_suffix(".partial"))
            os.replace(here.with_suffix(".partial"), here)
        except OSError as error:
            raise StoreError(f"{here}: cannot be written: {error.strerror}.") from None
