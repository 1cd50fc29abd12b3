"""The gated delta rule: a state that forgets, and corrects what it holds under a key.

    S_t = D_t S_{t-1} + beta_t k_t (v_t - (D_t S_{t-1})^T k_t)^T        o_t = S_t^T q_t

with D_t = e^log_decay_t, one factor per head (Gated DeltaNet, arXiv:2412.06464) or one per key
channel (Kimi Delta Attention, arXiv:2510.26692). Without the correction it is gated linear
attention (arXiv:2312.06635): S_t = D_t S_{t-1} + k_t v_t^T.

q, k (B, T, H, K), k of unit norm where there is a correction; v, o (B, T, H, V); log_decay
(B, T, H, 1 or K), at most 0; beta (B, T, H) in [0, 1]; S (B, H, K, V). B batch, T time, H heads,
K key and V value channels. Computed in float32, in float64 where v is float64.
"""

import torch
from torch import Tensor

from hymba_lab.ops import fla, flops
from hymba_lab.ops.decays import LOWEST
from hymba_lab.ops.delta_chunks import by_chunks
from hymba_lab.ops.recurrence import checked, computed
from hymba_lab.ops.selection import Implementation, Operation


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `(o, S_T)`, both differentiable; `state` is the state before, zero when None.

    A factor per channel counts as at least e^-5 (`decays.LOWEST`). A token with beta = 0 and
    log_decay = 0 leaves the state as it is. Raises `ValueError` for shapes that do not fit.
    """
    return _recur(q, k, v, log_decay, beta, state)


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return `(o, S_T)` of S_t = D_t S_{t-1} + k_t v_t^T, o_t = S_t^T q_t; else as `delta_rule`.

    A token with k = 0 and log_decay = 0 leaves the state as it is.
    """
    return _recur(q, k, v, log_decay, None, state)


def _recur(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    n_batch, _, n_heads, d_key = k.shape
    shape = (n_batch, n_heads, d_key, v.shape[3])
    wide = log_decay.shape[3:] if log_decay.shape[3:] == (d_key,) else (1,)
    expected = {"q": k.shape, "v": (*k.shape[:3], v.shape[3]), "state": shape}
    expected |= {"log_decay": (*k.shape[:3], *wide), "beta": k.shape[:3]}
    given = {"q": q, "v": v, "log_decay": log_decay, "beta": beta, "state": state}
    checked("delta rule", "k", k, given, expected)
    if v.is_meta:
        tensors = [tensor for tensor in (q, k, v, log_decay, beta, state) if tensor is not None]
        per_state = flops.LINEAR_FLOPS if beta is None else flops.DELTA_FLOPS
        return flops.recurrence(v, tensors, d_key, per_state)
    with torch.autocast(v.device.type, enabled=False):
        if v.shape[1] == 1:
            o, last = _step(*_computed(q, k, v, log_decay, beta, state))
        elif beta is None:
            o, last = LINEAR_ATTENTION.run(v, k)(q, k, v, log_decay, state)
        else:
            o, last = DELTA_RULE.run(v, k)(q, k, v, log_decay, beta, state)
    return o.to(v.dtype), last


def _computed(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Return the inputs in the precision of the sums, with a state and within the bound."""
    q, k, wide, log_decay = computed(v.dtype, q, k, v, log_decay)
    if log_decay.shape[3] > 1:
        log_decay = log_decay.clamp(min=LOWEST)
    (beta,) = (None,) if beta is None else computed(v.dtype, beta)
    shape = (len(k), *k.shape[2:], v.shape[3])
    (S,) = computed(v.dtype, v.new_zeros(shape) if state is None else state)
    return q, k, wide, log_decay, beta, S


def _step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: the recurrence written out once."""
    k_t, v_t = k[:, 0, :, :, None], v[:, 0, :, None]  # (B, H, K, 1), (B, H, 1, V)
    S = log_decay[:, 0, :, :, None].exp() * S
    if beta is not None:
        v_t = beta[:, 0, :, None, None] * (v_t - k_t.mT @ S)
    S = S + k_t * v_t
    return (q[:, 0, :, None] @ S).transpose(1, 2), S


DELTA_RULE = Operation(
    "delta_rule",
    "gated delta rule",
    "HYMBA_LAB_DELTA_RULE",
    {
        "fla": Implementation(
            fla.delta_rule,
            "the Triton kernels of flash-linear-attention",
            "CUDA tensors, float32 or 16 bits, heads of at most 256 key channels",
            fla.missing,
            fla.fits,
            devices=("cuda",),
        ),
        "torch": Implementation(lambda *t: by_chunks(*_computed(*t)), "chunks in plain torch"),
    },
)
LINEAR_ATTENTION = Operation(
    "linear_attention",
    "gated linear attention",
    "HYMBA_LAB_LINEAR_ATTENTION",
    {
        "fla": Implementation(
            fla.linear_attention,
            "the Triton kernels of flash-linear-attention",
            "CUDA tensors, float32 or 16 bits, heads of at most 256 key channels",
            fla.missing,
            fla.fits,
            devices=("cuda",),
        ),
        "torch": Implementation(
            lambda q, k, v, log_decay, state: by_chunks(
                *_computed(q, k, v, log_decay, None, state)
            ),
            "chunks in plain torch",
        ),
    },
)
