"""One forward pass, watched: what every branch was given, computed with, and returned.

A branch asks its `past` for what reaches across tokens (`components/past.py`). Here that is one
which answers as in training and keeps what passes: queries, keys and values after their rotation,
the inputs of the scan. Nothing of the forward pass is written a second time.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hymba_lab.components.past import WHOLE, AttentionPast, KeyValue, LayerPast, SSMPast
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
    """One layer; what it lacks, or a plugin's branch does not ask its past for, is None."""

    attention: AttentionSeen | None = None
    ssm: ScanSeen | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)  # branch -> (B, T, its width)


class _Attention:
    def __init__(self, seen: LayerSeen) -> None:
        self.seen = seen

    def positions(self, n_tokens: int, device: torch.device) -> range:
        return WHOLE.positions(n_tokens, device)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        return WHOLE.extend(k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, n_meta: int) -> Tensor:
        self.seen.attention = AttentionSeen(q, k, v, window, n_meta)
        return WHOLE.attend(q, k, v, window=window, n_meta=n_meta)


class _Scan:
    def __init__(self, seen: LayerSeen) -> None:
        self.seen = seen

    def decay(self, A_log: Tensor) -> Tensor:
        return WHOLE.decay(A_log)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return WHOLE.conv(x, weight, bias)

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
        self.seen.ssm = ScanSeen(x, dt, A, B, C, D, z, dt_bias)
        return WHOLE.scan(x, dt, A, B, C, D, z=z, dt_bias=dt_bias)


class _Watch:
    """Stands where a cache stands: a past for each layer of a text that starts here."""

    is_empty = True  # so that the meta tokens are put in front

    def __init__(self, layers: list[LayerSeen]) -> None:
        self.layers = layers

    def begin(self, n_tokens: int, n_real: Tensor | None) -> list[LayerPast]:
        attention: list[AttentionPast] = [_Attention(seen) for seen in self.layers]
        ssm: list[SSMPast] = [_Scan(seen) for seen in self.layers]
        return [LayerPast(*pair) for pair in zip(attention, ssm, strict=True)]


@torch.no_grad()
def watch(model: LanguageModel, tokens: Tensor) -> list[LayerSeen]:
    """Return what every layer saw of tokens (B, T); positions count the meta tokens in front."""
    layers = [LayerSeen() for _ in model.plan]
    with ExitStack() as stack:
        for index, branch, module in branches(model):
            stack.enter_context(_kept(module, layers[index].outputs, branch))
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
def hooked(handle: RemovableHandle) -> Iterator[None]:
    """Take a hook off again."""
    try:
        yield
    finally:
        handle.remove()
