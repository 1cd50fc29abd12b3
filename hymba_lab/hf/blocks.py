"""Blocks whose activations are computed again in the backward pass, where training asks for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast
from hymba_lab.model.block import Block


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
        if not wanted or past is not NO_PAST:
            return super().forward(x, kv, past)
        y, *made = self._gradient_checkpointing_func(self._flat, x, *(kv or ()))
        return y, (made[0], made[1]) if made else None

    def _flat(self, x: Tensor, *kv: Tensor) -> tuple[Tensor, ...]:
        y, made = super().forward(x, (kv[0], kv[1]) if kv else None)
        return (y, *(made or ()))


def recomputable(block: Block) -> None:
    """Make a block of the lab one that can be computed again; its parameters and order stay."""
    block.__class__ = _recomputed(type(block))


def _recomputed(kind: type[Block]) -> type[Block]:
    """Return the kind of block with the checkpoint in front: its own forward is what is run."""
    if issubclass(RecomputedBlock, kind):
        return RecomputedBlock
    return type(f"Recomputed{kind.__name__}", (RecomputedBlock, kind), {})
