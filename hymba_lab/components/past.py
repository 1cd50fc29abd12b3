"""What a branch knows of earlier tokens: nothing in training, a cache while generating.

A branch asks its `past` for what reaches across calls, so that its forward pass reads the same in
both cases: `WHOLE`, the default, sees a sequence that starts here; `hymba_lab.model.cache` has the
same methods over kept states.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hymba_lab.ops import attention, causal_conv, selective_scan

KeyValue = tuple[Tensor, Tensor]  # k (B, K, S, P) after its rotation, v (B, K, S, V)


class AttentionPast(Protocol):
    """Where the new tokens stand and which keys and values came before them."""

    def positions(self, n_tokens: int, device: torch.device) -> Tensor | range:
        """Return the positions of the new tokens, to be broadcast over (B, heads, T)."""
        ...

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        """Keep the new keys and values; return all that the new queries may see."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, n_meta: int) -> Tensor:
        """Return `ops.attention` of the new queries over what `extend` returned."""
        ...


class SSMPast(Protocol):
    """The state before the new tokens and the last inputs of the convolution."""

    def decay(self, A_log: Tensor) -> Tensor:
        """Return A = -exp(A_log) in float32."""
        ...

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return `ops.causal_conv` of x (B, T, D) after the inputs kept."""
        ...

    def scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        *,
        z: Tensor,
        dt_bias: Tensor,
    ) -> Tensor:
        """Return `ops.selective_scan` of x (B, T, D) from the state kept."""
        ...


class _Whole:
    """No past: the sequence starts here and is given whole."""

    def positions(self, n_tokens: int, device: torch.device) -> range:
        return range(n_tokens)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        return k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, n_meta: int) -> Tensor:
        return attention(q, k, v, window=window, n_meta=n_meta)

    def decay(self, A_log: Tensor) -> Tensor:
        return -A_log.float().exp()

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return causal_conv(x, weight, bias)[0]

    def scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        *,
        z: Tensor,
        dt_bias: Tensor,
    ) -> Tensor:
        return selective_scan(x, dt, A, B, C, D, z=z, dt_bias=dt_bias)[0]


WHOLE = _Whole()


class LayerPast(NamedTuple):
    """The past of one layer's branches."""

    attention: AttentionPast = WHOLE
    ssm: SSMPast = WHOLE


NO_PAST = LayerPast()
