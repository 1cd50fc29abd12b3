"""One forward pass, watched: what every branch was given, computed with, and returned.

A component asks its `past` for what reaches across tokens (`components/past.py`). Here that is one
which answers as in training and keeps what passes: queries, keys and values after their rotation,
the inputs of every recurrence. Nothing of the forward pass is written a second time, and a mixer
that no probe knows is watched like any other.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hymba_lab.components.past import WHOLE, KeyValue, LayerPast, Names, Past, Recurrence
from hymba_lab.components.ssm import SCAN
from hymba_lab.model import LanguageModel
from hymba_lab.model.block import Block

BRANCHES = ("attention", "ssm")


@dataclass(frozen=True)
class AttentionSeen:
    """q (B, H, T, P), k (B, K, S, P), v (B, K, S, V) of one layer, and what hides keys."""

    q: Tensor
    k: Tensor
    v: Tensor
    window: int | None
    n_meta: int
    sink: Tensor | None = None  # (H,) logit of what takes weight and gives nothing


@dataclass(frozen=True)
class RecurrenceSeen:
    """An operation over tokens, its inputs by name, and the y (B, T, ...) that it returned."""

    op: Recurrence
    tokens: Mapping[str, Tensor]
    fixed: Mapping[str, Any]
    y: Tensor


@dataclass(frozen=True)
class ScanSeen:
    """The scan's inputs: u, dt, z (B, T, D); A (D, N); B, C (B, T, N); D, dt_bias (D,)."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    dt_bias: Tensor


@dataclass
class LayerSeen:
    """One layer; what it lacks, or does not ask its past for, is None or not there."""

    attention: AttentionSeen | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)  # branch -> (B, T, its width)
    recurrences: dict[str, dict[Names, RecurrenceSeen]] = field(default_factory=dict)
    """Branch -> name of the state -> what ran."""
    largest: float = math.nan  # of the absolute values behind the layer
    median: float = math.nan

    @property
    def ssm(self) -> ScanSeen | None:
        """The selective scan of the SSM branch, None for another recurrence."""
        for seen in self.recurrences.get("ssm", {}).values():
            if seen.op is SCAN:
                fixed, inputs = dict(seen.fixed), dict(seen.tokens)
                A = -fixed.pop("A_log").float().exp()
                return ScanSeen(u=inputs.pop("x"), A=A, **inputs, **fixed)
        return None


class _Seen:
    """The past of one part of a layer."""

    def __init__(self, layer: LayerSeen, branch: str) -> None:
        self.layer, self.branch = layer, branch

    def positions(self, n_tokens: int, device: torch.device) -> range:
        return WHOLE.positions(n_tokens, device)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        return WHOLE.extend(k, v)

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
        self.layer.attention = AttentionSeen(q, k, v, window, n_meta, sink)
        return WHOLE.attend(q, k, v, window=window, n_meta=n_meta, sink=sink)

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        silu: bool = True,
        state: str = "inputs",
    ) -> Tensor:
        return WHOLE.conv(x, weight, bias, silu=silu, state=state)

    def recur(
        self,
        op: Recurrence,
        tokens: Mapping[str, Tensor],
        fixed: Mapping[str, Any] | None = None,
        *,
        state: Names = "h",
    ) -> Tensor:
        y = WHOLE.recur(op, tokens, fixed, state=state)
        seen = self.layer.recurrences.setdefault(self.branch, {})
        seen[state] = RecurrenceSeen(op, tokens, fixed or {}, y)
        return y


class _Watch:
    """Stands where a cache stands: a past for each layer of a text that starts here."""

    is_empty = True  # so that the meta tokens are put in front

    def __init__(self, layers: list[LayerSeen]) -> None:
        self.layers = layers

    def begin(self, n_tokens: int, n_real: Tensor | None) -> list[LayerPast]:
        pasts: list[dict[str, Past]] = [
            {name: _Seen(seen, name) for name in LayerPast._fields} for seen in self.layers
        ]
        return [LayerPast(**past) for past in pasts]


@torch.no_grad()
def watch(model: LanguageModel, tokens: Tensor) -> list[LayerSeen]:
    """Return what every layer saw of tokens (B, T); positions count the meta tokens in front."""
    layers = [LayerSeen() for _ in model.plan]
    with ExitStack() as stack:
        for index, branch, module in branches(model):
            stack.enter_context(_kept(module, layers[index].outputs, branch))
        for block, layer in zip(model.blocks, layers, strict=True):
            stack.enter_context(_measured(block, layer))
        model.features(tokens, cast(Any, _Watch(layers)))
    return layers


def branches(model: LanguageModel) -> Iterator[tuple[int, str, nn.Module]]:
    """Yield (layer, "attention" or "ssm", module) of every branch there is."""
    for index, block in enumerate(model.blocks):
        for name, part in cast(Block, block).mixer.named_children():
            if name in BRANCHES:
                yield index, name, part


@contextmanager
def _kept(module: nn.Module, into: dict[str, Tensor], branch: str) -> Iterator[None]:
    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        into[branch] = output[0] if isinstance(output, tuple) else output

    with hooked(module.register_forward_hook(keep)):
        yield


@contextmanager
def _measured(block: nn.Module, layer: LayerSeen) -> Iterator[None]:
    def measure(_module: nn.Module, _given: Any, output: tuple[Tensor, Any]) -> None:
        sizes = output[0].abs()
        layer.largest, layer.median = sizes.max().item(), sizes.median().item()

    with hooked(block.register_forward_hook(measure)):
        yield


@contextmanager
def hooked(handle: RemovableHandle) -> Iterator[None]:
    """Take a hook off again."""
    try:
        yield
    finally:
        handle.remove()
