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

from hymba_lab.errors import LaunchError

T = TypeVar("T")
_BY_TORCHRUN = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


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
    """Return the place of this process; `LaunchError` for an environment that names none."""
    n_ranks = _number("WORLD_SIZE", 1, least=1) if "RANK" in os.environ else 1
    if n_ranks == 1:
        return World(0, 1, 1)
    missing = [name for name in _BY_TORCHRUN if name not in os.environ]
    if missing:
        raise LaunchError(
            f"RANK and WORLD_SIZE={n_ranks} are set, {' and '.join(missing)} not; start the ranks "
            "with torchrun, which sets them all, or unset RANK to train alone."
        )
    n_local = _number("LOCAL_WORLD_SIZE", n_ranks, least=1)
    _number("LOCAL_RANK", 0, below=n_local)
    return World(_number("RANK", 0, below=n_ranks), n_ranks, n_local)


def _number(name: str, default: int, *, least: int = 0, below: int = 1 << 20) -> int:
    """Return a number that the environment gives."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) < below:
        raise LaunchError(
            f"{name}={text} is no whole number from {least} to {below - 1}; start the ranks with "
            "torchrun, which sets it, or unset RANK to train alone."
        )
    return int(text)


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
    return min(gathered([value]))


def gathered(values: list[T]) -> list[T]:
    """Return what all ranks say, one after another; all ranks must ask."""
    if not _connected():
        return values
    said: list[list[T]] = [[]] * dist.get_world_size()
    dist.all_gather_object(said, values)
    return [one for of_rank in said for one in of_rank]


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


def whole_on_first(value: T) -> T:
    """Return the same on the first rank, which writes it; elsewhere shapes alone; all must ask.

    Eight ranks of one machine would hold eight copies of a checkpoint, of which one is written.
    """

    def on_first(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if dist.get_rank() == 0 else full.to("meta")

    return _mapped(value, on_first)


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
