"""One stage from its start to a folder that loads: trained, resumed, recorded."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hymba_lab.atomic import give_datasets_a_home, make_folder, of_the_system
from hymba_lab.checkpoints.lab_folder import MODEL_TYPE
from hymba_lab.checkpoints.load import LONGEST
from hymba_lab.config.start import weights_digest
from hymba_lab.config.tuning import COSMETIC, Dpo, Lora, Sft
from hymba_lab.errors import DataError, StoreError, UserError
from hymba_lab.finetune.callbacks import Logged, Logs, last_checkpoint, step_of
from hymba_lab.finetune.place import Place
from hymba_lab.finetune.plan import Plan, plan
from hymba_lab.finetune.prepare import Prepared
from hymba_lab.finetune.records import files
from hymba_lab.finetune.start import Start
from hymba_lab.runs.lock import held
from hymba_lab.runs.mlflow_run import Run
from hymba_lab.runs.tracking import IDENTITY, ROLE, Store, default_uri

EXPERIMENT = "finetune"
Told = Callable[[str], None]


def finetune(
    stage: Sft | Dpo,
    out: Path,
    *,
    root: Path = Path(),
    tracking_uri: str | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    told: Told = print,
    logged: Logged | None = None,
    plugins: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train a stage, or go on with it, into the folder `out`; return its result.

    Metrics go to a run of MLflow's experiment `finetune`, or to `logged` where one is given. A
    folder with the result of the same stage is left as it is. Raises `UserError`s for faults of
    files and folders, `TrialFailed` for a loss that is no number.
    """
    quiet()
    _one_process(device)
    start = Start(Path(stage.model), plugins)
    _outside(out, start.folder)
    asked = asked_of(stage, start)
    make_folder(out.parent, "--out")
    with held(out.parent / f".{out.name}.lock", f"stage {stage.name}"):
        place = Place(out, asked)
        result = place.enter()
        if result is not None:
            told(f"{out}: is there already")
            return result
        planned, data = plan(stage, start)
        for line in planned.lines():
            told(line)
        place.begin()
        run = None if logged else _tracked(stage, asked, planned, root, tracking_uri, told)
        logs = Logs(logged or run, told)
        try:
            result = _trained(stage, start, planned, data, place, device, logs, told)
        except BaseException as error:
            _end(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", told)
            raise
        _end(run, "FINISHED", told)
        return result


def _outside(out: Path, model: Path) -> None:
    """Raise `StoreError` for a folder inside the model's, whose weights the stage is told by."""
    if out.resolve().is_relative_to(model.resolve()):
        raise StoreError(
            f"{out}: lies in the model's folder {model}, all of whose weights say which stage this "
            "is; name a folder outside with --out."
        )


def _one_process(device: torch.device) -> None:
    """Raise `UserError` for several processes, and for a GPU that Trainer would not take."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("finetune: one process trains a stage; start it without torchrun.")
    if device.index not in (None, 0):
        raise UserError(
            f"--device {device}: the first visible GPU is taken; say which that is by "
            f"CUDA_VISIBLE_DEVICES={device.index}."
        )


def asked_of(stage: Sft | Dpo, start: Start) -> dict[str, Any]:
    """Return all that decides what is learned, as JSON."""
    asked = {k: v for k, v in stage.canonical().items() if k not in COSMETIC}
    asked["stage"] = "sft" if isinstance(stage, Sft) else "dpo"
    asked["weights"] = weights_digest(start.folder)
    asked["tokenizer"] = _sha256(start.folder / "tokenizer.json")
    if stage.template not in (None, "plain"):
        asked["template"] = _sha256(Path(str(stage.template)))
    asked["data"]["paths"] = [_sha256(path) for path in files(stage.data.paths)]
    return asked


def _trained(
    stage: Sft | Dpo,
    start: Start,
    planned: Plan,
    data: Prepared,
    place: Place,
    device: torch.device,
    logs: Logs,
    told: Told,
) -> dict[str, Any]:
    from transformers import set_seed

    from hymba_lab.finetune.trainers import trainer_of

    begun = time.monotonic()
    last = last_checkpoint(place.checkpoints)
    set_seed(stage.seed)
    trainer = trainer_of(
        stage, start.load(stage.precision), start.tokenizer, data, planned,
        checkpoints=place.checkpoints, logs=logs, on_cpu=device.type == "cpu",
    )  # fmt: skip
    if last is not None:
        told(f"goes on from {last.name}")
    try:
        _train(trainer, last, planned.n_steps, logs)
        if data.val is not None:
            trainer.evaluate()
    except Exception as error:
        reason = of_the_system(error)
        if reason is None:
            raise
        raise StoreError(
            f"{place.checkpoints}: a checkpoint cannot be written: {reason}; make room and run "
            "the command again: it goes on from the last whole one."
        ) from None
    result = {
        "n_steps": planned.n_steps,
        "metrics": logs.last,
        "trained": planned.share.trained,
        "params": planned.share.total,
        "seconds_since_resume": round(time.monotonic() - begun, 1),
    }
    _remember_longest(trainer.model.config, start, data.longest)
    place.finish(lambda folder: _save(stage, trainer.model, start.tokenizer, folder), result)
    return result


def _train(trainer: Any, last: Path | None, n_steps: int, logs: Logs) -> None:
    """Train from the last checkpoint on; behind the last step Trainer would make another one."""
    from transformers import TrainerState

    if last is None or step_of(last) < n_steps:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        return
    trainer._load_from_checkpoint(str(last))
    trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    logs.recall(trainer.state.log_history)


def _remember_longest(config: Any, start: Start, longest: int) -> None:
    """Note the longest text of the training where positions set no limit."""
    if config.model_type == MODEL_TYPE and start.longest is None:
        setattr(config, LONGEST, max(longest, getattr(config, LONGEST, None) or 0))


def _save(stage: Sft | Dpo, model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model, in released names where it has them, and an adapter beside it."""
    if isinstance(stage.method, Lora):
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        tokenizer.save_pretrained(folder / "adapter")
        if not stage.method.merge:
            return
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tracked(
    stage: Sft | Dpo,
    asked: dict[str, Any],
    planned: Plan,
    root: Path,
    tracking_uri: str | None,
    told: Told,
) -> Run | None:
    """Return the MLflow run of the stage, the same one when it goes on; None without a store."""
    identity = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    try:
        store = Store(tracking_uri or default_uri(root), root)
        experiment = store.experiment(EXPERIMENT)
        run = store.open_run(experiment, stage.name, identity, {ROLE: "finetune"})
        params = {
            "stage": asked["stage"], "method": stage.method.name, "lr": stage.lr,
            "rows": stage.rows, "seq_len": stage.seq_len, "steps": planned.n_steps,
            "tokens": planned.n_tokens, "trained": planned.share.trained, "seed": stage.seed,
        }  # fmt: skip
        run.describe(params, {IDENTITY: identity, "hymba_lab.model": stage.model})
    except StoreError as error:
        told(f"not in MLflow: {error}")
        return None
    return run


def _end(run: Run | None, status: str, told: Told) -> None:
    """Close the MLflow run; a store that refuses changes nothing about the folder."""
    if run is None:
        return
    try:
        run.end(status)
    except StoreError as error:
        told(f"not closed in MLflow: {error}")


def quiet() -> None:
    """Let the libraries below print faults only: the lines of a stage are its own."""
    with suppress(DataError):  # nothing is kept here: an evaluation after it says what is missing
        give_datasets_a_home()
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # TRL and peft still ask under the name that transformers has replaced
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}.") from None
