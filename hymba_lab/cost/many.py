"""Costs of many models: a layer that several of them have is measured once.

    c(model) = c(model without layers) + sum over its layers of c(layer)

A layer's cost is what a model of it alone costs more than one without layers; that of a layer which
reads another one's keys and values, what it adds behind its producer. A sweep of ten thousand rows
over a few axes has thousands of models, but few layers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hymba_lab.config import Config, ModelConfig
from hymba_lab.cost.layers import kinds_of
from hymba_lab.cost.model import count, meta_model
from hymba_lab.cost.totals import Costs, costs_of, sums
from hymba_lab.model import LanguageModel
from hymba_lab.model.plan import LayerPlan, plan_layers

# what a model without layers does not depend on, and what stands in a layer's plan
_OF_LAYERS = frozenset(
    ("n_layers", "heads", "order", "fusion", "placement", "kv_sharing", "attention", "ssm", "mlp",
     "short_conv", "topology", "layers", "init_std", "embedding_std")
)  # fmt: skip
_OF_PLAN = frozenset(
    ("n_layers", "heads", "order", "placement", "kv_sharing", "layers", "vocab", "tie_embeddings",
     "init_std", "embedding_std")
)  # fmt: skip

Sums = Mapping[str, int]
Tried = Callable[[LanguageModel], None]


@dataclass(frozen=True)
class _Asked:
    """What is measured of one model; `name` tells measures apart."""

    name: Hashable
    measure: Callable[[LanguageModel], Sums]
    model: ModelConfig
    plan: Sequence[LayerPlan]
    tried: Tried | None


class Meter:
    """Costs of one model after the other, for data that needs `vocab` ids."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self._known: dict[Hashable, Sums] = {}

    def costs(self, config: Config, tried: Tried | None = None) -> Costs:
        """Return what `measure_costs` would; `tried` gets every model that is built for it."""
        seq_len = config.training.seq_len
        measure = partial(sums, seq_len=seq_len)
        return costs_of(self._total(seq_len, measure, config.model, tried), seq_len)

    def params(self, model: ModelConfig) -> int:
        """Return the number of parameters; no forward pass is needed."""
        return self._total("params", _params, model, None)["params"]

    def _total(
        self,
        name: Hashable,
        measure: Callable[[LanguageModel], Sums],
        model: ModelConfig,
        tried: Tried | None,
    ) -> Sums:
        asked = _Asked(name, measure, model, plan_layers(model), tried)
        total = Counter(self._outside(asked))
        kinds = kinds_of(asked.plan, model)
        for kind, n in Counter(kinds).items():
            for key, added in self._layer(asked, asked.plan[kinds.index(kind)]).items():
                total[key] += n * added
        return total

    def _outside(self, asked: _Asked) -> Sums:
        return self._measured(asked, (asked.name, _text(asked.model, _OF_LAYERS)), [])

    def _layer(self, asked: _Asked, layer: LayerPlan) -> Sums:
        """Return what one more layer like this one adds."""
        chain = [layer]
        if layer.kv_from is not None and not layer.owns_kv:
            chain.insert(0, asked.plan[layer.kv_from])
        key = (asked.name, *(_layer_key(asked.model, one) for one in chain))
        if key not in self._known:
            below = Counter(self._outside(asked))
            for producer in chain[:-1]:
                below.update(self._layer(asked, producer))
            whole = self._measured(asked, ("whole", key), chain)
            self._known[key] = {one: whole[one] - below[one] for one in whole}
        return self._known[key]

    def _measured(self, asked: _Asked, key: Hashable, layers: Sequence[LayerPlan]) -> Sums:
        if key not in self._known:
            built = meta_model(asked.model, self.vocab, layers)
            if asked.tried is not None:
                asked.tried(built)
            self._known[key] = asked.measure(built)
        return self._known[key]


def _params(model: LanguageModel) -> Sums:
    return {"params": count(model)}


def _layer_key(model: ModelConfig, layer: LayerPlan) -> Hashable:
    own = _text(model.at(layer.index), _OF_PLAN)
    return replace(layer, index=0, kv_from=None), layer.owns_kv, own


def _text(model: ModelConfig, without: frozenset[str]) -> str:
    return model.model_dump_json(serialize_as_any=True, exclude=set(without))
