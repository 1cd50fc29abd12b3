"""Selective scan in plain torch: the recurrence in chunks, with its own backward.

Autograd through a loop over time keeps every state, T times the size of the output per state
channel. Here only the state at the start of each chunk is kept; the backward recomputes the rest.
The form that is always there: any device, float32 and float64.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32  # steps whose states are held at once [tokens]


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_last)` of the scan; equation and shapes as in `hymba_lab.ops.scan`."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        u, A, B, C, D = (tensor.to(compute) for tensor in (x, A, B, C, D))
        delta = softplus(dt.to(compute) if dt_bias is None else dt.to(compute) + dt_bias)
        if h0 is None:
            h0 = u.new_zeros(x.shape[0], *A.shape)
        y, h_last = _ChunkedScan.apply(  # type: ignore[no-untyped-call]
            u, delta, A, B, C, h0.to(compute)
        )
        y = torch.addcmul(y, u, D)
        if z is not None:
            y = y * F.silu(z.to(compute))
    return y.to(x.dtype), h_last


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h)` after one token: the recurrence written out once."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        u, A, B, C, D, h = (tensor.to(compute) for tensor in (x, A, B, C, D, h))
        delta = softplus(dt.to(compute) if dt_bias is None else dt.to(compute) + dt_bias)
        decay = torch.exp(delta.unsqueeze(-1) * A)
        h = decay * h + (delta * u).unsqueeze(-1) * B.unsqueeze(1)
        y = torch.matmul(h, C.unsqueeze(-1)).squeeze(-1) + u * D
        if z is not None:
            y = y * F.silu(z.to(compute))
    return y.to(x.dtype), h


def softplus(value: Tensor) -> Tensor:
    """log(1 + exp(value)) without the linear cut-off of `F.softplus` (its error there is 2e-9)."""
    return torch.logaddexp(value, torch.zeros_like(value))


class _Chunk(NamedTuple):
    """The inputs of some steps with time in front, so that a step is one dense slice."""

    x: Tensor  # (t, B, D)
    delta: Tensor  # (t, B, D)
    B: Tensor  # (t, B, N)
    C: Tensor  # (t, B, N)


def _chunk(first: int, x: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> _Chunk:
    part = slice(first, first + CHUNK)
    return _Chunk(*(tensor[:, part].transpose(0, 1) for tensor in (x, delta, B, C)))


def _states(chunk: _Chunk, A_t: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The input delta x (t,B,D), the decay and the state after each step (t,B,N,D) of a chunk."""
    drive = chunk.delta * chunk.x
    decay = torch.exp_(chunk.delta.unsqueeze(2) * A_t)
    states = drive.unsqueeze(2) * chunk.B.unsqueeze(3)
    for decay_t, state_t in zip(decay.unbind(), states.unbind(), strict=True):
        h = torch.addcmul(state_t, decay_t, h, out=state_t)
    return drive, decay, states


class _ChunkedScan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t; returns (y, h_last)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        A_t = A.t().contiguous()
        h = h0.transpose(1, 2).contiguous()
        y, starts = torch.empty_like(x), []
        for first in range(0, x.shape[1], CHUNK):
            chunk = _chunk(first, x, delta, B, C)
            starts.append(h)
            _, _, states = _states(chunk, A_t, h)
            h = states[-1].clone()  # a view would keep the whole chunk alive
            y_chunk = torch.matmul(chunk.C.unsqueeze(2), states).squeeze(2)
            y[:, first : first + CHUNK] = y_chunk.transpose(0, 1)
        ctx.save_for_backward(x, delta, A_t, B, C, *starts)
        return y, h.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        grad_y, grad_h_last = grads
        x, delta, A_t, B, C, *starts = ctx.saved_tensors
        grad_A, grad_h = torch.zeros_like(A_t), grad_h_last.transpose(1, 2)
        found = _Chunk(*(torch.empty_like(tensor) for tensor in (x, delta, B, C)))
        with torch.autocast(x.device.type, enabled=False):
            for index in reversed(range(len(starts))):
                part = slice(index * CHUNK, (index + 1) * CHUNK)
                chunk = _chunk(index * CHUNK, x, delta, B, C)
                gy = grad_y[:, part].transpose(0, 1)
                own, grad_A_own, grad_h = _chunk_backward(chunk, gy, A_t, starts[index], grad_h)
                grad_A += grad_A_own
                for whole, piece in zip(found, own, strict=True):
                    whole[:, part] = piece.transpose(0, 1)
        grad_h0 = grad_h.transpose(1, 2)
        return found.x, found.delta, grad_A.t(), found.B, found.C, grad_h0


def _chunk_backward(
    chunk: _Chunk, gy: Tensor, A_t: Tensor, h: Tensor, grad_h: Tensor
) -> tuple[_Chunk, Tensor, Tensor]:
    """Gradients of a chunk's inputs, of A transposed, and of the state h before the chunk.

    gy (t,B,D) arrives at y, grad_h (B,N,D) at the state after the chunk. The adjoint state
    g_t = C_t gy_t + exp(delta_{t+1} A) g_{t+1} runs backwards in time.
    """
    drive, decay, states = _states(chunk, A_t, h)
    grad_C = torch.matmul(states, gy.unsqueeze(3)).squeeze(3)
    adjoint = gy.unsqueeze(2) * chunk.C.unsqueeze(3)
    adjoint[-1] += grad_h
    steps, decays = adjoint.unbind(), decay.unbind()
    for t in range(len(steps) - 2, -1, -1):
        torch.addcmul(steps[t], decays[t + 1], steps[t + 1], out=steps[t])
    grad_B = torch.matmul(adjoint, drive.unsqueeze(3)).squeeze(3)
    grad_drive = torch.matmul(chunk.B.unsqueeze(2), adjoint).squeeze(2)
    carried = adjoint.mul_(decay)
    grad_h = carried[0].clone()
    carried[1:].mul_(states[:-1])
    carried[0].mul_(h)  # now the gradient of delta_t A
    grad_A = (carried * chunk.delta.unsqueeze(2)).sum((0, 1))
    grad_delta = carried.mul_(A_t).sum(2).addcmul_(grad_drive, chunk.x)
    return _Chunk(grad_drive * chunk.delta, grad_delta, grad_B, grad_C), grad_A, grad_h
