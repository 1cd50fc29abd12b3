"""Token ids to logits: embedding, meta tokens, blocks, norm, head. Knows nothing of training."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hymba_lab.components.meta_tokens import MetaTokens, meta_tokens
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast, knowing_first_values
from hymba_lab.config import ModelConfig
from hymba_lab.errors import ConfigError
from hymba_lab.model.block import Block, build_block
from hymba_lab.model.cache import Cache
from hymba_lab.model.documents import by_document, cut_over_ranks
from hymba_lab.model.generate import generate, stream
from hymba_lab.model.memory import foreign, refuse_forgetful
from hymba_lab.model.plan import LayerPlan, plan_layers


class LanguageModel(nn.Module):
    """logits = head(norm(blocks(meta + embed(tokens)))), with the meta tokens cut off again.

    Attributes beside the parts: `plan`, `config` (what it was built from), `max_tokens` (longest
    text that its positions are made for; None = not known) and `released` (the configuration file
    that it was loaded with, None for a model of ours).
    """

    generate = generate
    stream = stream

    def __init__(
        self,
        embedding: nn.Embedding,
        meta: MetaTokens | None,
        blocks: list[Block],
        norm: nn.Module,
        head: nn.Linear | None,
        plan: list[LayerPlan],
        config: ModelConfig,
    ) -> None:
        """`head` None ties the output to the embedding."""
        super().__init__()
        self.embedding, self.meta, self.norm, self.head = embedding, meta, norm, head
        self.blocks = nn.ModuleList(blocks)
        self.plan, self.config = plan, config
        self.max_tokens: int | None = None
        self.released: Mapping[str, Any] | None = None
        self._remembers = False  # not tried yet
        mixers = [getattr(block.mixer, "attention", None) for block in blocks]
        self._looks_down = any(
            foreign(one) or getattr(one, "value_residual", None) is not None
            for one in mixers
            if one is not None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, vocab) of the next token, from tokens (B, T)."""
        return self.logits(self.features(tokens))

    def features(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        n_real: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized residual stream (B, T, D), meta tokens cut off.

        With a cache the tokens continue those it holds, and it keeps them; of row b only the first
        `n_real[b]` are tokens, the rest is padding (None: no padding). Where `starts` (B, T) is
        true a document begins that sees nothing earlier in its row.
        """
        if starts is not None:
            return by_document(self._features, tokens, starts, cut_over_ranks(self))
        return self._features(tokens, cache, n_real)

    def _features(
        self, tokens: Tensor, cache: Cache | None = None, n_real: Tensor | None = None
    ) -> Tensor:
        meta = self.meta if cache is None or cache.is_empty else None
        pasts: Iterable[LayerPast]
        pasts = cache.begin(tokens.shape[1], n_real) if cache else repeat(NO_PAST, len(self.plan))
        if self._looks_down:
            pasts = knowing_first_values(pasts)
        x = self.embedding(tokens)
        x = meta.add(x) if meta else x
        made: dict[int | None, KeyValue | None] = {}  # keys and values by the layer that made them
        for layer, block, past in zip(self.plan, self.blocks, pasts, strict=True):
            x, made[layer.index] = block(x, made.get(layer.kv_from), past)
        x = self.norm(x)
        return meta.drop(x) if meta else x

    def cache(self, n_rows: int, n_tokens: int) -> Cache:
        """Return an empty cache for rows of at most `n_tokens` text tokens.

        Raises `UserError` for a component from elsewhere that would forget (`model/memory.py`).
        """
        n_meta = self.meta.n_meta if self.meta else 0
        if not self._remembers:
            refuse_forgetful(self.plan, self.blocks, self.embedding.embedding_dim, n_meta)
            self._remembers = True
        return Cache(self.blocks, n_meta, self.embedding.weight, n_rows, n_tokens)

    def logits(self, features: Tensor) -> Tensor:
        """Return logits (..., vocab) of features (..., D)."""
        return linear(features, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """The output map (vocab, D): the head's, or the embedding's where they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight


def build_model(
    config: ModelConfig, vocab: int, layers: Sequence[LayerPlan] | None = None
) -> LanguageModel:
    """Build the model on the current default device; `vocab` is what the data needs.

    `layers` stand in place of those that the configuration plans, for costs of some of them.

    Raises `ConfigError` for a vocabulary too small and for a shape whose parts do not fit.
    """
    if config.vocab is not None and config.vocab < vocab:
        raise ConfigError(
            f"the model has {config.vocab} ids, the data of all sources needs {vocab}; "
            "give at least that many, or null for what the data needs.",
            "model.vocab",
        )
    vocab = config.vocab or vocab
    meta = meta_tokens.build(config.meta_tokens, config.d_model)
    plan = plan_layers(config) if layers is None else list(layers)
    model = LanguageModel(
        nn.Embedding(vocab, config.d_model),
        meta,
        [build_block(config, layer, meta.n_meta if meta else 0) for layer in plan],
        RMSNorm(config.d_model, config.norm_eps),
        None if config.tie_embeddings else nn.Linear(config.d_model, vocab, bias=False),
        plan,
        config,
    )
    if model.embedding.weight.is_meta:
        return model  # nothing to fill
    _initialize(model, config.init_std)
    nn.init.normal_(model.embedding.weight, std=config.embedding_std or config.init_std)
    return model


@torch.no_grad()
def _initialize(model: nn.Module, std: float) -> None:
    """N(0, std^2) for every linear map, then each component's own start (`reset`), if any."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if callable(reset := getattr(module, "reset", None)):
            reset()
