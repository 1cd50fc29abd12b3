"""How long a step takes here: a few steps of every cell, as a worker would make them."""

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch

from hymba_lab.config import Config
from hymba_lab.data.source import Mixture
from hymba_lab.model import build_model
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.training.memory import keep_memory
from hymba_lab.training.scoring import TrainBatches, batch_loss

_ROUND = 5  # steps of which a median is taken
_MOST = 6  # rounds, where no two of them agree
_ALIKE = 0.05  # medians this near each other have settled


class Timing(NamedTuple):
    """The time of a training step [s], and whether two rounds of steps agreed on it."""

    seconds: float
    settled: bool


def time_of_step(config: Config, mixture: Mixture, n_threads: int) -> Timing:
    """Return the time of a training step without Lightning's loop (about 1 ms).

    Rounds of steps are made until the medians of two in a row are within 5 % of each other.
    """
    torch.set_num_threads(n_threads)
    keep_memory()
    model = build_model(config.model, mixture.vocab)
    optimizer = optimizers.build(config.optimizer, model)

    def steps() -> Iterator[float]:
        for batch, counts in TrainBatches(mixture, 0, range(1 + _MOST * _ROUND)):
            begun = time.perf_counter()
            optimizer.zero_grad()
            batch_loss(model, batch, counts)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield time.perf_counter() - begun

    return settled(islice(steps(), 1, None))  # the first pays for allocations


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
