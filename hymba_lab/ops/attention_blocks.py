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

# From how many tokens on blocks pay if they compute less than this share of the T^2 pairs that the
# kernel with a mask computes: cutting and joining blocks and small calls cost the rest. Measured at
# one row of eight heads, windows from 32 to 512, 0 to 128 meta tokens (results/benchmarks.md).
WORTH = ((1024, 0.75), (512, 0.6), (384, 0.4))
SMALLEST_16_BIT_WINDOW = 32  # 16-bit kernels are slow in the backward of small blocks


def blocks_are_faster(q: Tensor, n_keys: int, window: int, n_meta: int) -> bool:
    """Whether blocks were measured to be faster than a mask for queries q (B, H, T, P)."""
    n_tokens, head, short = q.shape[2], n_meta + window, q.dtype.itemsize <= 2
    if n_tokens != n_keys or n_tokens <= head or (short and window < SMALLEST_16_BIT_WINDOW):
        return False
    rest = -(-(n_tokens - head) // window) * window * (n_meta + 2 * window)
    share = (head * head + rest) / n_tokens**2
    return any(n_tokens >= tokens and share < limit for tokens, limit in WORTH)


def windowed_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, n_meta: int, scale: float
) -> Tensor:
    """Return what `attention` returns for q_start = 0 and T = S > n_meta + window.

    q (B, H, T, P), k and v (B, K, T, P).
    """
    head = n_meta + window
    first = F.scaled_dot_product_attention(
        q[:, :, :head],
        k[:, :, :head],
        v[:, :, :head],
        is_causal=True,
        scale=scale,
        enable_gqa=True,
    )
    queries = _blocks(q[:, :, head:], window)
    rest = F.scaled_dot_product_attention(
        queries.flatten(0, 1),
        _visible_keys(k, window, n_meta),
        _visible_keys(v, window, n_meta),
        attn_mask=block_mask(q, window, n_meta),
        scale=scale,
        enable_gqa=True,
    )
    rest = rest.reshape(queries.shape).transpose(1, 2).flatten(2, 3)
    return torch.cat((first, rest[:, :, : q.shape[2] - head]), dim=2)


def _blocks(tensor: Tensor, window: int) -> Tensor:
    """(B, H, T, P) -> (B, blocks, H, W, P); the last block is filled up with zeros."""
    n_batch, n_heads, n_tokens, width = tensor.shape
    n_blocks = -(-n_tokens // window)
    filled = F.pad(tensor, (0, 0, 0, n_blocks * window - n_tokens))
    return filled.reshape(n_batch, n_heads, n_blocks, window, width).transpose(1, 2)


def _visible_keys(tensor: Tensor, window: int, n_meta: int) -> Tensor:
    """(B, K, T, P) -> (B * blocks, K, M + 2 W, P): meta, the block before, the block itself."""
    blocks = _blocks(tensor[:, :, n_meta:], window)
    before, own = blocks[:, :-1], blocks[:, 1:]
    meta = tensor[:, None, :, :n_meta].expand(-1, own.shape[1], -1, -1, -1)
    return torch.cat((meta, before, own), dim=3).flatten(0, 1)
