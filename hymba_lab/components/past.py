"""What a component knows of earlier tokens: nothing in training, a cache while generating.

A component asks its `past` for what reaches across calls, so that its forward pass reads the same
in both cases: `WHOLE`, the default, sees a sequence that starts here; `hymba_lab.model.cache` has
the same methods over what was kept. There is one way for each kind of memory, and any component,
a plugin's too, may use all of them:

    k, v = past.extend(k, v);  o = past.attend(q, k, v, ...)     keys and values
    u    = past.conv(x, weight, bias, state="inputs")            the last inputs of a convolution
    v0   = past.first_values(v)                                  what the first layer made of v
    y    = past.recur(OP, {"q": q, "k": k}, state="h")           the state of a recurrence

`cache_shapes(n_tokens)` of the component names what these keep (`state=`, "k" and "v") and how
large it is for one row; nothing else has to be said. The keys, the values and what begins with
`inputs` are kept in the precision of the weights, every other buffer in float32 at least, because
sums over a whole sequence are made in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hymba_lab.errors import ConfigError
from hymba_lab.ops import attention, causal_conv

KeyValue = tuple[Tensor, Tensor]  # k (B, K, S, P) after its rotation, v (B, K, S, V)
Names = str | tuple[str, ...]
State = Tensor | tuple[Tensor, ...]  # a tensor for one name, a tuple for several


@dataclass(frozen=True)
class Recurrence:
    """An operation over tokens that carries a state from each token to the next.

    `scan(**tokens, **fixed, state=before)` returns y (B, T, ...) and the state after the last
    token: `tokens` are (B, T, ...), `fixed` is what all tokens share, `before` is None for the
    zero state. The state is (B, *shape), the shape as in `cache_shapes`; it is a tuple of such
    tensors where the component names several.

    `step(**tokens, **fixed, state=kept)` is a faster form for one token of each row, (B, ...)
    without time: it returns y (B, ...) and changes the state in place. None: `scan` of one token.

    `no_step` says for each input, by name, the value at which a token leaves the state as it is
    (a step of 0, a key of 0 with a decay of 1): padding gets it. None: there is no such value, and
    rows that end at different places are scanned apart, which is right for every operation and
    slower.

    `values` names the input (B, T, H, V) that the state takes in, where y (B, T, H, V) is linear in
    it and treats all V channels alike (the v of linear attention and of delta rules, the x of
    Mamba-2): probes then read off how much of token s is in y at token t.
    """

    scan: Callable[..., tuple[Tensor, Any]]
    step: Callable[..., Tensor] | None = None
    no_step: Mapping[str, float] | None = None
    values: str | None = None


class Past(Protocol):
    """What came before the new tokens of one component."""

    def positions(self, n_tokens: int, device: torch.device) -> Tensor | range:
        """Return the positions of the new tokens, to be broadcast over (B, heads, T)."""
        ...

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        """Keep the new keys and values; return all that the new queries may see."""
        ...

    def first_values(self, v: Tensor) -> Tensor:
        """Return the new values of the first layer that asks: v, unless one below has asked."""
        ...

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        window: int | None,
        n_meta: int,
        sink: Tensor | None = None,
    ) -> Tensor:
        """Return `ops.attention` of the new queries over what `extend` returned."""
        ...

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        silu: bool = True,
        state: str = "inputs",
    ) -> Tensor:
        """Return `ops.causal_conv` of x (B, T, D) after the K-1 inputs kept under `state`."""
        ...

    def recur(
        self,
        op: Recurrence,
        tokens: Mapping[str, Tensor],
        fixed: Mapping[str, Any] | None = None,
        *,
        state: Names = "h",
    ) -> Tensor:
        """Return y (B, T, ...) of `op` from the state kept under the name or names `state`."""
        ...


class _Whole:
    """No past: the sequence starts here and is given whole."""

    def positions(self, n_tokens: int, device: torch.device) -> range:
        return range(n_tokens)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        return k, v

    def first_values(self, v: Tensor) -> Tensor:
        return v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        window: int | None,
        n_meta: int,
        sink: Tensor | None = None,
    ) -> Tensor:
        return attention(q, k, v, window=window, n_meta=n_meta, sink=sink)

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        silu: bool = True,
        state: str = "inputs",
    ) -> Tensor:
        return causal_conv(x, weight, bias, silu=silu)[0]

    def recur(
        self,
        op: Recurrence,
        tokens: Mapping[str, Tensor],
        fixed: Mapping[str, Any] | None = None,
        *,
        state: Names = "h",
    ) -> Tensor:
        return op.scan(**tokens, **(fixed or {}), state=None)[0]


WHOLE = _Whole()


class LayerPast(NamedTuple):
    """The past of every part of a layer that may keep something; a field is the part's name.

    A part is an attribute of the block's mixer or of the block itself. One more kind of part needs
    one more field here: the cache then makes its buffers and the costs count them.
    """

    attention: Past = WHOLE
    ssm: Past = WHOLE
    conv_mixer: Past = WHOLE
    conv_mlp: Past = WHOLE


NO_PAST = LayerPast()


class _Above:
    """A past that also knows the values that the first layer made of the same tokens."""

    def __init__(self, past: Past, layer: int, first: dict[str, Any]) -> None:
        self._past, self._layer, self._first = past, layer, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._past, name)

    def first_values(self, v: Tensor) -> Tensor:
        if self._first.setdefault("layer", self._layer) == self._layer:
            self._first["v"] = v  # again where a block is computed twice to save memory
        first: Tensor = self._first["v"]
        if first.shape != v.shape:
            raise ConfigError(
                f"value_residual adds the values of layer {self._first['layer']}, "
                f"{_heads(first)}, to those of layer {self._layer}, {_heads(v)}; give both layers "
                "the same key and value heads."
            )
        return first


def _heads(v: Tensor) -> str:
    return f"{v.shape[1]} heads of {v.shape[3]} channels"


def knowing_first_values(pasts: Iterable[LayerPast]) -> Iterator[LayerPast]:
    """Yield the pasts of one forward pass so that attention may ask for `first_values`."""
    first: dict[str, Any] = {}
    for layer, past in enumerate(pasts):
        above: Any = _Above(past.attention, layer, first)
        yield past._replace(attention=above)


def kept_shapes(component: Any, n_tokens: int) -> dict[str, tuple[int, ...]] | None:
    """Return what one row of a component keeps after `n_tokens`; None if it doesn't say."""
    stated = getattr(component, "cache_shapes", None)
    return None if stated is None else stated(n_tokens)


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the precision of a buffer in a model of `dtype`: states are kept as sums are made."""
    as_given = name in ("k", "v") or name.startswith("inputs")
    return dtype if as_given else torch.promote_types(dtype, torch.float32)
