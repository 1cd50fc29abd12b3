"""Sliding-window attention over blocks of the window: work and memory grow with T, not with T^2.

The first M + W positions (M meta tokens, window W) hide nothing from each other: plain causal
attention. After them, block b of W queries sees the meta tokens, the keys of block b - 1 that are
still in the window, and those of its own block up to itself: the same mask (W, M + 2 W) for every
block, so that all blocks are one batch for `scaled_dot_product_attention` and autograd.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.ops.masks import block_mask

FUSED_KEYS = 512  # torch's fused CPU kernel walks the keys in steps of this many
WORTH_IT = 0.8  # measured time is up to 0.15 above the counted work: cutting and joining blocks


def blocks_are_faster(n_queries: int, n_keys: int, window: int, n_meta: int) -> bool:
    """Whether blocks beat even the causal kernel without a mask, by the pairs each computes."""
    head = n_meta + window
    if n_queries != n_keys or n_queries <= head:
        return False
    rest = -(-(n_queries - head) // window) * window * (n_meta + 2 * window)
    return _causal_pairs(head) + rest < WORTH_IT * _causal_pairs(n_queries)


def _causal_pairs(n_tokens: int) -> float:
    """Pairs the fused kernel computes with `is_causal`: it skips whole steps of keys only."""
    return n_tokens * min(n_tokens, (n_tokens + FUSED_KEYS) / 2)


def windowed_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, n_meta: int, scale: float
) -> Tensor:
    """Return what `attention` returns for q_start = 0 and T = S > n_meta + window.

    q (B, H, T, P), k and v (B, K, T, P).
    """
    head = n_meta + window
    first = F.scaled_dot_product_attention(
        *(tensor[:, :, :head] for tensor in (q, k, v)),
        is_causal=True,
        scale=scale,
        enable_gqa=True,
    )
    n_rest = q.shape[2] - head
    queries = _blocks(q[:, :, head:], window)
    rest = F.scaled_dot_product_attention(
        queries,
        _visible_keys(k, window, n_meta),
        _visible_keys(v, window, n_meta),
        attn_mask=block_mask(q, window, n_meta),
        scale=scale,
        enable_gqa=True,
    )
    rest = rest.unflatten(0, (q.shape[0], -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat((first, rest[:, :, :n_rest]), dim=2)


def _blocks(tensor: Tensor, window: int) -> Tensor:
    """(B, H, T, P) -> (B blocks, H, W, P); the last block is filled up with zeros."""
    missing = -tensor.shape[2] % window
    filled = F.pad(tensor, (0, 0, 0, missing))
    return filled.unflatten(2, (-1, window)).transpose(1, 2).flatten(0, 1)


def _visible_keys(tensor: Tensor, window: int, n_meta: int) -> Tensor:
    """(B, K, T, P) -> (B blocks, K, M + 2 W, P): meta, the block before, the block itself."""
    meta, tokens = tensor[:, :, :n_meta], tensor[:, :, n_meta:]
    filled = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % window))
    blocks = filled.unflatten(2, (-1, window)).transpose(1, 2)
    n_blocks = blocks.shape[1] - 1
    everywhere = meta.unsqueeze(1).expand(-1, n_blocks, -1, -1, -1)
    return torch.cat((everywhere, blocks[:, :-1], blocks[:, 1:]), dim=3).flatten(0, 1)
