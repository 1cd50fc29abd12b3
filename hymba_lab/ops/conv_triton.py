"""The causal convolution as Triton kernels: one forward, two backward.

The backward first makes g, the gradient before SiLU, with the sums of dw and db, then dx from g.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops.triton_device import FUSED, on, unit_stride
from hymba_lab.ops.triton_tiles import channels, sigmoid

STEPS, CHANNELS = 32, 64  # of a tile
SUMS = {"BT": 16, "BD": 64, "num_warps": 2}  # a thread has all steps of a channel: sums stay in it


@triton.jit
def before_silu(  # type: ignore[no-untyped-def]
    x, w, b, t, d, has_d, T, x_t, TAPS: tl.constexpr, BIAS: tl.constexpr
):
    """bias + sum_k w_k x_{t-TAPS+1+k} for a tile (steps, channels) of one row."""
    total = tl.zeros((t.shape[0], d.shape[0]), tl.float32)
    if BIAS:
        total += tl.load(b + d, mask=has_d, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(TAPS):
        at = t - (TAPS - 1) + k
        seen = (at >= 0) & (at < T)
        xs = tl.load(x + at.to(tl.int64)[:, None] * x_t + d[None, :],
                     mask=seen[:, None] & has_d[None, :], other=0.0)  # fmt: skip
        wk = tl.load(w + d * TAPS + k, mask=has_d, other=0.0).to(tl.float32)
        total += wk[None, :] * xs.to(tl.float32)
    return total


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    x, w, b, y, T, n_channels, x_b, x_t,
    TAPS: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """y = silu(before_silu(x)), or without SiLU."""
    d, t = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1) * BT + tl.arange(0, BT)
    row, has_d = tl.program_id(2).to(tl.int64), d < n_channels
    total = before_silu(x + row * x_b, w, b, t, d, has_d, T, x_t, TAPS, BIAS)
    if SILU:
        total *= sigmoid(total)
    place = y + (row * T + t)[:, None] * n_channels + d[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=(t < T)[:, None] & has_d[None, :])


@triton.jit
def backward_sums(  # type: ignore[no-untyped-def]
    dy, x, w, b, g, part, T, n_channels, dy_b, dy_t, x_b, x_t,
    TAPS: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """g = dy silu'(before_silu(x)); part (TAPS + 1, D): this tile's sums of g x_{t-TAPS+1+k}, g."""
    d, t = channels(BD), tl.program_id(1) * BT + tl.arange(0, BT)
    row, has_d = tl.program_id(2).to(tl.int64), d < n_channels
    inside, x = (t < T)[:, None] & has_d[None, :], x + row * x_b
    at = dy + row * dy_b + t.to(tl.int64)[:, None] * dy_t + d[None, :]
    gs = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        total = before_silu(x, w, b, t, d, has_d, T, x_t, TAPS, BIAS)
        s = sigmoid(total)
        gs *= s * (1.0 + total * (1.0 - s))
    tl.store(g + (row * T + t)[:, None] * n_channels + d[None, :], gs.to(g.dtype.element_ty),
             mask=inside)  # fmt: skip
    tile = row * tl.num_programs(1) + tl.program_id(1)
    to = part + tile * (TAPS + 1) * n_channels + d
    for k in tl.static_range(TAPS):
        at_x = t - (TAPS - 1) + k
        seen = (at_x >= 0)[:, None] & inside
        xs = tl.load(x + at_x.to(tl.int64)[:, None] * x_t + d[None, :], mask=seen, other=0.0)
        tl.store(to + k * n_channels, tl.sum(gs * xs.to(tl.float32), 0), mask=has_d)
    tl.store(to + TAPS * n_channels, tl.sum(gs, 0), mask=has_d)


@triton.jit
def backward_x(  # type: ignore[no-untyped-def]
    g, w, dx, T, n_channels, TAPS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr
):
    """dx_t = sum_k w_k g_{t+TAPS-1-k}."""
    d, t = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1) * BT + tl.arange(0, BT)
    row, has_d = tl.program_id(2).to(tl.int64), d < n_channels
    total = tl.zeros((BT, BD), tl.float32)
    for k in tl.static_range(TAPS):
        later = t + (TAPS - 1 - k)
        gs = tl.load(g + (row * T + later)[:, None] * n_channels + d[None, :],
                     mask=(later < T)[:, None] & has_d[None, :], other=0.0)  # fmt: skip
        wk = tl.load(w + d * TAPS + k, mask=has_d, other=0.0).to(tl.float32)
        total += wk[None, :] * gs.to(tl.float32)
    place = dx + (row * T + t)[:, None] * n_channels + d[None, :]
    tl.store(place, total.to(dx.dtype.element_ty), mask=(t < T)[:, None] & has_d[None, :])


class CausalConv(torch.autograd.Function):
    """From the zero state: x (B, T, D), w (D, K), b (D,) or None; only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, silu: bool) -> Tensor:
        """Return y (B, T, D), contiguous, in the type of x."""
        x, w = unit_stride(x), w.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        with on(x):
            forward[_grid(x)](
                x, w, x if b is None else b, y, *x.shape[1:], *x.stride()[:2],
                w.shape[1], b is not None, silu, STEPS, CHANNELS, **FUSED,
            )  # fmt: skip
        ctx.save_for_backward(x, w, b)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Return the gradients of x, w and b."""
        (x, w, b), dy = ctx.saved_tensors, unit_stride(dy)
        taps, grid, sums = w.shape[1], _grid(x), _grid(x, SUMS["BT"], SUMS["BD"])
        g, dx = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        part = x.new_empty(sums[1] * sums[2], taps + 1, x.shape[2], dtype=torch.float32)
        with on(x):
            backward_sums[sums](
                dy, x, w, x if b is None else b, g, part, *x.shape[1:], *dy.stride()[:2],
                *x.stride()[:2], taps, b is not None, ctx.silu, **SUMS, **FUSED,
            )  # fmt: skip
            backward_x[grid](g, w, dx, *x.shape[1:], taps, STEPS, CHANNELS, **FUSED)
        total = part.sum(0)
        return dx, total[:-1].t().to(w.dtype), None if b is None else total[-1].to(b.dtype), None


def _grid(x: Tensor, steps: int = STEPS, width: int = CHANNELS) -> tuple[int, int, int]:
    n_rows, n_tokens, n_channels = x.shape
    return triton.cdiv(n_channels, width), triton.cdiv(n_tokens, steps), n_rows
