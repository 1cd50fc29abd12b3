"""Causal attention with grouped queries, a window and tokens that are always visible."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.ops import attention_cpp, attention_flex, flops, one_token
from hymba_lab.ops.attention_blocks import blocks_are_faster, windowed_attention
from hymba_lab.ops.masks import attention_mask


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
    if q_start == 0 and attention_cpp.fits(q, k, v):
        return attention_cpp.windowed_attention(q, k, v, window, n_meta, sink)
    if sink is not None:
        if q_start == 0 and window is not None and attention_flex.fits(q, v):
            scale = q.shape[3] ** -0.5
            return attention_flex.flex_attention(q, k, v, window, n_meta, scale, sink)
        q, k, v = _with_sink(q, k, v, sink)
        n_meta, q_start = n_meta + 1, q_start + 1
        return _padded(q, k, v, window, n_meta, q_start, (q.shape[3] - 1) ** -0.5)
    return _padded(q, k, v, window, n_meta, q_start, q.shape[3] ** -0.5)


def _with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put in front a key that scores `sink` with any query, by one channel more, and is worth 0."""
    width = q.shape[3]
    logit = (sink * width**0.5).to(q.dtype)[None, :, None, None].expand(*q.shape[:3], 1)
    first = F.one_hot(torch.tensor(width, device=k.device), width + 1).to(k.dtype)
    k = torch.cat([first.expand(*k.shape[:2], 1, -1), F.pad(k, (0, 1))], dim=2)
    return torch.cat([q, logit], dim=3), k, F.pad(v, (0, 0, 1, 0))


def _padded(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int, scale: float
) -> Tensor:
    """The form for these tensors, on a CPU with keys and values of one width."""
    d_value = v.shape[3]
    if q.is_cpu and q.shape[3] != d_value:
        # torch's fused CPU kernel wants one width; its other form stores all T S scores and takes
        # two to three times as long, so zeros that change no score are cheap
        width = max(q.shape[3], d_value)
        q, k, v = (F.pad(t, (0, width - t.shape[3])) for t in (q, k, v))
    return _attend(q, k, v, window, n_meta, q_start, scale)[..., :d_value]


def attention_step(
    q: Tensor, k: Tensor, v: Tensor, n_keys: Tensor, *, sink: Tensor | None = None
) -> Tensor:
    """Return softmax(q k^T / sqrt(P)) v (B, H, 1, V) of one query a row, q (B, H, 1, P).

    Row b sees the first n_keys[b] of the keys k (B, K, S, P); n_keys (B,) int64 lies on the host.
    `sink` (H,) as in `attention`.
    """
    if sink is not None:
        return _step_with_sink(q, k, v, n_keys, sink)
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


def _step_with_sink(q: Tensor, k: Tensor, v: Tensor, n_keys: Tensor, sink: Tensor) -> Tensor:
    """The weights of the keys beside a sink, whose own is left out."""
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
    scores = (grouped @ k.mT).float() * q.shape[3] ** -0.5  # (B, K, H / K, S)
    place = torch.arange(k.shape[2], device=k.device)
    hidden = place >= n_keys.to(k.device)[:, None, None, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    beside = sink.float().view(k.shape[1], -1, 1).expand(len(q), -1, -1, -1)
    weights = torch.cat([scores, beside], dim=3).softmax(3)[..., :-1]
    return (weights.to(v.dtype) @ v).flatten(1, 2).unsqueeze(2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int, scale: float
) -> Tensor:
    """The cheapest form that shows the same keys."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    hides = window is not None and q_start + n_queries > window and n_meta < n_keys
    if window is None or not hides:
        if q_start == 0:
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=True
            )
        if q_start >= n_keys - 1:
            return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
        window = None
    elif q.is_cpu and q_start == 0 and blocks_are_faster(q, n_keys, window, n_meta):
        return windowed_attention(q, k, v, window, n_meta, scale)
    elif q_start == 0 and attention_flex.fits(q, v):
        return attention_flex.flex_attention(q, k, v, window, n_meta, scale)
    mask = attention_mask(q, n_keys, window, n_meta, q_start)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
