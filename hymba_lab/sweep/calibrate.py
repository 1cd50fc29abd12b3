"""How long a step takes here: a few steps of every cell, as a run makes them."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer

from hymba_lab.config import Config
from hymba_lab.data.source import Mixture
from hymba_lab.model import build_model
from hymba_lab.training.checkpoint import RunCheckpointIO
from hymba_lab.training.memory import keep_memory
from hymba_lab.training.module import LitLanguageModel
from hymba_lab.training.random_state import seed_all
from hymba_lab.training.trainer import make_trainer, quiet_lightning, usual_exits

_ROUND = 5  # steps of which a median is taken
_MOST = 6  # rounds, where no two of them agree
_ALIKE = 0.05  # medians this near each other have settled


class Timing(NamedTuple):
    """The time of a training step [s], and whether two rounds of steps agreed on it."""

    seconds: float
    settled: bool


def time_of_step(config: Config, mixture: Mixture, n_threads: int) -> Timing:
    """Return the time of a training step, by the Trainer, device and precision of a run.

    Rounds of steps are made until the medians of two in a row are within 5 % of each other. Where
    a run takes several devices, one makes its steps here and the time is divided by their number:
    what they say to each other is not in it.
    """
    torch.set_num_threads(n_threads)
    keep_memory()
    n_devices = config.training.devices
    alone = config.training.model_copy(update={"devices": 1})
    config = config.model_copy(update={"training": alone})
    mixture.begin(config.n_steps)
    seed_all(0)
    module = LitLanguageModel(build_model(config.model, mixture.vocab), mixture, config, seed=0)
    module.n_steps = 1 + _MOST * _ROUND  # also of a run that makes fewer
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_lightning(), usual_exits():
        trainer = make_trainer(
            config.training,
            module.n_steps,
            Path(folder),
            callbacks=[clock],
            checkpoints=RunCheckpointIO({}, None),
            log=None,
            world=module.world,
        )
        trainer.fit(module)
    found = settled(clock.seconds)
    return Timing(found.seconds / n_devices, found.settled)


class _Clock(Callback):
    """Takes the time from the end of a step to the end of the next, and ends once it has settled.

    The first step is not timed: it pays for allocations, compiled blocks, recorded graphs.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._mark: float | None = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Note one step's time."""
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds.append(now - self._mark)
            whole_round = len(self.seconds) % _ROUND == 0
            trainer.should_stop = whole_round and settled(self.seconds).settled
        self._mark = now


def settled(times: Iterable[float]) -> Timing:
    """Return the median of the last round, from as few rounds as agree."""
    before, source = float("nan"), iter(times)
    while taken := list(islice(source, _ROUND)):
        now = statistics.median(taken)
        if abs(now - before) <= _ALIKE * now:
            return Timing(now, True)
        before = now
    return Timing(before, False)


def load() -> str:
    """Say how busy the machine was before the measurement, and where that is too much for it."""
    running, n_cores = os.getloadavg()[0], os.cpu_count() or 1
    said = f"Measured while about {running:.1f} other processes ran on {n_cores} cores"
    return f"{said}." if running <= n_cores - 1 else f"{said}: the speeds of a busy machine."
