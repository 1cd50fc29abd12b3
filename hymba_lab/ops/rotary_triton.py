"""Rotary positions as one Triton kernel: one pass over memory; its backward turns back."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops.triton_device import FUSED, on

TILE = 2048  # pairs of a program


@triton.jit
def turn(  # type: ignore[no-untyped-def]
    x, cos, sin, y, x_b, x_h, x_t, y_b, y_h, y_t, n_heads, n_tokens, sign, width: tl.constexpr,
    HALF: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Pair (a, b) -> (a cos - b sin, b cos + a sin); of the tables (T, 2 width) the second half."""
    t, p = tl.program_id(1) * BT + tl.arange(0, BT), tl.arange(0, HALF)
    row = tl.program_id(0)  # rows times heads may pass 65,535, the most of the other axes
    batch, head = (row // n_heads).to(tl.int64), (row % n_heads).to(tl.int64)
    inside = (t < n_tokens)[:, None] & (p < width)[None, :]
    angle = t[:, None] * (2 * width) + width + p[None, :]
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0) * sign
    at = x + batch * x_b + head * x_h + t.to(tl.int64)[:, None] * x_t + p[None, :]
    a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    to = y + batch * y_b + head * y_h + t.to(tl.int64)[:, None] * y_t + p[None, :]
    tl.store(to, (a * c - b * s).to(y.dtype.element_ty), mask=inside)
    tl.store(to + width, (b * c + a * s).to(y.dtype.element_ty), mask=inside)


class Rotation(torch.autograd.Function):
    """x (B, H, T, P) by the tables cos, sin (T, P) of `rotary.rope_table`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return y (B, H, T, P); the heads of a token lie together in it."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x; the tables have none."""
        cos, sin = ctx.saved_tensors
        return _turn(dy, cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    x = x if x.stride(3) == 1 else x.contiguous()
    n_rows, n_heads, n_tokens, d_head = x.shape
    y = x.new_empty(n_rows, n_tokens, n_heads, d_head).transpose(1, 2)
    half = triton.next_power_of_2(d_head // 2)
    tokens = max(1, TILE // half)
    with on(x):
        turn[n_rows * n_heads, triton.cdiv(n_tokens, tokens)](
            x, cos.contiguous(), sin.contiguous(), y, *x.stride()[:3], *y.stride()[:3],
            n_heads, n_tokens, sign, d_head // 2, half, tokens, **FUSED,
        )  # fmt: skip
    return y
