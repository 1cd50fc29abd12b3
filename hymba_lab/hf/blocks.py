"""Blocks whose activations are computed again in the backward pass, where training asks for it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast
from hymba_lab.model.block import AllParallel, Block, OneByOne


class RecomputedBlock(Block):
    """The same block; transformers switches `gradient_checkpointing` and gives the function.

    Keys and values go through it as tensors of their own: they carry gradients from the layers that
    read them to the layer that made them, in either mode of torch's checkpoint.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        """Return what `Block` returns."""
        wanted = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if not wanted or (past is not NO_PAST and self._is_reentrant):
            return super().forward(x, kv, past)
        again = partial(self._flat, past)
        y, *made = self._gradient_checkpointing_func(again, x, *(kv or ()))
        return y, (made[0], made[1]) if made else None

    @property
    def _is_reentrant(self) -> bool:
        """Whether gradients stop at what does not go in as an argument, as first values do not."""
        return bool(getattr(self._gradient_checkpointing_func, "keywords", {}).get("use_reentrant"))

    def _flat(self, past: LayerPast, x: Tensor, *kv: Tensor) -> tuple[Tensor, ...]:
        y, made = super().forward(x, (kv[0], kv[1]) if kv else None, past)
        return (y, *(made or ()))


class RecomputedAllParallel(RecomputedBlock, AllParallel):
    """The same of an `AllParallel` block."""


class RecomputedOneByOne(RecomputedBlock, OneByOne):
    """The same of an `OneByOne` block."""


# named here once: device maps ask for the names of what is never split
_RECOMPUTED: dict[type[Block], type[RecomputedBlock]] = {
    Block: RecomputedBlock,
    AllParallel: RecomputedAllParallel,
    OneByOne: RecomputedOneByOne,
}
NAMES = [kind.__name__ for kind in _RECOMPUTED.values()]


def recomputable(block: Block) -> None:
    """Make a block of the lab one that can be computed again; its parameters and order stay."""
    block.__class__ = _RECOMPUTED.get(type(block), type(block))
