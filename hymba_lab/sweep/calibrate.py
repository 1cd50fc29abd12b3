"""How long a step takes here: a few steps of every cell, as a worker would make them."""

import statistics
import time

import torch

from hymba_lab.config import Config
from hymba_lab.data.source import Mixture
from hymba_lab.model import build_model
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.training.memory import keep_memory
from hymba_lab.training.scoring import TrainBatches, batch_loss

_STEPS = 6  # the first is dropped: it pays for allocations


def seconds_per_step(config: Config, mixture: Mixture, n_threads: int) -> float:
    """Return the median time of a training step [s] without Lightning's loop (about 1 ms)."""
    torch.set_num_threads(n_threads)
    keep_memory()
    model = build_model(config.model, mixture.vocab)
    optimizer = optimizers.build(config.optimizer, model)
    times = []
    for batch, counts in TrainBatches(mixture, 0, range(_STEPS)):
        begun = time.perf_counter()
        optimizer.zero_grad()
        batch_loss(model, batch, counts)[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
