"""FLOPs of our operations, for `torch.utils.flop_counter.FlopCounterMode` on the meta device.

Torch counts a sliding window as full attention and a scan as nothing. On meta tensors the scan and
the attention therefore pass through operators of our own with the formulas below; a multiply and
an add are one FLOP each. Torch counts the convolution rightly: 2 B T D K.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hymba_lab.ops import scan_cpp  # noqa: F401 - defines the scan operators

SCAN_FLOPS = 9
"""FLOPs per batch row, token, channel and state of a scan: 9 B T D N in all, the count that Mamba's
author gives (state-spaces/mamba issue 110) and FLOP counters of Mamba use.

delta A 1, exp 1, (delta x) B 2, the associative combination (a, b) (a', b') = (a a', a' b + b') 3,
C h 2. A plain recurrence does one multiply less. Skip, gate and softplus are of order 1/N and
left out, as the elementwise parts of other layers are.
"""


def visible_pairs(
    n_queries: int, n_keys: int, window: int | None, n_meta: int, q_start: int
) -> int:
    """The number of (query, key) pairs that `attention` lets through, without a mask."""
    causal = _sum_clipped(q_start + 1, n_queries, n_keys)
    if window is None:
        return causal
    # keys older than the window, and those of them that are meta tokens and stay visible
    oldest = q_start + 1 - window
    hidden = _sum_clipped(oldest, n_queries, n_keys)
    return causal - hidden + _sum_clipped(oldest, n_queries, min(n_meta, n_keys))


def _sum_clipped(first: int, count: int, limit: int) -> int:
    """sum over i = first..first+count-1 of min(max(i, 0), limit)."""

    def below(end: int) -> int:  # the same sum over i < end
        end = max(end, 0)
        rising = min(end, limit + 1)
        return rising * (rising - 1) // 2 + (end - rising) * limit

    return below(first + count) - below(first)


@torch.library.custom_op("hymba_lab::attention_cost", mutates_args=())
def attention_cost(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
) -> Tensor:
    """The shape of `attention`, on the meta device only."""
    raise NotImplementedError("attention_cost counts FLOPs on the meta device; it computes nothing")


@attention_cost.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[3])


LINEAR_FLOPS = 5
"""FLOPs per batch row, token, head, key and value channel of a state that forgets and is written.

Decay 1, outer product and sum 2, reading 2. Counted is the recurrence: forms by chunks do more, by
an amount that depends on the chunk and not on the model."""
DELTA_FLOPS = 7
"""The same with a correction: what the key reads before it writes, 2 more."""


def recurrence(
    v: Tensor, inputs: list[Tensor], d_key: int, flops_per_state: int
) -> tuple[Tensor, Tensor]:
    """Return the shapes of o and S of a recurrence over `inputs`, v (B, T, H, V) among them."""
    o, state, _ = torch.ops.hymba_lab.recurrence_cost(v, inputs, d_key, flops_per_state)
    return o, state


@torch.library.custom_op("hymba_lab::recurrence_cost", mutates_args=())
def recurrence_cost(
    v: Tensor, inputs: list[Tensor], d_key: int, flops_per_state: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes of a recurrence and of the states that it keeps, on the meta device only."""
    raise NotImplementedError("recurrence_cost counts FLOPs on the meta device only")


@recurrence_cost.register_fake
def _(
    v: Tensor, inputs: list[Tensor], d_key: int, flops_per_state: int
) -> tuple[Tensor, Tensor, Tensor]:
    n_batch, n_time, n_heads, d_value = v.shape
    state = v.new_empty(n_batch, n_heads, d_key, d_value, dtype=torch.float32)
    n_chunks = -(-n_time // KEPT_EVERY)
    return torch.empty_like(v), state, state.new_empty(n_chunks, *state.shape)


KEPT_EVERY = 64  # tokens between the states that a form by chunks keeps for its backward


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[1], output[2])


def _no_backward(ctx: Any, *grads: Tensor) -> NoReturn:
    raise NotImplementedError("recurrence_cost has no backward: shapes only")


recurrence_cost.register_autograd(_no_backward, setup_context=_keep)


@register_flop_formula(torch.ops.hymba_lab.recurrence_cost)
def recurrence_flops(
    v_shape: torch.Size,
    inputs_shapes: list[torch.Size],
    d_key: int,
    flops_per_state: int,
    *_: object,
    **__: object,
) -> int:
    """5 or 7 B T H K V."""
    return flops_per_state * v_shape.numel() * d_key


@register_flop_formula(torch.ops.hymba_lab.selective_scan)
def scan_flops(
    x_shape: torch.Size, dt_shape: torch.Size, A_shape: torch.Size, *_: object, **__: object
) -> int:
    """9 B T D N."""
    return SCAN_FLOPS * x_shape.numel() * A_shape[1]


@register_flop_formula(torch.ops.hymba_lab.selective_scan_backward)
def scan_backward_flops(
    grad_y_shape: torch.Size,
    grad_h_shape: torch.Size,
    x_shape: torch.Size,
    dt_shape: torch.Size,
    A_shape: torch.Size,
    *_: object,
    **__: object,
) -> int:
    """Twice the forward, the usual count of a backward."""
    return 2 * SCAN_FLOPS * x_shape.numel() * A_shape[1]


@register_flop_formula(torch.ops.hymba_lab.attention_cost)
def attention_flops(
    q_shape: torch.Size,
    k_shape: torch.Size,
    v_shape: torch.Size,
    window: int | None,
    n_meta: int,
    q_start: int,
    *_: object,
    **__: object,
) -> int:
    """2 B H (P + V) times the visible pairs: scores and weighted values."""
    n_batch, n_heads, n_queries, d_key = q_shape
    pairs = visible_pairs(n_queries, k_shape[2], window, n_meta, q_start)
    return 2 * n_batch * n_heads * (d_key + v_shape[3]) * pairs
