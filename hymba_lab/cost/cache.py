"""What generation keeps: held by this lab, counted by the paper, held by the released code."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from hymba_lab.components.past import kept_dtype, kept_shapes
from hymba_lab.config import ModelConfig
from hymba_lab.cost.layers import measured
from hymba_lab.model import LanguageModel
from hymba_lab.model.block import Block
from hymba_lab.model.cache import parts

FP16 = 2  # bytes a value, as in the paper


def elements(component: nn.Module, n_tokens: int) -> int:
    """Return how many values a component keeps after `n_tokens`, by its `cache_shapes`."""
    shapes = kept_shapes(component, n_tokens) or {}
    return sum(map(math.prod, shapes.values()))


def cache_elements(model: nn.Module, n_tokens: int) -> int:
    """Return how many values a model or a block keeps after `n_tokens` [tokens of one sequence]."""
    return sum(elements(part, n_tokens) for part in _parts(model))


def held_bytes(config: ModelConfig, vocab: int, n_tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of this lab's cache for one sequence of `n_tokens` tokens.

    Keys, values and last inputs in the weights' `dtype`, states in float32 at least: the size of
    the buffers that `model.Cache` makes.
    """

    def held(model: LanguageModel) -> dict[str, int]:
        sizes = (
            math.prod(shape) * kept_dtype(name, dtype).itemsize
            for part in _parts(model)
            for name, shape in (kept_shapes(part, n_tokens) or {}).items()
        )
        return {"bytes": sum(sizes)}

    return measured(config, vocab, held)["bytes"]


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, Block):
            yield from (part for _, part in parts(module))


def paper_bytes(config: ModelConfig, model: LanguageModel, n_tokens: int) -> float:
    """Return the cache [bytes] as the paper counts it, in FP16:

        2 (n_full (S + n_meta) kv + n_window / g (W - 1) kv + n_layers d_inner d_state)

    S = n_tokens, kv = key and value channels of a token, W the window. Layers that share in groups
    of g count one part in g, fractions kept (9 layers in pairs are 4.5). Meta tokens count in full
    layers only. The query's own key, one of our W, is not counted. The last inputs of the
    convolution count only where no layer attends. Derived from the printed figures.
    """
    n_meta = model.meta.n_meta if model.meta else 0
    layers = _attending(model)
    groups = _group_sizes(model)
    total = 0.0
    for index, per_token in layers.items():
        window = model.plan[index].window
        seen = n_tokens + n_meta if window is None else min(n_tokens, window - 1)
        total += seen * per_token / groups[window]
    return FP16 * (total + _states(model, conv=0 if layers else -1))


def released_bytes(config: ModelConfig, model: LanguageModel, n_tokens: int) -> int:
    """Return what the released code holds [bytes] after n_tokens, in FP16.

    As ours, but W - 1 keys in a window layer besides the meta tokens, FP16 states and d_conv inputs
    where d_conv - 1 are needed.
    """
    n_meta = model.meta.n_meta if model.meta else 0
    total = 0
    for index, per_token in _attending(model).items():
        window = model.plan[index].window
        seen = n_tokens if window is None else min(n_tokens, window - 1)
        total += (seen + n_meta) * per_token * model.plan[index].owns_kv
    return FP16 * (total + _states(model, conv=1))


def _attending(model: LanguageModel) -> dict[int, int]:
    """Return layer -> values that one token adds to the keys and values which the layer reads."""
    grows = {}
    for layer in model.plan:
        if layer.kv_from is not None:
            producer = cast(Block, model.blocks[layer.kv_from]).mixer.get_submodule("attention")
            grows[layer.index] = elements(producer, 1) - elements(producer, 0)
    return grows


def _group_sizes(model: LanguageModel) -> dict[int | None, int]:
    """Return window -> the commonest number of layers that read one triple of keys and values.

    The larger of two equally common. (Hymba-1.5B: 13 pairs and one triple, so 2.)
    """
    readers = Counter(layer.kv_from for layer in model.plan if layer.kv_from is not None)
    common: dict[int | None, Counter[int]] = {}
    for producer, size in readers.items():
        common.setdefault(model.plan[producer].window, Counter())[size] += 1
    return {
        window: max(sizes, key=lambda size: (sizes[size], size)) for window, sizes in common.items()
    }


def _states(model: LanguageModel, conv: int) -> int:
    """Return what all SSMs keep, with `conv` > 0: d_conv inputs, 0: none, < 0: d_conv - 1."""
    total = 0
    for block in model.blocks:
        ssm = getattr(cast(Block, block).mixer, "ssm", None)
        if ssm is None:
            continue
        total += elements(ssm, 0)
        inputs = (kept_shapes(ssm, 0) or {}).get("inputs")
        if inputs is not None and conv >= 0:
            total += inputs[1] * (1 if conv else -inputs[0])
    return total
