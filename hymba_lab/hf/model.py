"""A `LanguageModel` behind the classes of transformers: thin, no second model.

The backbone returns features and the head stands outside of it, as TRL, peft and `generate()`
expect.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from hymba_lab.errors import UserError
from hymba_lab.hf.blocks import NAMES, recomputable
from hymba_lab.hf.cache import GenerationCache, new_cache
from hymba_lab.hf.config import HymbaConfig, HymbaLabConfig
from hymba_lab.hf.documents import check_positions, needs_care, several, split, starts_of
from hymba_lab.hf.loading import check_folder, check_loaded, fill_buffers
from hymba_lab.hf.names import accept_released
from hymba_lab.model import LanguageModel
from hymba_lab.model.generate import row_products

_UNKNOWN = ("output_attentions", "output_hidden_states", "token_type_ids")


class HymbaPreTrainedModel(PreTrainedModel):
    """What backbone and language model share: loading is strict, fresh weights are the lab's."""

    config_class = HymbaConfig
    config: HymbaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = NAMES
    _skip_keys_device_placement: ClassVar = ["cache"]
    _is_stateful = True  # no step can be taken back: no assisted generation
    _supports_sdpa = True  # the lab's own attention is what runs under any of these names
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_compile_fullgraph = False
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"rotary_emb\.inv_freq$"]

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a folder; raises `CheckpointError` over all tensors that do not belong together.

        transformers would go on with fresh memory for a missing tensor.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        check_folder(source, cls.config_class, kwargs)
        model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        check_loaded(source, info)
        fill_buffers(getattr(model, cls.base_model_prefix, model).net, model.config.build)
        return (model, info) if wants_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Fill a matrix made later, such as larger embeddings; `build_model` has done the rest."""
        if all(module is not own for own in self.modules()) and hasattr(module, "weight"):
            nn.init.normal_(module.weight, std=self.config.initializer_range)  # type: ignore[arg-type]


class HymbaModel(HymbaPreTrainedModel):
    """The backbone: token ids (B, T) to features (B, T, D)."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"rotary_emb\.inv_freq$", r"^lm_head\.weight$"]

    def __init__(self, config: HymbaConfig) -> None:
        super().__init__(config)
        self.net: LanguageModel = config.build()
        self.net.head = None  # `HymbaForCausalLM` has it
        for block in self.net.blocks:
            recomputable(block)  # type: ignore[arg-type]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings."""
        return self.net.embedding

    def set_input_embeddings(self, value: Any) -> None:
        """Replace it."""
        self.net.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: GenerationCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return features; with a cache the tokens continue those it holds.

        Without one, rows may be padded on either side and hold several documents each, told apart
        by `position_ids`, `seq_idx` or `cu_seq_lens_q` as trainers send them: each is read as if
        it stood alone. `use_cache` (None = as the configuration says, where no gradient is asked
        for and a row is one document) makes a cache, outside of training; `past_key_values`, its
        name of old, is understood.
        """
        _refuse(kwargs, inputs_embeds)
        cache = _the_cache(cache, kwargs.pop("past_key_values", None))
        if input_ids is None:
            raise UserError("input_ids is None: give token ids (B, T).")
        starts = None
        if cache is None or cache.seen == 0:
            starts = starts_of(position_ids, seq_idx, cu_seq_lens_q, input_ids)
            if position_ids is not None:
                check_positions(position_ids, split(input_ids, attention_mask, starts))
        packed = several(attention_mask, starts)
        if cache is None and not (packed and use_cache is None) and self._keeps(use_cache):
            cache = new_cache(self.net, input_ids)
        if cache is not None:
            if packed:
                raise UserError(
                    "a cache holds one document a row, and position_ids, seq_idx or cu_seq_lens_q "
                    "tell several apart; leave the cache out (use_cache=False)."
                )
            features = self._continued(input_ids, attention_mask, cache)
        else:
            features = self._whole(input_ids, attention_mask, starts)
        return BaseModelOutputWithPast(last_hidden_state=features, cache=cache)

    def _keeps(self, use_cache: bool | None) -> bool:
        """Whether a pass without a cache makes one."""
        if use_cache is None:
            on_one = len({parameter.device for parameter in self.net.parameters()}) == 1
            use_cache = bool(self.config.use_cache) and not torch.is_grad_enabled() and on_one
        return use_cache and not self.training

    def _whole(self, ids: Tensor, mask: Tensor | None, starts: Tensor | None) -> Tensor:
        if not needs_care(mask, starts):
            return self.net.features(ids)
        documents = split(ids, mask, starts)
        return documents.back(self.net.features(documents.tokens))

    @torch.no_grad()
    def _continued(self, ids: Tensor, mask: Tensor | None, cache: GenerationCache) -> Tensor:
        n_new = ids.shape[1]
        mask = None if mask is None else mask[:, -n_new:]
        single = n_new == 1 and cache.seen > 0
        cache.seen += n_new
        if single or mask is None or bool(mask.all()):
            return cache.read(ids)
        documents = split(ids, mask, None)
        if len(documents.lengths) != len(ids):
            raise UserError(
                "attention_mask has rows that are all padding; leave such rows out (or "
                "prefill_chunk_size, whose chunks a row may be all padding in)."
            )
        return documents.back(cache.read(documents.tokens, documents.lengths))


class HymbaForCausalLM(HymbaPreTrainedModel, GenerationMixin):
    """logits = lm_head(features)."""

    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.net.embedding.weight"}

    def __init__(self, config: HymbaConfig) -> None:
        super().__init__(config)
        self.model = self._backbone(config)
        embedding = self.model.net.embedding
        self.lm_head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
        nn.init.normal_(self.lm_head.weight, std=self.model.net.config.init_std)
        self.register_load_state_dict_pre_hook(accept_released)
        self.post_init()

    def _backbone(self, config: HymbaConfig) -> HymbaModel:
        return HymbaModel(config)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def set_output_embeddings(self, value: Any) -> None:
        """Replace it."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: GenerationCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits (B, T, vocab), or those of the last `logits_to_keep` places, and the loss.

        `labels` (B, T) are the ids themselves, -100 where nothing is scored: they are shifted here;
        with them no cache is made unless `use_cache=True`.
        """
        if labels is not None and use_cache is None:
            use_cache = False
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        features = out.last_hidden_state
        kept = (
            slice(-logits_to_keep or None, None)
            if isinstance(logits_to_keep, int)
            else (logits_to_keep)
        )
        with row_products(features[:, -1]):
            logits = self.lm_head(features[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=out.cache)

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """Read the folder's generation defaults; the released ones say `use_cache: false`."""
        super().adjust_generation_fn(*args, **kwargs)
        self.generation_config.use_cache = True

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Put the lab's cache there, in the size that generation needs."""
        net = self.model.net
        if net.max_tokens is not None and max_cache_length + 1 > net.max_tokens:
            raise UserError(
                f"prompt and new tokens together are {max_cache_length + 1}; the model's positions "
                f"are made for {net.max_tokens}. Shorten the prompt or ask for fewer tokens."
            )
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise UserError(
                f"cache_implementation = {generation_config.cache_implementation!r}: this model "
                "has one cache of its own; leave it out."
            )
        given = _the_cache(model_kwargs.get("cache"), model_kwargs.pop("past_key_values", None))
        if given is not None:
            given._is_user_defined = True  # type: ignore[attr-defined]
            model_kwargs["cache"] = given
        elif generation_config.use_cache is not False:
            n_rows = batch_size * max(
                generation_config.num_beams, generation_config.num_return_sequences
            )
            model_kwargs["cache"] = GenerationCache(net, n_rows, max_cache_length)


class HymbaLabModel(HymbaModel):
    """The backbone of any architecture of the lab."""

    config_class = HymbaLabConfig


class HymbaLabForCausalLM(HymbaForCausalLM):
    """Any architecture of the lab as a causal language model."""

    config_class = HymbaLabConfig

    def _backbone(self, config: HymbaConfig) -> HymbaModel:
        return HymbaLabModel(config)


def _the_cache(cache: Any, by_old_name: Any) -> GenerationCache | None:
    """Return the one cache that was given; raises `UserError` for two, and for another model's."""
    if cache is not None and by_old_name is not None and cache is not by_old_name:
        raise UserError("cache and past_key_values are two names of one thing; give one of them.")
    given = by_old_name if cache is None else cache
    if given is not None and not isinstance(given, GenerationCache):
        raise UserError(
            f"the cache is a {type(given).__name__}; this model keeps other things: begin with "
            "use_cache=True and hand on the cache of its output, or leave it out."
        )
    return given


def _refuse(kwargs: dict[str, Any], inputs_embeds: Tensor | None) -> None:
    """Raise `UserError` for what the model would silently leave out."""
    asked = [name for name in _UNKNOWN if kwargs.get(name) not in (None, False)]
    if inputs_embeds is not None:
        asked.append("inputs_embeds")
    if asked:
        raise UserError(f"{', '.join(asked)}: not given by this model; leave it out.")
