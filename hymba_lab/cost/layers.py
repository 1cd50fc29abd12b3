"""Costs of deep models: equal layers are built once.

Two layers are equal when their plans are, wherever they stand: same heads, same window, keys and
values of their own or of an equal producer. Every cost that is a sum over layers is then

    c(model) = c(first of each kind) + sum over kinds (n - 1) (c(one more of the kind) - c(first))

and a model of a thousand layers costs as many passes as it has kinds, plus one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hymba_lab.config import ModelConfig
from hymba_lab.cost.model import meta_model
from hymba_lab.model import LanguageModel
from hymba_lab.model.plan import LayerPlan, plan_layers

Number = TypeVar("Number", int, float)


def measured(
    config: ModelConfig, vocab: int, measure: Callable[[LanguageModel], Mapping[str, Number]]
) -> dict[str, Number]:
    """Return `measure(model)` of the whole model, from as few layers as it has kinds.

    `measure` takes a model on the meta device and returns sums over its layers, by name.
    """
    plan = plan_layers(config)
    kinds = kinds_of(plan, config)
    few: list[LayerPlan] = _firsts(plan, kinds)
    if len(plan) <= len(few) * (len(few) + 1):  # measured directly it takes no more layers
        return dict(measure(meta_model(config, vocab)))
    once = dict(measure(meta_model(config, vocab, few)))
    total = dict(once)
    for kind, n in Counter(kinds).items():
        if n == 1:
            continue
        second = plan[kinds.index(kind, kinds.index(kind) + 1)]
        another = replace(second, kv_from=_source(second, few, kinds))
        more = measure(meta_model(config, vocab, [*few, another]))
        for name in total:
            total[name] += (n - 1) * (more[name] - once[name])
    return total


def folded_model(config: ModelConfig, vocab: int) -> LanguageModel:
    """Return a model on the meta device with the whole plan, equal layers being one and the same.

    For what looks at layer by layer; sums over its modules or parameters would count a kind once.
    """
    plan = plan_layers(config)
    kinds = kinds_of(plan, config)
    firsts = meta_model(config, vocab, _firsts(plan, kinds))
    blocks: list[Any] = [firsts.blocks[kind] for kind in kinds]
    parts = (firsts.embedding, firsts.meta, blocks, firsts.norm, firsts.head)
    return LanguageModel(*parts, plan, config)


def kinds_of(plan: Sequence[LayerPlan], config: ModelConfig) -> list[int]:
    """Return the number of every layer's kind; kinds are numbered as they first appear."""
    numbers: dict[Any, int] = {}
    found: list[int] = []
    for layer in plan:
        borrows = layer.kv_from is not None and not layer.owns_kv
        producer = found[layer.kv_from] if borrows and layer.kv_from is not None else None
        parts = tuple(layer.index in one.at for one in config.layers)  # what differs there
        key = (layer.heads, layer.window, layer.kv_from is None, producer, parts)
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def _firsts(plan: Sequence[LayerPlan], kinds: Sequence[int]) -> list[LayerPlan]:
    """Return the first layer of each kind, in the order of the kinds, each by its own index.

    A consumer reads the first layer of its producer's kind: it stands before the consumer.
    """
    few: list[LayerPlan] = []
    for layer, kind in zip(plan, kinds, strict=True):
        if kind == len(few):
            few.append(replace(layer, kv_from=_source(layer, few, kinds)))
    return few


def _source(layer: LayerPlan, few: Sequence[LayerPlan], kinds: Sequence[int]) -> int | None:
    """Return the layer, itself or a first one, whose keys and values a layer reads."""
    if layer.kv_from is None or layer.owns_kv:
        return layer.kv_from
    return few[kinds[layer.kv_from]].index
