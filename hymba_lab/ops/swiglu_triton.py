"""SwiGLU's gate as two Triton kernels: one pass over memory forward, one backward."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops.triton_device import FUSED, on
from hymba_lab.ops.triton_tiles import sigmoid

BLOCK = 1024  # elements of a program


@triton.jit
def forward(gate, up, y, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """y = silu(gate) up."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + i, mask=i < n, other=0.0).to(tl.float32)
    u = tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(y + i, (g * sigmoid(g) * u).to(y.dtype.element_ty), mask=i < n)


@triton.jit
def backward(dy, gate, up, d_gate, d_up, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """d_up = dy silu(gate);  d_gate = dy up (s + gate s (1 - s)),  s = sigmoid(gate)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = tl.load(dy + i, mask=i < n, other=0.0).to(tl.float32)
    g = tl.load(gate + i, mask=i < n, other=0.0).to(tl.float32)
    u = tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
    s = sigmoid(g)
    to_gate = d * u * (s + g * s * (1.0 - s))
    tl.store(d_up + i, (d * g * s).to(d_up.dtype.element_ty), mask=i < n)
    tl.store(d_gate + i, to_gate.to(d_gate.dtype.element_ty), mask=i < n)


class SwiGLU(torch.autograd.Function):
    """y = silu(gate) up, of one shape and type; only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Return y, contiguous."""
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        ctx.save_for_backward(gate, up)
        with on(gate):
            forward[_grid(gate)](gate, up, y, gate.numel(), BLOCK, **FUSED)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        with on(gate):
            backward[_grid(gate)](
                dy.contiguous(), gate, up, d_gate, d_up, gate.numel(), BLOCK, **FUSED
            )
        return d_gate, d_up


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)
