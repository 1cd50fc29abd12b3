"""The two configurations: the released `config.json`, and any architecture of the lab."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from transformers.configuration_utils import PreTrainedConfig

from hymba_lab.checkpoints.hf_config import Released, architecture, not_covered
from hymba_lab.checkpoints.lab_folder import checked_vocab
from hymba_lab.config import Config, from_resolved
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel, build_model

# Keys of the released file that transformers and TRL claim for something else: an unknown attention
# implementation is an error, and router keys make TRL look for a mixture of experts. They are kept
# beside the configuration and written back.
_CLAIMED = (
    "attn_implementation",
    "num_experts",
    "num_experts_per_tok",
    "output_router_logits",
    "router_aux_loss_coef",
    "use_mamba_kernels",
)


class HymbaConfig(PreTrainedConfig):
    """The released `config.json`; keys that are no fields here are kept as they are.

    Defaults are those of the released configuration class. `use_cache` is always true at the start:
    the released file says false, with which every token would read the whole prefix again.
    """

    model_type = "hymba"
    keys_to_ignore_at_inference: ClassVar = ["cache"]

    vocab_size: int = 65024
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_cache: bool | None = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        """Set what the fields do not cover."""
        self.aside = {key: kwargs.pop(key) for key in _CLAIMED if key in kwargs}
        self.auto_map = kwargs.pop("auto_map", {})  # TRL asks for it; None would break AutoModel
        self.use_cache = True
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `config.json`."""
        values: dict[str, Any] = super().to_dict()
        values |= values.pop("aside", {})
        if not values.get("auto_map"):
            values.pop("auto_map", None)
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written; the released code reads the precision under its older name."""
        values: dict[str, Any] = super().to_diff_dict()
        return values | ({"torch_dtype": values["dtype"]} if "dtype" in values else {})

    def build(self) -> LanguageModel:
        """Return the model on the current default device, with fresh weights.

        Raises `CheckpointError` for values that the architecture does not cover.
        """
        values = self.to_dict()
        path = Path(self.name_or_path or ".") / "config.json"
        try:
            released = Released.model_validate(
                {key: value for key, value in values.items() if key in Released.model_fields}
            )
        except ValidationError as error:
            raise not_covered(path, error) from None
        net = build_model(architecture(released, path), released.vocab_size)
        net.max_tokens = released.max_position_embeddings if released.rope else None
        return net


class HymbaLabConfig(HymbaConfig):
    """Any architecture of the lab: `lab` is the resolved configuration of its experiment."""

    model_type = "hymba_lab"

    lab: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, config: Config, vocab: int, eos: int | None, dtype: torch.dtype
    ) -> "HymbaLabConfig":
        """Return the configuration of a model that `config` and `vocab` ids describe."""
        model = config.model
        heads = model.heads.options()
        return cls(
            vocab_size=vocab,
            hidden_size=model.d_model,
            num_hidden_layers=model.n_layers,
            num_attention_heads=heads.get("n_heads", 1),
            tie_word_embeddings=model.tie_embeddings,
            initializer_range=model.init_std,
            max_position_embeddings=config.training.seq_len,
            bos_token_id=eos,
            eos_token_id=eos,
            pad_token_id=eos,
            dtype=str(dtype).removeprefix("torch."),
            lab=config.resolved(),
        )

    def build(self) -> LanguageModel:
        """Return the model.

        Raises `ConfigError` for a component that is not registered, `CheckpointError` without a
        configuration or a vocabulary.
        """
        source = self.name_or_path or "this configuration"
        if not isinstance(self.lab, dict):
            raise CheckpointError(
                f"{source}: model_type hymba_lab without `lab`, the resolved configuration of its "
                "experiment; save it with save_pretrained."
            )
        vocab = checked_vocab(source, self.vocab_size)
        model = from_resolved(self.lab, source=self.name_or_path or "config.json").model
        return build_model(model.model_copy(update={"vocab": vocab}), vocab)
