"""Windowed attention on a GPU: FlexAttention, which skips the tiles that the mask hides.

Compiled on its first call for a shape; the mask of tiles is made once and kept. Its kernels take
widths that are powers of two from 16 on. There is no backward on a CPU, so this serves CUDA only.
"""

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.triton_device import NO_DEVICE

WIDTHS = (16, 32, 64, 128, 256)


def missing() -> str | None:
    """Why the kernels cannot run here; None when they can."""
    return None if torch.cuda.is_available() else f"it has no backward on a CPU, and {NO_DEVICE}"


def fits(q: Tensor, v: Tensor) -> bool:
    """Whether the kernels take q (B, H, T, P) and v (B, K, T, V) as they are."""
    return q.is_cuda and q.shape[3] in WIDTHS and v.shape[3] in WIDTHS


def flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    n_meta: int,
    scale: float,
    sink: Tensor | None = None,
) -> Tensor:
    """Return what `attention` returns for q_start = 0; every query sees at least itself.

    A sink of logit b leaves the share sigmoid(lse - b), lse the log of the sum of e^score.
    """
    traced = torch.compiler.is_compiling()  # what is kept between calls is no part of a graph
    tiles = (_tiles if traced else _kept_tiles)(q.shape[2], k.shape[2], window, n_meta, q.device)
    kernel = _kernel(q.is_cuda and not traced)
    options = {"block_mask": tiles, "scale": scale, "enable_gqa": True}
    if sink is not None:
        from torch.nn.attention.flex_attention import AuxRequest

        out, aux = kernel(q, k, v, return_aux=AuxRequest(lse=True), **options)
        share = torch.sigmoid(aux.lse - sink.float().unsqueeze(1))
        kept: Tensor = out * share.unsqueeze(3).to(out.dtype)
        return kept
    plain: Tensor = kernel(q, k, v, **options)
    return plain


def _kernel(compiled: bool) -> Any:
    from torch.nn.attention import flex_attention as flex

    return _compiled(flex.flex_attention) if compiled else flex.flex_attention


_compiled = cache(torch.compile)


def _tiles(n_queries: int, n_keys: int, window: int, n_meta: int, device: torch.device) -> Any:
    """The rule of `masks.visible`, one (query, key) at a time, as FlexAttention takes it."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((query - key < window) | (key < n_meta))

    with torch.inference_mode(False):  # a later training step may save it for its backward
        return create_block_mask(seen, None, None, n_queries, n_keys, device=device)


_kept_tiles = lru_cache(maxsize=8)(_tiles)
