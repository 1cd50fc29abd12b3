"""Memory of a training step [bytes]: what autograd saves, and weights with their optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hymba_lab.config import ModelConfig
from hymba_lab.cost.layers import measured
from hymba_lab.model import LanguageModel
from hymba_lab.ops.cross_entropy import linear_cross_entropy

BYTES_PER_PARAM = {"fp32": 16, "bf16-mixed": 18, "bf16-true": 18}
"""Weight, gradient and AdamW's two moments, float32 each; rounded weights add 2 bytes."""


def activation_bytes(config: ModelConfig, vocab: int, seq_len: int, precision: str) -> int:
    """Estimate the bytes that one row of `seq_len` tokens keeps from forward to backward.

    Counted once per storage: every tensor that autograd saves up to the cross-entropy loss, but for
    the weights, with fused attention (q, k, v, its output and a float32 log-sum per query and head)
    and a fused scan; scans save float32, as they do on a CPU. Not counted: temporary buffers,
    gradients in flight, fragmentation. In bf16 the rest takes 2 bytes. On an H200 training steps in
    bf16 took an eighth to a fifth less than so estimated (results/gpu-NVIDIA_H200.md).
    """
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return measured(config, vocab, lambda model: {"bytes": _kept(model.to(dtype), seq_len)})[
        "bytes"
    ]


def _kept(model: LanguageModel, seq_len: int) -> int:
    """Return the bytes that a model on the meta device keeps for one row."""
    weights = {_storage(p) for p in model.parameters()}
    tokens = torch.zeros(1, seq_len, dtype=torch.long, device="meta")
    with _saved() as saved:
        share = torch.ones(seq_len, device="meta")
        linear_cross_entropy(
            model.features(tokens).flatten(0, 1), model.head_weight, tokens.flatten(), share
        )
    kept = sum(storage.nbytes() for key, storage in saved.held.items() if key not in weights)
    return kept + saved.extra


class _Saved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects storages; adds what a fused attention saves, whose shape-only form saves nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # held, so that the key of a freed storage is not given to another
        self.held: dict[int, torch.UntypedStorage] = {}
        self.extra = 0

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
def _saved() -> Iterator[_Saved]:
    collected = _Saved()
    hooks = torch.autograd.graph.saved_tensors_hooks(collected.keep, lambda tensor: tensor)
    with collected, hooks:
        yield collected


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
