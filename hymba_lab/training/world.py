"""How many processes train one model, which of them this is, and what they agree on.

Read from the environment that `torchrun` sets, and `hymba_lab.training.ranks` for a run that
starts its own; one process alone is rank 0 of 1.
"""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those of a run: `n_local` of them on this machine."""

    rank: int
    n_ranks: int
    n_local: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """Return the place of this process."""
    n_ranks = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if n_ranks == 1:
        return World(0, 1, 1)
    return World(int(os.environ["RANK"]), n_ranks, int(os.environ.get("LOCAL_WORLD_SIZE", n_ranks)))


def agreed(value: T) -> T:
    """Return what rank 0 says, on every rank; all ranks must ask."""
    if not _connected():
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def on_any_rank(flag: bool) -> bool:
    """Return whether some rank says so, on every rank; all ranks must ask."""
    return bool(least(int(not flag)) == 0) if _connected() else flag


def least(value: int) -> int:
    """Return the least number that a rank says; all ranks must ask."""
    if not _connected():
        return value
    numbers: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(numbers, value)
    return min(number for number in numbers if number is not None)


def summed(tensor: Tensor) -> Tensor:
    """Return the sum over all ranks of a tensor that each of them has; all ranks must ask."""
    if not _connected():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def whole(value: T) -> T:
    """Return nested data with every sharded tensor in one piece, on the CPU; all ranks must ask."""
    return _mapped(value, lambda t: t.full_tensor().cpu() if isinstance(t, DTensor) else t)


def sharded_like(value: T, like: Tensor) -> T:
    """Return nested data with the tensors of the shape of `like` sharded as it is."""
    if not isinstance(like, DTensor):
        return value

    def share(tensor: Tensor) -> Tensor:
        if tensor.shape != like.shape or isinstance(tensor, DTensor):
            return tensor
        there = tensor.to(like.device)
        return distribute_tensor(there, like.device_mesh, like.placements)

    return _mapped(value, share)


def _mapped(value: T, change: "object") -> T:
    if isinstance(value, Tensor):
        return change(value)  # type: ignore[operator, no-any-return]
    if isinstance(value, dict):
        return {k: _mapped(v, change) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [_mapped(v, change) for v in value]  # type: ignore[return-value]
    return value


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
