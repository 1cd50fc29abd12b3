"""The attention branch: built from d_model, its heads and the layer's window.

It maps x (B, T, D) and a producer's keys and values (or None) to its output (B, T, H * V) and the
keys and values it used. A consumer owns no key and value weights. `past` stands for the tokens of
earlier calls while generating.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.heads import AttentionHeads
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import WHOLE, KeyValue, Past
from hymba_lab.components.short_conv import ShortConv
from hymba_lab.errors import ConfigError
from hymba_lab.ops.rotary import rotate
from hymba_lab.registry import LATER, Registry

attentions: Registry[nn.Module] = Registry("model.attention")


Share = Annotated[float, Field(gt=0, le=1)]
Layers = Literal["all", "full", "window"]


@attentions.register("softmax")
class SoftmaxAttention(nn.Module):
    """o = softmax(q k^T / sqrt(P) + mask) v with grouped queries and, unless off, RoPE on q and k.

    As in the released Hymba code there is no output projection, it belongs to the fusion, and by
    default no norm, gate or sink. The options, each off at its default:

    qk_norm      q, k = RMSNorm(q), RMSNorm(k), per head, before RoPE
    rope_theta   null leaves positions to the SSM and the mask (NoPE); `rope_layers` does so outside
                 the layers named, `rope_share` turns the first channels of a head only
    sink         one key more, of logit b and value 0: b learned per head (gpt-oss), or 0 (the
                 off-by-one softmax)
    output_gate  o * sigmoid(W_g x), per channel or per head (arXiv:2505.06708)
    value_residual  v + g v_1, v_1 the values of the first layer, g learned per head
                    (arXiv:2410.17897)
    qkv_conv     q, k, v each plus their convolution over so many tokens (Canon B)
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
        rope_share: Annotated[Share, LATER] = 1.0,
        rope_layers: Annotated[Layers, LATER] = "all",
        qk_norm: Annotated[bool, LATER] = False,
        sink: Annotated[Literal["learned", "off_by_one"] | None, LATER] = None,
        output_gate: Annotated[Literal["elementwise", "per_head"] | None, LATER] = None,
        value_residual: Annotated[bool, LATER] = False,
        qkv_conv: Annotated[Annotated[int, Field(ge=2)] | None, LATER] = None,
        eps: Annotated[float, Field(gt=0), LATER] = 1e-6,
    ) -> None:
        """`rope_scale` is the NTK factor: theta * scale^(P / (P - 2)) (Hymba: 7)."""
        super().__init__()
        self.heads, self.window, self.n_meta, self.owns_kv = heads, window, n_meta, owns_kv
        d_q, d_out = heads.n_heads * heads.d_head, heads.d_out
        self.d_turned = _turned(heads.d_head, rope_share)
        turns = rope_layers in ("all", "full" if window is None else "window")
        self.rope_theta = rope_theta and _ntk(rope_theta, rope_scale, self.d_turned)
        self.rope_theta = self.rope_theta if turns else None
        self.q = nn.Linear(d_model, d_q, bias=False)
        self.q_norm = RMSNorm(heads.d_head, eps) if qk_norm else None
        if owns_kv:
            self.k = nn.Linear(d_model, heads.n_kv_heads * heads.d_head, bias=False)
            self.v = nn.Linear(d_model, heads.n_kv_heads * heads.d_head_v, bias=False)
            self.k_norm = RMSNorm(heads.d_head, eps) if qk_norm else None
        self.value_residual: Tensor | None = None
        if owns_kv and value_residual:
            self.value_residual = nn.Parameter(torch.full((heads.n_kv_heads,), 0.5))
        self.convs = nn.ModuleDict()
        if qkv_conv is not None:
            widths = {"q": d_q}
            if owns_kv:
                widths |= {"k": self.k.out_features, "v": self.v.out_features}
            convs = {name: ShortConv(width, qkv_conv) for name, width in widths.items()}
            self.convs = nn.ModuleDict(convs)
        self.sink = nn.Parameter(torch.zeros(heads.n_heads)) if sink == "learned" else None
        self.off_by_one = sink == "off_by_one"
        d_gate = {None: 0, "per_head": heads.n_heads, "elementwise": d_out}[output_gate]
        self.gate = nn.Linear(d_model, d_gate, bias=False) if d_gate else None

    def forward(
        self, x: Tensor, kv: KeyValue | None = None, past: Past = WHOLE
    ) -> tuple[Tensor, KeyValue]:
        q = _split(self._conv("q", self.q(x), past), self.heads.d_head)
        q = self._rotate(self.q_norm(q) if self.q_norm else q, past)
        k, v = kv if kv is not None else past.extend(*self.keys_values(x, past))
        sink = q.new_zeros(q.shape[1]) if self.off_by_one else self.sink
        o = past.attend(q, k, v, window=self.window, n_meta=self.n_meta, sink=sink)
        o = o.transpose(1, 2)
        if self.gate is not None:
            share = torch.sigmoid(self.gate(x))
            o = o * share.view(*o.shape[:3], -1)
        return o.flatten(2), (k, v)

    def keys_values(self, x: Tensor, past: Past = WHOLE) -> KeyValue:
        """Return k (B, K, T, P), rotated, and v (B, K, T, V)."""
        k = _split(self._conv("k", self.k(x), past), self.heads.d_head)
        k = self._rotate(self.k_norm(k) if self.k_norm else k, past)
        v = _split(self._conv("v", self.v(x), past), self.heads.d_head_v)
        if self.value_residual is not None:
            v = v + self.value_residual.view(-1, 1, 1) * past.first_values(v)
        return k, v

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps after `n_tokens`; a consumer has no keys and values.

        The meta tokens and the window, its newest token included, or all tokens without a window.
        """
        kept = {
            f"inputs_{name}": conv.cache_shapes(n_tokens)["inputs"]
            for name, conv in self.convs.items()
            if isinstance(conv, ShortConv)
        }
        if not self.owns_kv:
            return kept
        n_keys = self.n_meta + min(n_tokens, self.window or n_tokens)
        heads = self.heads
        return kept | {
            "k": (heads.n_kv_heads, n_keys, heads.d_head),
            "v": (heads.n_kv_heads, n_keys, heads.d_head_v),
        }

    def _conv(self, name: str, x: Tensor, past: Past) -> Tensor:
        """The short convolution of q, k or v, where there is one."""
        if name not in self.convs:
            return x
        y: Tensor = self.convs[name](x, past, f"inputs_{name}")
        return y

    def _rotate(self, x: Tensor, past: Past) -> Tensor:
        if self.rope_theta is None:
            return x
        positions = past.positions(x.shape[2], x.device)
        if self.d_turned == x.shape[3]:
            return rotate(x, positions, self.rope_theta)
        turned = rotate(x[..., : self.d_turned], positions, self.rope_theta)
        return torch.cat([turned, x[..., self.d_turned :]], dim=3)


def _turned(d_head: int, share: float) -> int:
    d_turned = round(share * d_head)
    if d_turned < 2 or d_turned % 2:
        raise ConfigError(
            f"rope_share = {share:g} of d_head = {d_head} is {share * d_head:g} channels; RoPE "
            "turns channels in pairs: take a share that gives an even number."
        )
    return d_turned


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
