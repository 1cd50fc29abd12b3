"""The attention branch: built from d_model, its heads and the layer's window.

It maps x (B, T, D) and a producer's keys and values (or None) to its output (B, T, H * V) and the
keys and values it used. A consumer owns no key and value weights. `past` stands for the tokens of
earlier calls while generating.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.heads import AttentionHeads
from hymba_lab.components.past import WHOLE, KeyValue, Past
from hymba_lab.errors import ConfigError
from hymba_lab.ops.rotary import rotate
from hymba_lab.registry import Registry

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

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: Past = WHOLE
    ) -> tuple[Tensor, KeyValue]:
        q = self._rotate(_split(self.q(x), self.heads.d_head), past)
        k, v = kv if kv is not None else past.extend(*self.keys_values(x, past))
        o = past.attend(q, k, v, window=self.window, n_meta=self.n_meta)
        return o.transpose(1, 2).flatten(2), (k, v)

    def keys_values(self, x: Tensor, past: Past = WHOLE) -> KeyValue:
        """Return k (B, K, T, P), rotated, and v (B, K, T, V)."""
        k = self._rotate(_split(self.k(x), self.heads.d_head), past)
        return k, _split(self.v(x), self.heads.d_head_v)

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps after `n_tokens`: none in a consumer.

        The meta tokens and the window, its newest token included, or all tokens without a window.
        """
        if not self.owns_kv:
            return {}
        n_keys = self.n_meta + min(n_tokens, self.window or n_tokens)
        heads = self.heads
        return {
            "k": (heads.n_kv_heads, n_keys, heads.d_head),
            "v": (heads.n_kv_heads, n_keys, heads.d_head_v),
        }

    def _rotate(self, x: Tensor, past: Past) -> Tensor:
        if self.rope_theta is None:
            return x
        return rotate(x, past.positions(x.shape[2], x.device), self.rope_theta)


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
