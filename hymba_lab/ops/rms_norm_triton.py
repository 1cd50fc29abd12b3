"""RMSNorm as two Triton kernels: rows of 16 or 32 bits, all sums in float32."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops.triton_device import FUSED, even_rows, on

TILE = 2048  # elements of a tile, or one row where that is longer
PROGRAMS = 1024  # of the backward at most: each leaves one row of sums for the weight's gradient


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    x, w, y, scale, n_rows, step, width, eps, BM: tl.constexpr, BD: tl.constexpr
):
    """y = x r w and r = (mean(x^2) + eps)^-1/2, BM rows a program."""
    m, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BD)
    has_m, has_d = m < n_rows, d < width
    inside, m = has_m[:, None] & has_d[None, :], m.to(tl.int64)
    xs = tl.load(x + m[:, None] * step + d[None, :], mask=inside, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(xs * xs, 1) / width + eps)
    tl.store(scale + m, r, mask=has_m)
    ws = tl.load(w + d, mask=has_d, other=0.0).to(tl.float32)
    ys = xs * r[:, None] * ws[None, :]
    tl.store(y + m[:, None] * width + d[None, :], ys.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    dy, x, w, scale, dx, part, n_rows, dy_step, step, width, n_tiles,
    BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """With n = r x: dx = r (dy w - n mean(dy n w)), and of dw = sum_rows dy n this program's part.

    A program takes every so many tiles of BM rows.
    """
    first, stride, d = tl.program_id(0), tl.num_programs(0), tl.arange(0, BD)
    has_d = d < width
    ws = tl.load(w + d, mask=has_d, other=0.0).to(tl.float32)
    sums = tl.zeros((BD,), tl.float32)
    for tile in range(first, n_tiles, stride):
        m = tile * BM + tl.arange(0, BM)
        has_m = m < n_rows
        inside, m = has_m[:, None] & has_d[None, :], m.to(tl.int64)
        at = m[:, None] * step + d[None, :]
        xs = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        dys = tl.load(dy + m[:, None] * dy_step + d[None, :], mask=inside, other=0.0)
        dys, r = dys.to(tl.float32), tl.load(scale + m, mask=has_m, other=0.0)
        n = xs * r[:, None]
        sums += tl.sum(dys * n, 0)
        dn = dys * ws[None, :]
        dxs = r[:, None] * (dn - n * (tl.sum(dn * n, 1) / width)[:, None])
        place = dx + m[:, None] * width + d[None, :]
        tl.store(place, dxs.to(dx.dtype.element_ty), mask=inside)
    tl.store(part + first * width + d, sums, mask=has_d)


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w over the last axis; x, w and one number a row are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return y in `dtype`, contiguous."""
        x, step = even_rows(x)
        width = x.shape[-1]
        n_rows, (rows, block) = x.numel() // width, _tile(width)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        scale = torch.empty(n_rows, dtype=torch.float32, device=x.device)
        with on(x):
            forward[(triton.cdiv(n_rows, rows),)](
                x, w, y, scale, n_rows, step, width, eps, rows, block, **_launch(block)
            )
        ctx.save_for_backward(x, w, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of x, in its type, and of w."""
        x, w, scale = ctx.saved_tensors
        (x, step), (dy, dy_step), width = even_rows(x), even_rows(dy), x.shape[-1]
        rows, block = _tile(width)
        n_tiles = triton.cdiv(len(scale), rows)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        part = scale.new_empty(min(n_tiles, PROGRAMS), width)
        with on(x):
            backward[(len(part),)](
                dy, x, w, scale, dx, part, len(scale), dy_step, step, width, n_tiles,
                rows, block, **_launch(block),
            )  # fmt: skip
        return dx, part.sum(0).to(w.dtype), None, None


def _tile(width: int) -> tuple[int, int]:
    """Rows and columns of a tile, powers of two."""
    block = triton.next_power_of_2(width)
    return max(1, TILE // block), block


def _launch(block: int) -> dict[str, Any]:
    return {"num_warps": 8 if block >= 4096 else 4, **FUSED}
