"""Axis: how many heads of which kind, and how wide (table 10, rows 1-6).

The ratio of attention to SSM parameters is an outcome of these counts, never an option.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from hymba_lab.errors import ConfigError
from hymba_lab.registry import LATER, Registry

Positive = Annotated[int, Field(ge=1, le=2**24)]


@dataclass(frozen=True)
class AttentionHeads:
    """Counts and widths of the attention branch; query heads share keys in groups (GQA)."""

    n_heads: int
    n_kv_heads: int
    d_head: int  # channels of a query or key head
    d_head_v: int  # channels of a value head

    @property
    def d_out(self) -> int:
        """Width of the branch's output."""
        return self.n_heads * self.d_head_v


@dataclass(frozen=True)
class HeadPlan:
    """What one mixer may hold; a branch that is absent is None."""

    attention: AttentionHeads | None
    d_inner: int | None  # width of the SSM branch


heads: Registry[HeadPlan] = Registry("model.heads")


@heads.register("hybrid")
def hybrid(
    d_model: int,
    *,
    n_heads: Positive,
    d_head: Positive,
    n_kv_heads: Positive | None = None,
    d_head_v: Positive | None = None,
    expand: Positive = 2,
    d_inner: Annotated[Positive | None, LATER] = None,
) -> HeadPlan:
    """Both branches; n_kv_heads None = n_heads, d_head_v None = what fills d_inner.

    d_inner None = expand * d_model. In Hymba n_heads * d_head_v = d_inner: branches can be
    averaged.
    """
    d_inner = d_inner or expand * d_model
    if d_head_v is None:
        if d_inner % n_heads:
            raise ConfigError(
                f"d_head_v is not given and d_inner = {d_inner} (expand * d_model, or as given) is "
                f"no multiple of n_heads = {n_heads}; give d_head_v or another n_heads."
            )
        d_head_v = d_inner // n_heads
    return HeadPlan(_attention_heads(n_heads, n_kv_heads, d_head, d_head_v), d_inner)


@heads.register("attention_only")
def attention_only(
    d_model: int,
    *,
    n_heads: Positive,
    d_head: Positive,
    n_kv_heads: Positive | None = None,
    d_head_v: Positive | None = None,
) -> HeadPlan:
    """The Transformer baseline; d_head_v None = d_head."""
    return HeadPlan(_attention_heads(n_heads, n_kv_heads, d_head, d_head_v or d_head), None)


@heads.register("ssm_only")
def ssm_only(
    d_model: int, *, expand: Positive = 2, d_inner: Annotated[Positive | None, LATER] = None
) -> HeadPlan:
    """The Mamba baseline: d_inner None = expand * d_model."""
    return HeadPlan(None, d_inner or expand * d_model)


def _attention_heads(
    n_heads: int, n_kv_heads: int | None, d_head: int, d_head_v: int
) -> AttentionHeads:
    n_kv_heads = n_kv_heads or n_heads
    if n_heads % n_kv_heads:
        raise ConfigError(
            f"n_heads = {n_heads} is no multiple of n_kv_heads = {n_kv_heads}; "
            "each key/value head serves an equal group of query heads."
        )
    if d_head % 2:
        raise ConfigError(f"d_head = {d_head} is odd; RoPE rotates channels in pairs.")
    return AttentionHeads(n_heads, n_kv_heads, d_head, d_head_v)
