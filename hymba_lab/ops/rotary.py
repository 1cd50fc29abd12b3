"""Rotary positions (RoPE, arXiv:2104.09864) in the rotate-half layout."""

from functools import lru_cache

import torch
from torch import Tensor

from hymba_lab.ops import one_token
from hymba_lab.ops.masks import outlives


def rotate(x: Tensor, positions: Tensor | range, theta: float) -> Tensor:
    """Turn channel pair i of x (B, H, T, P), that is (i, i + P/2), by position * theta^(-2i/P).

    `positions` broadcast over (B, H, T); a range is for many calls, its angles are kept.
    """
    make = _kept_table if isinstance(positions, range) and outlives(x) else rope_table
    cos, sin = make(positions, x.shape[-1], theta, x.device)
    if x.shape[2] == 1 and one_token.fits(x):
        return one_token.rotate(x, cos, sin)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def rope_table(
    positions: Tensor | range, d_head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angles at positions (...), each (..., d_head).

    Sin is negative in its first half: x rolled by half its width then needs no sign of its own.
    """
    if isinstance(positions, range):
        positions = torch.arange(positions.start, positions.stop, device=device)
    pairs = torch.arange(0, d_head, 2, device=device, dtype=torch.float32)
    angle = positions.float()[..., None] * theta ** (-pairs / d_head)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


@lru_cache(maxsize=8)
def _kept_table(
    positions: range, d_head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a later training step may save it for its backward
        return rope_table(positions, d_head, theta, device)
