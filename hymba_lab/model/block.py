"""One layer: a token mixer and an MLP around the residual stream.

A mixer maps x (B, T, D) and a producer's keys and values (or None) to y (B, T, D) and the keys and
values it used, so that pure attention, pure SSM and both in parallel are the same block.
`past` is what its branches know of earlier tokens: nothing, or a layer of the cache.
"""

from typing import Any

from torch import Tensor, nn

from hymba_lab.components.attention import attentions
from hymba_lab.components.fusion import fusions
from hymba_lab.components.mlp import mlps
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast
from hymba_lab.components.short_conv import ConvPlan, ShortConv, short_convs
from hymba_lab.components.ssm import ssms
from hymba_lab.components.topology import topologies
from hymba_lab.config import ModelConfig
from hymba_lab.model.plan import LayerPlan
from hymba_lab.model.plan_checks import check_topology


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
    """h = x + mixer(norm1(x));  y = h + mlp(norm2(h)), or y = h without an MLP.

    With short convolutions c(u) = u + conv(u) what mixer and MLP read passes through them first.
    """

    def __init__(
        self,
        d_model: int,
        eps: float,
        *,
        mixer: nn.Module,
        mlp: nn.Module | None,
        conv: ConvPlan | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.mixer = RMSNorm(d_model, eps), mixer
        self.norm2 = RMSNorm(d_model, eps) if mlp else None
        self.mlp = mlp
        self.conv_mixer = ShortConv(d_model, conv.d_conv) if conv and conv.mixer else None
        self.conv_mlp = ShortConv(d_model, conv.d_conv) if conv and conv.mlp and mlp else None

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        u = self.norm1(x)
        u = self.conv_mixer(u, past.conv_mixer) if self.conv_mixer else u
        y, kv = self.mixer(u, kv, past)
        return self.channels(x + y, past), kv

    def channels(self, h: Tensor, past: LayerPast) -> Tensor:
        """Return h + mlp(norm2(h)), or h without an MLP."""
        if self.mlp is None or self.norm2 is None:
            return h
        u = self.norm2(h)
        u = self.conv_mlp(u, past.conv_mlp) if self.conv_mlp else u
        y: Tensor = h + self.mlp(u)
        return y


class AllParallel(Block):
    """y = x + mixer(n) + mlp(n),  n = norm1(x) (SAM of arXiv:2507.22448)."""

    def __init__(self, d_model: int, eps: float, **parts: Any) -> None:
        super().__init__(d_model, eps, **parts)
        self.norm2 = None  # all three read the same

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        n = self.norm1(x)
        u = self.conv_mixer(n, past.conv_mixer) if self.conv_mixer else n
        y, kv = self.mixer(u, kv, past)
        if self.mlp is None:
            return x + y, kv
        n = self.conv_mlp(n, past.conv_mlp) if self.conv_mlp else n
        return x + y + self.mlp(n), kv


class InTurn(nn.Module):
    """What an `OneByOne` block mixes with: both branches, each with its own way out."""

    def __init__(
        self, attention: nn.Module, ssm: nn.Module, out_attn: nn.Linear, out_ssm: nn.Linear
    ) -> None:
        super().__init__()
        self.attention, self.ssm = attention, ssm
        self.out_attn, self.out_ssm = out_attn, out_ssm


class OneByOne(Block):
    """h = x + W_s ssm(norm1(x));  h' = h + W_a attention(norm_attn(h));  y = h' + mlp(norm2(h')).

    S_A_M of arXiv:2507.22448: the three follow each other inside one layer.
    """

    mixer: InTurn

    def __init__(self, d_model: int, eps: float, **parts: Any) -> None:
        super().__init__(d_model, eps, **parts)
        self.norm_attn = RMSNorm(d_model, eps)

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: LayerPast = NO_PAST
    ) -> tuple[Tensor, KeyValue | None]:
        u = self.norm1(x)
        u = self.conv_mixer(u, past.conv_mixer) if self.conv_mixer else u
        h = x + self.mixer.out_ssm(self.mixer.ssm(u, past.ssm))
        a, kv = self.mixer.attention(self.norm_attn(h), kv, past.attention)
        return self.channels(h + self.mixer.out_attn(a), past), kv


def build_block(config: ModelConfig, layer: LayerPlan, n_meta: int) -> Block:
    """Return the block that the plan of one layer asks for."""
    config = config.at(layer.index)
    topology = topologies.build(config.topology)
    check_topology(topology)
    both = layer.heads.attention is not None and layer.heads.d_inner is not None
    blocks = {"sa_m": Block, "sam": AllParallel, "s_a_m": OneByOne if both else Block}
    return blocks[topology](
        config.d_model,
        config.norm_eps,
        mixer=_mixer(config, layer, n_meta, in_turn=both and topology == "s_a_m"),
        mlp=mlps.build(config.mlp, config.d_model),
        conv=short_convs.build(config.short_conv),
    )


def _mixer(config: ModelConfig, layer: LayerPlan, n_meta: int, *, in_turn: bool) -> nn.Module:
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
    assert d_inner is not None
    if in_turn:
        ways = (nn.Linear(width, d_model, bias=False) for width in (attention_heads.d_out, d_inner))
        return InTurn(attention, ssm, *ways)
    return Parallel(
        attention, ssm, fusions.build(config.fusion, attention_heads.d_out, d_inner, d_model)
    )
