"""Boolean attention masks, built once per shape."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def attention_mask(q: Tensor, n_keys: int, window: int | None, n_meta: int, q_start: int) -> Tensor:
    """The mask (T, S) of `attention` for queries q (B, H, T, P): True where a key is seen."""
    make = _cached_mask if outlives(q) else visible
    return make(q.shape[2], n_keys, window, n_meta, q_start, q.device)


def block_mask(q: Tensor, window: int, n_meta: int) -> Tensor:
    """The mask (W, M + 2 W) of a block of queries over meta tokens, block before, own block."""
    make = _cached_block_mask if outlives(q) else visible_in_block
    return make(window, n_meta, q.device)


def visible(
    n_queries: int,
    n_keys: int,
    window: int | None,
    n_meta: int,
    q_start: int,
    device: torch.device,
) -> Tensor:
    """Query i at q_start + i sees key j <= i, inside the window or among the meta tokens."""
    query = torch.arange(q_start, q_start + n_queries, device=device).unsqueeze(1)
    key = torch.arange(n_keys, device=device)
    causal = key <= query
    if window is None:
        return causal
    return causal & ((query - key < window) | (key < n_meta))


def visible_in_block(window: int, n_meta: int, device: torch.device) -> Tensor:
    """Every meta token, the block before after this query's place in it, its own block up to it."""
    place = torch.arange(window, device=device)
    own = place <= place.unsqueeze(1)
    return torch.cat((own.new_ones(window, n_meta), ~own, own), dim=1)


def outlives(q: Tensor) -> bool:
    """Whether a mask built now may stay in a cache: not while a compiler or a fake mode traces."""
    return not torch.compiler.is_compiling() and type(q) in (Tensor, torch.nn.Parameter)


def _kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @lru_cache(maxsize=8)
    def kept(*shape: Any) -> Tensor:
        with torch.inference_mode(False):  # a later training step may save it for its backward
            return make(*shape)

    return kept


_cached_mask = _kept(visible)
_cached_block_mask = _kept(visible_in_block)
