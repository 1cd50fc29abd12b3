"""One run: a configuration and a seed become a trained model and its metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from hymba_lab.atomic import Guard, make_folder
from hymba_lab.checkpoints.weights import FORMAT, save_weights
from hymba_lab.config import Config
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, TrialFailed
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.registry import Spec
from hymba_lab.runs.folder import CHECKPOINT
from hymba_lab.training.checkpoint import RunCheckpointIO
from hymba_lab.training.gauges import Gauges
from hymba_lab.training.logger import Log
from hymba_lab.training.memory import keep_memory
from hymba_lab.training.milestones import Metrics, Milestones, Stop
from hymba_lab.training.module import LitLanguageModel
from hymba_lab.training.progress import ProgressLine
from hymba_lab.training.random_state import seed_all
from hymba_lab.training.ranks import all_ranks
from hymba_lab.training.shards import remove_checkpoint
from hymba_lab.training.start import take_over
from hymba_lab.training.trainer import make_trainer, quiet_lightning, usual_exits
from hymba_lab.training.validation import curve_areas
from hymba_lab.training.world import whole_on_first

# how torch says that memory ran out where it raises no class of its own for it
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class FitResult:
    """What a run measured.

    `metrics` is the last validation and the areas under the validation curves, `history` every
    validation as (finished steps, metrics).
    `seconds` is the time in the loop, sessions before a resume included. `tokens_per_second` is
    from the median step, without validation and saving; NaN when this session made no step.
    """

    metrics: Metrics
    history: list[tuple[int, Metrics]]
    n_steps: int
    stopped: bool
    resumed_from: int
    seconds: float
    tokens_per_second: float
    tokens: int


def fit(
    config: Config,
    *,
    seed: int,
    folder: Path,
    log: Log | None = None,
    stop: Stop | None = None,
    progress: bool = False,
    keep_checkpoint: bool = False,
    mixture: Mixture | None = None,
    guard: Guard | None = None,
) -> FitResult:
    """Train one model, from `folder/last.ckpt` where there is one, and return its metrics.

    Writes `folder/weights.safetensors` at the end; `last.ckpt` is then removed unless
    `keep_checkpoint`, for a caller who has yet to record the result: a finished checkpoint gives
    it again without training. `log(metrics, step)` gets every record, `step` counting finished
    steps; a resumed run repeats the records after its checkpoint. `stop(step, metrics)` is asked
    at every validation and ends the run early. `mixture` saves building the data a second time.
    `guard()` raises where another process has taken the run over; nothing is then written.
    Seeds the global random generators. On a CPU a run is a function of (config, seed, data),
    interrupted or not, to the last bit, with one number of torch threads (1 and 2 agree, more may
    not: sums are split otherwise); on a GPU torch's kernels may differ in the last bits.

    Raises `ConfigError` (budget below one step, parts that do not fit), `DataError`,
    `CheckpointError` (of another run, damaged), `TrialFailed` (nan, out_of_memory, disk).
    """
    require_a_step(config)
    keep_memory()
    make_folder(folder)
    with all_ranks(config, seed=seed, folder=folder) as place, _memory_errors(config):
        mixture = mixture or build_sources(config.data, config.training.seq_len)
        mixture.begin(config.n_steps)
        module = LitLanguageModel(_model(config, seed, mixture, folder), mixture, config, seed)
        milestones = Milestones(folder / CHECKPOINT, stop if place.is_first else None)
        _train(module, milestones, log, progress and place.is_first, guard)
        weights = whole_on_first(module.model.state_dict())
    n_steps = milestones.history[-1][0]
    if place.is_first:
        save_weights(folder / WEIGHTS, weights, _facts(module, n_steps), guard)
        if not keep_checkpoint:
            remove_checkpoint(milestones.checkpoint)
    areas = curve_areas(milestones.history)
    if log and place.is_first:
        log(areas, n_steps)
    return FitResult(
        metrics={**milestones.history[-1][1], **areas},
        history=milestones.history,
        n_steps=n_steps,
        stopped=milestones.stopped,
        resumed_from=milestones.resumed_from,
        seconds=milestones.seconds,
        tokens_per_second=module.tokens_per_step / milestones.seconds_per_step,
        tokens=n_steps * module.tokens_per_step,
    )


def _model(config: Config, seed: int, mixture: Mixture, folder: Path) -> LanguageModel:
    """Return the model of a seed, or with the weights that the run starts from."""
    seed_all(seed)
    model = build_model(config.model, mixture.vocab)
    if config.start_from is not None and not (folder / CHECKPOINT).exists():
        if config.start_path is None:
            raise ConfigError(f"{config.start_from} is no longer there.", "start_from")
        take_over(model, config.start_path)
    return model


def _train(
    module: LitLanguageModel,
    milestones: Milestones,
    log: Log | None,
    progress: bool,
    guard: Guard | None,
) -> None:
    config, path = module.config, milestones.checkpoint
    identity: dict[str, str | int] = {
        "digest": config.digest,
        "seed": module.seed,
        "data": module.mixture.fingerprint,
    }
    callbacks: list[Callback] = [milestones, Gauges(milestones)]
    if progress:
        callbacks.append(ProgressLine(milestones))
    callbacks.append(milestones.leaving)  # what is due after a step comes before
    with quiet_lightning(), usual_exits():
        trainer = make_trainer(
            config.training,
            module.n_steps,
            path.parent,
            callbacks=callbacks,
            checkpoints=RunCheckpointIO(identity, guard),
            log=log,
            world=module.world,
        )
        milestones.leaving.listen(trainer)
        trainer.fit(module, ckpt_path=path if path.exists() else None, weights_only=True)


def require_a_step(config: Config) -> None:
    """Raise `ConfigError` for a budget that pays for none."""
    training = config.training
    if config.n_steps < 1:
        rows = sum(map(_rows, config.data.values()))
        raise ConfigError(
            f"a budget of {training.tokens} tokens pays for no step: one takes {rows} rows * "
            f"{training.seq_len} tokens = {rows * training.seq_len}; give at least that many.",
            "training.tokens",
        )


def _rows(source: Spec) -> int:
    return int(source.options()["rows"])


def _facts(module: LitLanguageModel, n_steps: int) -> dict[str, Any]:
    """Return what one needs to build the model again around its weights."""
    return {
        "format": FORMAT,
        "config": module.config.resolved(),
        "vocab": module.mixture.vocab,
        "data": module.mixture.fingerprint,
        "seed": module.seed,
        "n_steps": n_steps,
    }


@contextmanager
def _memory_errors(config: Config) -> Iterator[None]:
    """Turn every way of running out of memory into `TrialFailed("out_of_memory")`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(
            sign in str(error) for sign in _NO_MEMORY
        ):
            raise
        said = next(iter(str(error).splitlines()), "no memory left")
        rows = ", ".join(f"data.{label}.rows {_rows(spec)}" for label, spec in config.data.items())
        raise TrialFailed(
            "out_of_memory",
            f"{said}; try fewer rows or shorter sequences (now {rows}, training.seq_len "
            f"{config.training.seq_len}), or a smaller model.",
        ) from error
