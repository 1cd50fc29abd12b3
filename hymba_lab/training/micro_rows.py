"""How many rows a device computes at a time, where the configuration leaves that open."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from hymba_lab.config import Config
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.data.source import Mixture
from hymba_lab.training.memory import available_bytes
from hymba_lab.training.parts import TrainParts
from hymba_lab.training.world import World, least

SHARE = 0.85
"""Share of the device's memory that a probe may fill; the rest is for fragments."""


class Trains(Protocol):
    """What is asked of the LightningModule here."""

    config: Config
    mixture: Mixture
    world: World
    seed: int
    trainer: Any

    @property
    def model(self) -> nn.Module:
        """What is trained; cut into shards where the run has them."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    def part_loss(self, part: Any, counts: Any) -> torch.Tensor:
        """Return a part's share of the loss."""
        ...

    def transfer_batch_to_device(self, batch: Any, device: torch.device, loader: int) -> Any:
        """Return the batch on the device."""
        ...

    def zero_grad(self) -> None:
        """Drop the gradients."""
        ...


def rows_at_a_time(module: Trains) -> int | None:
    """Return `training.micro_rows`; "auto" is the most rows, doubling from 1, that fit.

    A GPU tries them, forward and backward; a CPU, where a wrong guess ends the process, estimates.
    All ranks try the same: after each try they agree whether it fitted all of them.
    """
    asked = module.config.training.micro_rows
    if asked != "auto":
        return asked
    most = -(-module.mixture.rows // module.world.n_ranks)
    fits = _fits_on_gpu(module) if module.device.type == "cuda" else _fits_on_cpu(module)
    return doubled(lambda rows: least(int(fits(rows))) == 1, most)


def doubled(fits: Callable[[int], bool], most: int) -> int:
    """Return the last of 1, 2, 4, ... that fits, `most` where all do; at least 1."""
    rows = 1
    while rows < most and fits(min(2 * rows, most)):
        rows = min(2 * rows, most)
    return rows


def moments_to_come(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Return the bytes of the two moments that a first step makes of every parameter here."""
    bare = (
        p
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
        if p not in optimizer.state
    )
    own = (p.to_local() if hasattr(p, "to_local") else p for p in bare)  # of shards this rank's
    return sum(2 * p.numel() * p.element_size() for p in own)


def _fits_on_cpu(module: Trains) -> Callable[[int], bool]:
    training = module.config.training
    row = activation_bytes(
        module.config.model, module.mixture.vocab, training.seq_len, training.precision
    )
    room = SHARE * available_bytes() / module.world.n_local
    return lambda rows: rows * row <= room


def _fits_on_gpu(module: Trains) -> Callable[[int], bool]:
    place, device = module.world, module.device
    to_come = moments_to_come(module.trainer.optimizers)

    def fits(rows: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        one = iter(TrainParts(module.mixture, module.seed, range(1), rank=place.rank,
                              n_ranks=place.n_ranks, micro_rows=rows))  # fmt: skip
        parts, counts = module.transfer_batch_to_device(next(one), device, 0)
        done = computes(module, parts[0], counts)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)  # another process may have its part of the card
        ours = free + torch.cuda.memory_reserved(device)
        return done and torch.cuda.max_memory_allocated(device) + to_come <= SHARE * ours

    return fits


def computes(module: Trains, part: Any, counts: Any) -> bool:
    """Try a part forward and backward; whether memory sufficed. No gradient is left.

    Blocks in shards that were left in the middle of a backward would take part in no later one;
    and the gathered tensors, which are the parameters at that moment, would keep their gradients.
    """
    try:
        with module.trainer.precision_plugin.train_step_context():
            loss = module.part_loss(part, counts)
        loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        if isinstance(module.model, FSDPModule):
            module.zero_grad()
            module.model.reset_iter_state()
        return False
    finally:
        module.zero_grad()
    return True
