"""The gradient of a scan that is a custom op, by a second op that computes it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

N_INPUTS = 9  # x, dt, A, B, C, D, z, dt_bias, h0


def attach(forward: Any, backward: Callable[..., list[Tensor]]) -> None:
    """Make `forward(*inputs, keep, *options) -> (y, h_last, starts)` differentiable.

    `starts`, the states that the backward begins from, has no gradient of its own.
    `backward(grad_y, grad_h_last, *inputs, starts, *options)` returns a gradient per input, empty
    for one that was None.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, *ctx.options = inputs[N_INPUTS:]
        ctx.save_for_backward(*inputs[:N_INPUTS], output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # zeros for all states that were kept

    def differentiate(
        ctx: Any, grad_y: Tensor | None, grad_h_last: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, _, A = saved[:3]
        grad_y = torch.zeros_like(x) if grad_y is None else grad_y
        if grad_h_last is None:
            grad_h_last = x.new_zeros((len(x), *A.shape), dtype=torch.float32)
        grads = backward(grad_y, grad_h_last, *saved, *ctx.options)
        pairs = zip(saved[:N_INPUTS], grads, strict=True)
        kept = [grad if tensor is not None else None for tensor, grad in pairs]
        return *kept, None, *(None for _ in ctx.options)

    forward.register_autograd(differentiate, setup_context=save)


def gradient_shapes(grad_y: Tensor, grad_h_last: Tensor, *saved: Any) -> list[Tensor]:
    """Return what such a `backward` returns, without its values."""
    return [
        grad_y.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in saved[:N_INPUTS]
    ]
