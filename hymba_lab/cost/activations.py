"""Memory of a training step [bytes]: what autograd saves, and weights with their optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hymba_lab.components.past import KeyValue
from hymba_lab.config import ModelConfig
from hymba_lab.cost.model import meta_model
from hymba_lab.model import LanguageModel
from hymba_lab.ops.cross_entropy import linear_cross_entropy

BYTES_PER_PARAM = {"fp32": 16, "bf16-mixed": 18, "bf16-true": 18}
"""Weight, gradient and AdamW's two moments, float32 each; rounded weights add 2 bytes."""


def activation_bytes(config: ModelConfig, vocab: int, seq_len: int, precision: str) -> int:
    """Estimate the bytes that one row of `seq_len` tokens keeps from forward to backward.

    Counted once per storage: every tensor that autograd saves up to the cross-entropy loss, but for
    the weights, with fused attention (q, k, v, its output and a float32 log-sum per query and head)
    and a fused scan; norms and scans save float32, as they do on a CPU. Not counted: temporary
    buffers, gradients in flight, fragmentation. In bf16 the rest takes 2 bytes.
    """
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = meta_model(config, vocab).to(dtype)
    weights = {_storage(p) for p in model.parameters()}
    tokens = torch.zeros(1, seq_len, dtype=torch.long, device="meta")
    with _saved(weights) as saved:
        share = torch.ones(seq_len, device="meta")
        features, repeated = _features(model, tokens, saved)
        linear_cross_entropy(features.flatten(0, 1), model.head_weight, tokens.flatten(), share)
    return saved.total + repeated


def _features(model: LanguageModel, tokens: Tensor, saved: "_Saved") -> tuple[Tensor, int]:
    """What `model.features` returns, of layers alike only two computed; and what it skipped.

    Layers are alike in their own configuration, their widths and whether they make keys and values.
    The first one also holds what all share, such as a table of angles.
    """
    x = model.embedding(tokens)
    x = model.meta.add(x) if model.meta else x
    made: dict[int | None, KeyValue | None] = {}
    known: dict[tuple[object, ...], list[tuple[int, KeyValue | None]]] = {}
    skipped = 0
    for layer, block in zip(model.plan, model.blocks, strict=True):
        own = model.config.at(layer.index).model_dump_json(serialize_as_any=True)
        alike = (own, layer.heads, layer.window is None, layer.owns_kv)
        computed = known.setdefault(alike, [])
        if len(computed) == 2:
            n_bytes, made[layer.index] = computed[1]
            skipped += n_bytes
            continue
        before = saved.total
        x, made[layer.index] = block(x, made.get(layer.kv_from))
        computed.append((saved.total - before, made[layer.index]))
    x = model.norm(x)
    return (model.meta.drop(x) if model.meta else x), skipped


class _Saved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects storages; adds what a fused attention saves, whose shape-only form saves nothing."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights  # saved, but no activations
        # held, so that the key of a freed storage is not given to another
        self.held: dict[int, torch.UntypedStorage] = {}
        self.extra = 0

    @property
    def total(self) -> int:
        """Bytes of all that was saved so far."""
        kept = (s.nbytes() for key, s in self.held.items() if key not in self.weights)
        return sum(kept) + self.extra

    def keep(self, tensor: Tensor) -> Tensor:
        self.held[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.hymba_lab.attention_cost.default:
            for tensor in (*args[:3], result):
                self.keep(tensor)
            self.extra += args[0].shape[:3].numel() * torch.float32.itemsize
        return result


@contextmanager
def _saved(weights: set[int]) -> Iterator[_Saved]:
    collected = _Saved(weights)
    hooks = torch.autograd.graph.saved_tensors_hooks(collected.keep, lambda tensor: tensor)
    with collected, hooks:
        yield collected


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
