"""The attention branch: built from d_model, its heads and the layer's window.

It maps x (B, T, D) and a producer's keys and values (or None) to its output (B, T, H * V) and the
keys and values it used. A consumer owns no key and value weights.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.heads import AttentionHeads
from hymba_lab.errors import ConfigError
from hymba_lab.ops import attention
from hymba_lab.registry import Registry

KeyValue = tuple[Tensor, Tensor]  # k (B, K, S, P) after its rotation, v (B, K, S, V)

attentions: Registry[nn.Module] = Registry("model.attention")


@attentions.register("softmax")
class SoftmaxAttention(nn.Module):
    """o = softmax(q k^T / sqrt(P) + mask) v with grouped queries and, unless off, RoPE on q and k.

    No query/key norm, no gate and no output projection: that belongs to the fusion (FACTS of the
    released Hymba code). `rope_theta: null` leaves positions to the SSM and the mask.
    """

    def __init__(
        self,
        d_model: int,
        heads: AttentionHeads,
        window: int | None,
        n_meta: int,
        owns_kv: bool,
        *,
        rope_theta: Annotated[float, Field(gt=0)] | None = 10_000.0,
        rope_scale: Annotated[float, Field(ge=1)] = 1.0,
    ) -> None:
        """`rope_scale` is the NTK factor: theta * scale^(P / (P - 2)) (Hymba: 7)."""
        super().__init__()
        self.heads, self.window, self.n_meta, self.owns_kv = heads, window, n_meta, owns_kv
        self.rope_theta = rope_theta and _ntk(rope_theta, rope_scale, heads.d_head)
        self.q = nn.Linear(d_model, heads.n_heads * heads.d_head, bias=False)
        if owns_kv:
            self.k = nn.Linear(d_model, heads.n_kv_heads * heads.d_head, bias=False)
            self.v = nn.Linear(d_model, heads.n_kv_heads * heads.d_head_v, bias=False)

    def forward(self, x: Tensor, kv: KeyValue | None = None) -> tuple[Tensor, KeyValue]:
        q = self._rotate(_split(self.q(x), self.heads.d_head))
        k, v = kv if kv is not None else self.keys_values(x)
        o = attention(q, k, v, window=self.window, n_meta=self.n_meta)
        return o.transpose(1, 2).flatten(2), (k, v)

    def keys_values(self, x: Tensor) -> KeyValue:
        """Return k (B, K, T, P), rotated, and v (B, K, T, V)."""
        k = self._rotate(_split(self.k(x), self.heads.d_head))
        return k, _split(self.v(x), self.heads.d_head_v)

    def cache_elements(self, n_tokens: int) -> int:
        """Return how many values generation keeps after `n_tokens`: none in a consumer."""
        seen = n_tokens if self.window is None else min(n_tokens, self.window)
        per_token = self.heads.n_kv_heads * (self.heads.d_head + self.heads.d_head_v)
        return (self.n_meta + seen) * per_token if self.owns_kv else 0

    def _rotate(self, x: Tensor) -> Tensor:
        """RoPE in the rotate-half layout: position t turns channel pair i by t * theta^(-2i/P)."""
        if self.rope_theta is None:
            return x
        cos, sin = rope_table(x.shape[2], self.heads.d_head, self.rope_theta, x.device)
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return (x * cos + turned * sin).to(x.dtype)


def rope_table(
    n_positions: int, d_head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (n_positions, d_head), of positions 0..n_positions-1."""
    frequency = theta ** (-torch.arange(0, d_head, 2, device=device, dtype=torch.float32) / d_head)
    angle = torch.arange(n_positions, device=device, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def _ntk(theta: float, scale: float, d_head: int) -> float:
    if scale == 1:
        return theta
    if d_head == 2:
        raise ConfigError(
            f"rope_scale = {scale} stretches theta by scale^(d_head / (d_head - 2)), but d_head is "
            "2; take rope_scale: 1 or a d_head of at least 4."
        )
    stretched: float = theta * scale ** (d_head / (d_head - 2))
    return stretched


def _split(x: Tensor, d_head: int) -> Tensor:
    """(B, T, heads * d_head) -> (B, heads, T, d_head)."""
    B, T, _ = x.shape
    return x.view(B, T, -1, d_head).transpose(1, 2)
