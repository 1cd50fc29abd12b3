"""The Trainer as every run uses it: silent, its exits turned into errors."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hymba_lab.config import TrainingConfig
from hymba_lab.training.checkpoint import RunCheckpointIO
from hymba_lab.training.logger import FunctionLogger, Log
from hymba_lab.training.parallel import strategy_of
from hymba_lab.training.world import World

# bf16-true: FSDP2 rounds float32 weights for the computation, so Lightning has nothing to convert
_PRECISION = {"fp32": "32-true", "bf16-mixed": "bf16-mixed", "bf16-true": "32-true"}


def make_trainer(
    training: TrainingConfig,
    n_steps: int,
    folder: Path,
    *,
    callbacks: list[Callback],
    checkpoints: RunCheckpointIO,
    log: Log | None,
    world: World,
) -> Trainer:
    """Return a Trainer that makes `n_steps` steps and leaves all else to the callbacks.

    The environment is named, so that a Trainer inside a cluster job starts no job step of its own;
    the ranks are there already. Only rank 0 logs.
    """
    alone = world.n_ranks == 1
    return Trainer(
        max_steps=n_steps,
        max_epochs=-1,  # the steps alone say when to end
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # "auto" takes Apple's first,
        # which has no float64
        precision=_PRECISION[training.precision],  # type: ignore[arg-type]
        gradient_clip_val=training.grad_clip,
        devices=world.n_local,
        num_nodes=world.n_ranks // world.n_local,
        strategy=strategy_of(training, world),
        logger=False if log is None or not world.is_first else FunctionLogger(log),
        callbacks=callbacks,
        plugins=[checkpoints, LightningEnvironment() if alone else TorchElasticEnvironment()],
        default_root_dir=folder,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep what Lightning says about itself (devices, tips) off the terminal."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # lightning 2.6 makes a LeafSpec in the way that torch 2.13 deprecates
            warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
            # fit() without a checkpoint looks for Slurm's even where the environment is named, and
            # says on every login node that srun is there and not used
            warnings.filterwarnings("ignore", r"The `srun` command is available", UserWarning)
            # torch.compile about its own inside, which names nothing that could be changed here
            warnings.filterwarnings("ignore", r".*torch.jit.script_method", DeprecationWarning)
            warnings.filterwarnings("ignore", r"The .grad attribute of a Tensor", UserWarning)
            # nothing of ours changes what a block or `features` returns in place
            warnings.filterwarnings(
                "ignore", r"FSDP2-wrapped module .* returned a view", UserWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def usual_exits() -> Iterator[None]:
    """Let Ctrl-C arrive as KeyboardInterrupt and SIGTERM, after its step, end with status 143.

    The Trainer makes of them an exit with status 1 and with 0, which would read as success.
    """
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise error.__context__ from None
