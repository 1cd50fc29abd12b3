"""Mamba-2's recurrence, the state space dual (arXiv:2405.21060): one decay per head and token.

    h_t = e^log_decay_t h_{t-1} + B_t x_t^T        y_t = h_t^T C_t

x, y (B, T, H, P), x already times its step; log_decay (B, T, H), at most 0; B, C (B, T, G, N), a
group for H / G heads; h (B, H, N, P). B batch, T time, H heads, P channels of a head, N states a
channel, G groups. Computed in float32, in float64 where x is float64.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import chunks, fla, flops
from hymba_lab.ops.decays import HeadDecay
from hymba_lab.ops.recurrence import checked, computed
from hymba_lab.ops.selection import Implementation, Operation


def ssd(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_T)`, both differentiable; `state` is the state before, zero when None.

    A token with x = 0 and log_decay = 0 leaves the state as it is. Raises `ValueError` for shapes
    that do not fit.
    """
    n_batch, n_time, n_heads, width = x.shape
    n_groups, n_states = B.shape[2:]
    shape = (n_batch, n_heads, n_states, width)
    groups = (n_batch, n_time, n_groups, n_states)
    expected = {"log_decay": x.shape[:3], "B": groups, "C": groups, "state": shape}
    given = {"log_decay": log_decay, "B": B, "C": C, "state": state}
    checked("SSD", "x", x, given, expected)
    if n_heads % n_groups:
        raise ValueError(f"SSD: {n_groups} groups of B and C do not divide {n_heads} heads")
    if x.is_meta:
        inputs = [tensor for tensor in (x, log_decay, B, C, state) if tensor is not None]
        return flops.recurrence(x, inputs, n_states, flops.LINEAR_FLOPS)
    with torch.autocast(x.device.type, enabled=False):
        run = _in_torch if n_time == 1 else SSD.run(x, B)
        y, last = run(x, log_decay, B, C, state)
    return y.to(x.dtype), last


def _in_torch(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token, or chunks of them, in the precision of the sums."""
    h = x.new_zeros(len(x), x.shape[2], B.shape[3], x.shape[3]) if state is None else state
    run: Any = _step if x.shape[1] == 1 else _Chunked.apply
    y, last = run(*computed(x.dtype, x, log_decay, B, C, h))
    return y, last


def _step(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence written out once."""
    heads = x.shape[2] // B.shape[2]
    B, C = (t[:, 0].repeat_interleave(heads, dim=1) for t in (B, C))
    h = log_decay[:, 0, :, None, None].exp() * h + B.unsqueeze(3) * x[:, 0].unsqueeze(2)
    return (C.unsqueeze(2) @ h).transpose(1, 2), h


class _Parts:
    """The inputs by chunks, (n, M, C, width) with M = batch x heads, and the decays between them.

    B and C are (n, B, G, 1, C, N): the heads of a group read the same.
    """

    def __init__(self, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> None:
        n_chunk = chunks.length(x.shape[1], HeadDecay.longest)
        self.x = chunks.split(x, n_chunk)
        self.decay = HeadDecay(chunks.split(log_decay.unsqueeze(3), n_chunk))
        narrow = (len(self.x), len(B), B.shape[2], 1, n_chunk, B.shape[3])
        self.B, self.C = (chunks.split(t, n_chunk).view(narrow) for t in (B, C))
        self.by_group = (*narrow[:3], x.shape[2] // B.shape[2])  # (n, B, G, E)

    def to_heads(self, t: Tensor, factor: Tensor) -> Tensor:
        """Return t (n, B, G, 1, C, W) times a factor (n, M, C, 1 or W) of every head."""
        return (factor.view(*self.by_group, *factor.shape[2:]) * t).flatten(1, 3)

    def to_groups(self, t: Tensor, factor: Tensor) -> Tensor:
        """Return the sum of t times a factor, (n, M, C, W), over a group's heads; t is lost."""
        return t.mul_(factor).view(*self.by_group, *t.shape[2:]).sum(3, keepdim=True)

    def weights(self) -> Tensor:
        """Return C B^T times the decays (n, M, C, C)."""
        return self.to_heads(self.C @ self.B.mT, self.decay.between)


class _Chunked(torch.autograd.Function):
    """With g the running sum of log_decay inside a chunk that begins with the state h:

        y = (C B^T * L) x + e^g C h,  L_ij = e^(g_i - g_j), i >= j
        h' = e^(g_C) h + (e^(g_C - g) B)^T x

    Kept for the backward are inputs, outputs and the state before each chunk. The gradient of g is
    y dy - x dx: y grows with e^g, and x counts as if divided by it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        part = _Parts(x, log_decay, B, C)
        written = part.to_heads(part.B, part.decay.to_end).mT @ part.x
        states = _through_chunks(written, part.decay.whole, state.flatten(0, 1))
        y = part.to_heads(part.C, part.decay.since_start) @ states[:-1]
        y.flatten(0, 1).baddbmm_(part.weights().flatten(0, 1), part.x.flatten(0, 1))
        y = chunks.join(y, *x.shape[:2])
        ctx.save_for_backward(x, log_decay, B, C, y, states)
        return y, states[-1].view_as(state).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        x, log_decay, B, C, y, states = ctx.saved_tensors
        part = _Parts(x, log_decay, B, C)
        decay, dy = part.decay, chunks.split(grad_y, part.x.shape[2])
        read = part.to_heads(part.C, decay.since_start).mT @ dy
        ends = _through_chunks(read, decay.whole, grad_last.flatten(0, 1), backwards=True)
        dx = part.to_heads(part.B, decay.to_end) @ ends[1:]
        dx.flatten(0, 1).baddbmm_(part.weights().flatten(0, 1).mT, dy.flatten(0, 1))
        dscores = part.to_groups(dy @ part.x.mT, decay.between)
        dC = dscores @ part.B + part.to_groups(dy @ states[:-1].mT, decay.since_start)
        dB = dscores.mT @ part.C + part.to_groups(part.x @ ends[1:].mT, decay.to_end)
        dx = chunks.join(dx, *x.shape[:2])
        dg = chunks.split(((y * grad_y).sum(3) - (x * dx).sum(3)).unsqueeze(3), part.x.shape[2])
        at_end = (ends[1:] * states[1:]).sum((2, 3))[..., None, None]
        dg = dg.flip(2).cumsum(2).flip(2) + at_end
        dB, dC = (chunks.join(t.flatten(1, 3), *x.shape[:2]) for t in (dB, dC))
        return dx, chunks.join(dg, *x.shape[:2]).squeeze(3), dB, dC, ends[0].view_as(grad_last)


def _through_chunks(
    added: Tensor, whole: Tensor, given: Tensor, *, backwards: bool = False
) -> Tensor:
    """Return the n + 1 states (n + 1, M, N, P) between chunks: `whole` times the last plus `added`.

    The first is given; backwards the last one is, and the chunks are passed from the end.
    """
    n = len(added)
    states = added.new_empty(n + 1, *given.shape)
    states[n if backwards else 0] = given
    for i in reversed(range(n)) if backwards else range(n):
        before, after = (i + 1, i) if backwards else (i, i + 1)
        torch.addcmul(added[i], whole[i], states[before], out=states[after])
    return states


SSD = Operation(
    "ssd",
    "Mamba-2's recurrence",
    "HYMBA_LAB_SSD",
    {
        "fla": Implementation(
            fla.ssd,
            "the Triton kernels of flash-linear-attention",
            "CUDA tensors, float32 or 16 bits, at most 256 states a channel",
            fla.missing,
            fla.fits,
            devices=("cuda",),
        ),
        "torch": Implementation(_in_torch, "chunks in plain torch"),
    },
)
