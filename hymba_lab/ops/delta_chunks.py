"""The delta rule by chunks of tokens, with a backward of its own (`delta_rule` has the equation).

Inside a chunk that begins with the state S, with g the running sum of the log decays:

    A_ij = beta_i (k_i . k_j) e^(g_i - g_j), i > j         P_ij = (q_i . k_j) e^(g_i - g_j), i >= j
    u = (1 + A)^-1 beta (v - e^g k S)                       what the tokens really write
    o = e^g q S + P u                                       S' = e^(g_C) S + (e^(g_C - g) k)^T u

Gated linear attention has no A and writes u = v. Kept for the backward are the inputs, the inverse
and the state before each chunk, where autograd would keep every product. The gradient of g is
q dq + k dk'' - k dk', where k'' reads the state (its decay grows with g) and k' writes it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import chunks
from hymba_lab.ops.decays import ChannelDecay, Decay, HeadDecay


class _Parts(NamedTuple):
    """The inputs by chunks, each (n, M, C, width), M = batch x heads."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor | None

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None) -> "_Parts":
        n_chunk = chunks.length(q.shape[1], _decay_type(g).longest)
        q, k, v, g = (chunks.split(tensor, n_chunk) for tensor in (q, k, v, g))
        return cls(q, k, v, g, None if beta is None else chunks.split(beta.unsqueeze(-1), n_chunk))


def _decay_type(log_decay: Tensor) -> type[Decay]:
    return HeadDecay if log_decay.shape[-1] == 1 else ChannelDecay


def by_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return o and the last state of inputs in one precision, shapes as in `delta_rule`."""
    o, last = _Chunked.apply(q, k, v, log_decay, beta, state)  # type: ignore[no-untyped-call]
    return o, last


class _Chunked(torch.autograd.Function):
    """(q, k, v, log_decay, beta or None, S_0) -> (o, S_T)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        part = _Parts.of(q, k, v, g, beta)
        decay = _decay_type(g)(part.log_decay)
        inverse = None if part.beta is None else _inverse(decay, part.k, part.beta)
        written, starts, last = _written(part, decay, inverse, state.flatten(0, 1))
        scores = decay.scores(part.q, part.k).tril_()
        o = torch.matmul(part.q * decay.since_start, starts) + scores @ written
        ctx.save_for_backward(q, k, v, g, beta, inverse, written, starts, last)
        return chunks.join(o, *v.shape[:2]), last.view_as(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, g, beta, inverse, written, starts, last = ctx.saved_tensors
        part = _Parts.of(q, k, v, g, beta)
        decay = _decay_type(g)(part.log_decay)
        do = chunks.split(grad_o, part.q.shape[2])
        du, ends, grad_state = _through_time(part, decay, inverse, do, grad_last.flatten(0, 1))
        dP = (do @ written.mT).tril_()
        dq, dk_write = decay.scores_backward(dP, part.q, part.k)
        dq += decay.since_start * (do @ starts.mT)
        dk_write += decay.to_end * (written @ ends.mT)
        dv, dbeta, dk_read = du, None, torch.zeros_like(dk_write)
        if inverse is not None:
            dv, dbeta, dk_read, more = _correction(part, decay, inverse, written, starts, du)
            dk_write += more
        after = torch.cat([starts[1:], last.unsqueeze(0)])
        dg = part.q * dq + part.k * (dk_read - dk_write)
        at_end = (ends * after).sum(-1).unsqueeze(-2)
        if g.shape[-1] == 1:
            dg, at_end = dg.sum(-1, keepdim=True), at_end.sum(-1, keepdim=True)
        dg = dg.flip(-2).cumsum(-2).flip(-2).add_(at_end)
        found = [chunks.join(t, *v.shape[:2]) for t in (dq, dk_read + dk_write, dv, dg)]
        found_beta = None if dbeta is None else chunks.join(dbeta, *v.shape[:2]).squeeze(-1)
        return *found, found_beta, grad_state.view_as(grad_last)


def _inverse(decay: Decay, k: Tensor, beta: Tensor) -> Tensor:
    """Return (1 + A)^-1 (n, M, C, C): A is strictly lower, so the solution never divides."""
    one = torch.eye(k.shape[2], dtype=k.dtype, device=k.device)
    A = decay.scores(k, k).mul_(beta).tril_(-1).add_(one)
    found: Tensor = torch.linalg.solve_triangular(
        A, one.expand_as(A), upper=False, unitriangular=True
    )
    return found


def _reads(part: _Parts, decay: Decay, inverse: Tensor) -> Tensor:
    """Return (1 + A)^-1 beta e^g k: u falls by this times the state before the chunk."""
    assert part.beta is not None
    read: Tensor = (part.k * decay.since_start).mul_(part.beta)
    return inverse @ read


def _written(
    part: _Parts, decay: Decay, inverse: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return u (n, M, C, V), the states before each chunk (n, M, K, V) and after the last."""
    written, reads = part.v, None
    if inverse is not None and part.beta is not None:
        written, reads = inverse @ (part.beta * part.v), _reads(part, decay, inverse)
    kept = (part.k * decay.to_end).mT
    starts = state.new_empty(len(kept), *state.shape)
    for i, start in enumerate(starts.unbind()):
        start.copy_(state)
        if reads is not None:
            written[i].baddbmm_(reads[i], start, alpha=-1)
        state = torch.baddbmm(decay.whole[i] * start, kept[i], written[i])
    return written, starts, state


def _through_time(
    part: _Parts, decay: Decay, inverse: Tensor | None, do: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of u, of the state after each chunk and of the first state."""
    du = decay.scores(part.q, part.k).tril_().mT @ do
    direct = (part.q * decay.since_start).mT @ do
    kept = part.k * decay.to_end
    reads = None if inverse is None else _reads(part, decay, inverse)
    ends = torch.empty_like(direct)
    for i in reversed(range(len(ends))):
        ends[i] = grad
        du[i].baddbmm_(kept[i], ends[i])
        grad = torch.addcmul(direct[i], decay.whole[i], ends[i])
        if reads is not None:
            grad.baddbmm_(reads[i].mT, du[i], alpha=-1)
    return du, ends, grad


def _correction(
    part: _Parts, decay: Decay, inverse: Tensor, written: Tensor, starts: Tensor, du: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of v, beta, and of k where it reads and where it is read.

    With r = v - e^g k S and (1 + A) u = beta r:  lam = (1 + A)^-T du, dr = beta lam,
    dA = -lam u^T, dbeta = lam . r + sum_j dA_ij A_ij / beta_i.
    """
    assert part.beta is not None
    lam = inverse.mT @ du
    r = part.v - torch.matmul(part.k * decay.since_start, starts)
    dA = (lam @ written.mT).neg_().tril_(-1)
    dbeta = (lam * r).sum(-1, keepdim=True)
    dbeta += (dA * decay.scores(part.k, part.k)).sum(-1, keepdim=True)
    dr = lam.mul_(part.beta)
    dk_read, dk_write = decay.scores_backward(dA.mul_(part.beta), part.k, part.k)
    dk_read -= decay.since_start * (dr @ starts.mT)
    return dr, dbeta, dk_read, dk_write
