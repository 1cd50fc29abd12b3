"""Selective scan in plain torch: the recurrence in chunks, with its own backward.

Autograd through a loop over time keeps every state, T times the size of the output per state
channel. Here only the state at the start of each chunk is kept; the backward recomputes the rest.
The form that is always there: any device, float32 and float64.
"""

from typing import Any

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
        y, h_last = _ChunkedScan.apply(u, delta, A, B, C, h0.to(compute))
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


def _states(
    x: Tensor, delta: Tensor, A_t: Tensor, B: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The chunk's input delta*x (t,B,D), decay (t,B,N,D) and states after each step (t,B,N,D)."""
    step = delta.transpose(0, 1)
    drive = step * x.transpose(0, 1)
    decay = torch.exp_(step.unsqueeze(2) * A_t)
    states = drive.unsqueeze(2) * B.transpose(0, 1).unsqueeze(3)
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
        y = torch.empty_like(x)
        starts = []
        for first in range(0, x.shape[1], CHUNK):
            chunk = slice(first, first + CHUNK)
            starts.append(h)
            _, _, states = _states(x[:, chunk], delta[:, chunk], A_t, B[:, chunk], h)
            h = states[-1].clone()
            read = C[:, chunk].transpose(0, 1).unsqueeze(2)
            y[:, chunk] = torch.matmul(read, states).squeeze(2).transpose(0, 1)
        ctx.save_for_backward(x, delta, A_t, B, C, *starts)
        return y, h.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        grad_y, grad_h_last = grads
        x, delta, A_t, B, C, *starts = ctx.saved_tensors
        grad_x, grad_delta = torch.empty_like(x), torch.empty_like(delta)
        grad_B, grad_C, grad_A = torch.empty_like(B), torch.empty_like(C), torch.zeros_like(A_t)
        grad_h = grad_h_last.transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            for index in reversed(range(len(starts))):
                chunk = slice(index * CHUNK, (index + 1) * CHUNK)
                parts = [tensor[:, chunk] for tensor in (x, delta, B, C, grad_y)]
                found = _chunk_backward(*parts, A_t, starts[index], grad_h)
                grad_x[:, chunk], grad_delta[:, chunk], grad_B[:, chunk], grad_C[:, chunk] = found[
                    :4
                ]
                grad_A += found[4]
                grad_h = found[5]
        return grad_x, grad_delta, grad_A.t(), grad_B, grad_C, grad_h.transpose(1, 2)


def _chunk_backward(
    x: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    grad_y: Tensor,
    A_t: Tensor,
    h: Tensor,
    grad_h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of one chunk: (x, delta, B, C, A transposed, state before the chunk).

    The adjoint state g_t = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1} runs backwards in time.
    """
    drive, decay, states = _states(x, delta, A_t, B, h)
    gy = grad_y.transpose(0, 1)
    grad_C = torch.matmul(states, gy.unsqueeze(3)).squeeze(3)
    adjoint = gy.unsqueeze(2) * C.transpose(0, 1).unsqueeze(3)
    adjoint[-1] += grad_h
    later, decay_later = None, None
    for adjoint_t, decay_t in zip(
        reversed(adjoint.unbind()), reversed(decay.unbind()), strict=True
    ):
        if later is not None:
            torch.addcmul(adjoint_t, decay_later, later, out=adjoint_t)
        later, decay_later = adjoint_t, decay_t
    grad_B = torch.matmul(adjoint, drive.unsqueeze(3)).squeeze(3)
    grad_drive = torch.matmul(B.transpose(0, 1).unsqueeze(2), adjoint).squeeze(2)
    carried = adjoint.mul_(decay)
    grad_h = carried[0].clone()
    carried[1:].mul_(states[:-1])
    carried[0].mul_(h)  # from here `carried` is the gradient of delta_t A
    step = delta.transpose(0, 1)
    grad_A = (carried * step.unsqueeze(2)).sum((0, 1))
    grad_delta = carried.mul_(A_t).sum(2).addcmul_(grad_drive, x.transpose(0, 1))
    to_batch = [t.transpose(0, 1) for t in (grad_drive * step, grad_delta, grad_B, grad_C)]
    return to_batch[0], to_batch[1], to_batch[2], to_batch[3], grad_A, grad_h
