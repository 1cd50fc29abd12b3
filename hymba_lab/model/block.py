"""One layer: a token mixer and an MLP around the residual stream.

A mixer maps x (B, T, D) and a producer's keys and values (or None) to y (B, T, D) and the keys and
values it used, so that pure attention, pure SSM and both in parallel are the same block.
`past` is what its branches know of earlier tokens: nothing, or a layer of the cache.
"""

from torch import Tensor, nn

from hymba_lab.components.attention import attentions
from hymba_lab.components.fusion import fusions
from hymba_lab.components.mlp import mlps
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast
from hymba_lab.components.ssm import ssms
from hymba_lab.config import ModelConfig
from hymba_lab.model.plan import LayerPlan


class Parallel(nn.Module):
    """y = fusion(attention(x), ssm(x)): both branches read the same input (equation 3)."""

    def __init__(self, attention: nn.Module, ssm: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.attention, self.ssm, self.fusion = attention, ssm, fusion

    def forward(
        self, x: Tensor, kv: KeyValue | None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        a, kv = self.attention(x, kv, past.attention)
        return self.fusion(a, self.ssm(x, past.ssm)), kv


class AttentionOnly(nn.Module):
    """y = W attention(x)."""

    def __init__(self, attention: nn.Module, out: nn.Linear) -> None:
        super().__init__()
        self.attention, self.out = attention, out

    def forward(
        self, x: Tensor, kv: KeyValue | None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        a, kv = self.attention(x, kv, past.attention)
        return self.out(a), kv


class SSMOnly(nn.Module):
    """y = W ssm(x)."""

    def __init__(self, ssm: nn.Module, out: nn.Linear) -> None:
        super().__init__()
        self.ssm, self.out = ssm, out

    def forward(
        self, x: Tensor, kv: KeyValue | None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        return self.out(self.ssm(x, past.ssm)), None


class Block(nn.Module):
    """h = x + mixer(norm1(x));  y = h + mlp(norm2(h)), or y = h without an MLP."""

    def __init__(
        self, d_model: int, eps: float, *, mixer: nn.Module, mlp: nn.Module | None
    ) -> None:
        super().__init__()
        self.norm1, self.mixer = RMSNorm(d_model, eps), mixer
        self.norm2 = RMSNorm(d_model, eps) if mlp else None
        self.mlp = mlp

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        y, kv = self.mixer(self.norm1(x), kv, past)
        h = x + y
        return (h + self.mlp(self.norm2(h)) if self.mlp and self.norm2 else h), kv


def build_block(config: ModelConfig, layer: LayerPlan, n_meta: int) -> Block:
    """Return the block that the plan of one layer asks for."""
    mlp = mlps.build(config.mlp, config.d_model)
    return Block(config.d_model, config.norm_eps, mixer=_mixer(config, layer, n_meta), mlp=mlp)


def _mixer(config: ModelConfig, layer: LayerPlan, n_meta: int) -> nn.Module:
    d_model, attention_heads, d_inner = config.d_model, layer.heads.attention, layer.heads.d_inner
    ssm = ssms.build(config.ssm, d_model, d_inner) if d_inner else None
    if attention_heads is None:
        assert ssm is not None and d_inner is not None
        return SSMOnly(ssm, nn.Linear(d_inner, d_model, bias=False))
    attention = attentions.build(
        config.attention, d_model, attention_heads, layer.window, n_meta, layer.owns_kv
    )
    if ssm is None:
        return AttentionOnly(attention, nn.Linear(attention_heads.d_out, d_model, bias=False))
    return Parallel(
        attention, ssm, fusions.build(config.fusion, attention_heads.d_out, d_inner, d_model)
    )
