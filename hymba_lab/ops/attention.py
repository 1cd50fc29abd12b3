"""Causal attention with grouped queries, a window and tokens that are always visible."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.ops import attention_cpp, attention_flex, flops, kernels, one_token
from hymba_lab.ops.attention_blocks import blocks_are_faster, windowed_attention
from hymba_lab.ops.attention_flex import flex_attention
from hymba_lab.ops.masks import attention_mask
from hymba_lab.ops.selection import Implementation, Operation


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    n_meta: int,
    q_start: int = 0,
    sink: Tensor | None = None,
) -> Tensor:
    """Return softmax(q k^T / sqrt(P) over the visible keys) v, shape (B, H, T, V).

    q (B, H, T, P) stands at positions q_start..q_start+T-1; k (B, K, S, P) and v (B, K, S, V) at
    0..S-1; query head i reads key head i // (H / K). Query i sees key j <= i if `window` is None,
    if i - j < window (the query itself counts) or if j < n_meta. A query that sees no key gives 0.
    `sink` (H,) is the logit of one key more that every query sees, whose value is 0.
    B batch, H query heads, K key heads, T queries, S keys, P key width, V value width.
    On the meta device only the shape is computed, and `FlopCounterMode` counts the visible pairs.
    """
    if q.is_meta:
        out: Tensor = flops.attention_cost(q, k, v, window, n_meta, q_start)
        return out
    given = (q, k, v, window, n_meta, q_start)
    if sink is not None:
        return _beside(sink, *given)
    y: Tensor = ATTENTION.run(*given)(*given)
    return y


def _beside(
    sink: Tensor, q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
) -> Tensor:
    """The same beside a sink: by the log of the sum of e^score where it is known, else a key."""
    chosen = ATTENTION.choose(q, k, v, window, n_meta, q_start)
    if chosen == "cpp":
        return attention_cpp.windowed_attention(q, k, v, window, n_meta, sink)
    if chosen == "flex" or _flex_serves(q, v, q_start):
        scale, seen = q.shape[3] ** -0.5, k.shape[2] if window is None else window
        return flex_attention(q, k, v, seen, n_meta, scale, sink)
    scale = q.shape[3] ** -0.5
    q, k, v = _with_sink(q, k, v, sink, scale)
    return _one_width(_masked, scale)(q, k, v, window, n_meta + 1, q_start + 1)


def _flex_serves(q: Tensor, v: Tensor, q_start: int) -> bool:
    """Whether FlexAttention can put the sink beside keys of which no window hides one, too."""
    usable = ATTENTION.forced() is None and ATTENTION.implementations["flex"].missing() is None
    return usable and q_start == 0 and attention_flex.fits(q, v)


def _with_sink(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Put in front a key that scores `sink` with any query, by two channels more, and is worth 0.

    The second holds what 16 bits leave of the first.
    """
    logit = sink / scale
    large = logit.to(q.dtype)
    parts = torch.stack([large, (logit - large.to(logit.dtype)).to(q.dtype)], dim=1)
    own = parts[None, :, None].expand(len(q), -1, q.shape[2], -1)
    first = F.pad(k.new_zeros(q.shape[3]), (0, 2), value=1.0)
    k = torch.cat([first.expand(*k.shape[:2], 1, -1), F.pad(k, (0, 2))], dim=2)
    return torch.cat([q, own], dim=3), k, F.pad(v, (0, 0, 1, 0))


def attention_step(
    q: Tensor, k: Tensor, v: Tensor, n_keys: Tensor, *, sink: Tensor | None = None
) -> Tensor:
    """Return softmax(q k^T / sqrt(P)) v (B, H, 1, V) of one query a row, q (B, H, 1, P).

    Row b sees the first n_keys[b] of the keys k (B, K, S, P); n_keys (B,) int64 lies on the host.
    `sink` (H,) as in `attention`.
    """
    if sink is not None:
        return _step_beside(sink, q, k, v, n_keys)
    if one_token.fits(q, k, v):
        return one_token.attend(q, k, v, n_keys.clamp(max=k.shape[2]))
    mask = None
    if int(n_keys.min()) < k.shape[2]:
        seen = n_keys.to(k.device)[:, None, None, None]
        mask = torch.arange(k.shape[2], device=k.device) < seen
    # query heads of one key head become its queries: no key is repeated
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
    o = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return o.flatten(1, 2).unsqueeze(2)


def _step_beside(sink: Tensor, q: Tensor, k: Tensor, v: Tensor, n_keys: Tensor) -> Tensor:
    """The weights of the keys beside a sink, whose own is left out."""
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
    exact = torch.promote_types(q.dtype, torch.float32)  # scores of 16 bits would be rounded
    scores = grouped.to(exact) @ k.mT.to(exact) * q.shape[3] ** -0.5  # (B, K, H / K, S)
    place = torch.arange(k.shape[2], device=k.device)
    hidden = place >= n_keys.to(k.device)[:, None, None, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    own = sink.to(exact).view(k.shape[1], -1, 1).expand(len(q), -1, -1, -1)
    weights = torch.cat([scores, own], dim=3).softmax(3)[..., :-1]
    return (weights.to(v.dtype) @ v).flatten(1, 2).unsqueeze(2)


Form = Callable[[Tensor, Tensor, Tensor, int | None, int, int, float], Tensor]


def _one_width(form: Form, scale: float | None = None) -> Callable[..., Tensor]:
    """Return an implementation of `form`, which wants keys and values of one width on a CPU.

    `scale` is that of scores, by default 1 / sqrt of the width.

    Torch's fused CPU kernel does; its other form stores all T S scores and takes two to three times
    as long, so zeros that change no score are cheap.
    """

    def run(
        q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
    ) -> Tensor:
        factor, d_value = scale or q.shape[3] ** -0.5, v.shape[3]
        if q.is_cpu and q.shape[3] != d_value:
            width = max(q.shape[3], d_value)
            q, k, v = (F.pad(t, (0, width - t.shape[3])) for t in (q, k, v))
        return form(q, k, v, window, n_meta, q_start, factor)[..., :d_value]

    return run


def _hides(q: Tensor, k: Tensor, window: int | None, n_meta: int, q_start: int) -> bool:
    """Whether the window hides a key from some query."""
    return window is not None and q_start + q.shape[2] > window and n_meta < k.shape[2]


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None,
    n_meta: int,
    q_start: int,
    scale: float,
) -> Tensor:
    """Torch's attention, with a mask where it has to be."""
    n_keys = k.shape[2]
    if not _hides(q, k, window, n_meta, q_start):
        if q_start == 0:
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=True
            )
        if q_start >= n_keys - 1:
            return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
        window = None
    mask = attention_mask(q, n_keys, window, n_meta, q_start)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


def _blocks_take(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
) -> bool:
    if window is None or not q.is_cpu or q_start or not _hides(q, k, window, n_meta, 0):
        return False
    return blocks_are_faster(q, k.shape[2], window, n_meta)


def _flex_takes(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
) -> bool:
    return q_start == 0 and attention_flex.fits(q, v) and _hides(q, k, window, n_meta, 0)


ATTENTION = Operation(
    "attention",
    "attention with a window",
    "HYMBA_LAB_ATTENTION",
    {
        "flex": Implementation(
            _one_width(lambda q, k, v, w, m, _, s: flex_attention(q, k, v, cast(int, w), m, s)),
            "FlexAttention with a kept block mask",
            "CUDA tensors whose widths are powers of two from 16 to 256, with a window that hides",
            attention_flex.missing,
            _flex_takes,
            devices=("cuda",),
        ),
        "cpp": Implementation(
            lambda q, k, v, window, n_meta, _: attention_cpp.windowed_attention(
                q, k, v, window, n_meta
            ),
            "the compiled C++ kernel",
            "CPU tensors of whole sequences, float32 or bfloat16, widths that are multiples of 8",
            kernels.missing,
            lambda q, k, v, window, n_meta, q_start: q_start == 0 and attention_cpp.fits(q, k, v),
            devices=("cpu",),
        ),
        "blocks": Implementation(
            _one_width(lambda q, k, v, w, m, _, s: windowed_attention(q, k, v, cast(int, w), m, s)),
            "torch's attention over blocks of the window, where that pays",
            "CPU tensors of whole sequences much longer than their window",
            takes=_blocks_take,
            devices=("cpu",),
        ),
        "sdpa": Implementation(_one_width(_masked), "torch's attention with a mask"),
    },
)
