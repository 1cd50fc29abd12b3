"""The checkpoint that a stage starts from: its configuration, tokenizer and weights."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import hymba_lab.hf  # noqa: F401 - registers the models
from hymba_lab.atomic import json_of
from hymba_lab.checkpoints.hf_config import read_released
from hymba_lab.checkpoints.lab_folder import read_lab
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.errors import CheckpointError
from hymba_lab.hf import HymbaConfig, HymbaLabConfig

_DTYPES = {"fp32": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}
TYPES = (HymbaConfig.model_type, HymbaLabConfig.model_type)


class Start:
    """A folder with config.json, weights and a tokenizer; faults are said before weights are read.

    Raises `CheckpointError` for an adapter alone, a model of another kind, and a missing or
    unfitting tokenizer.
    """

    def __init__(self, folder: Path, plugins: Sequence[Path] = ()) -> None:
        """`plugins` are files whose components the model may use."""
        self.folder = folder
        _check(folder, plugins)
        self.config: Any = self._config()
        self.tokenizer: Any = _tokenizer(folder, self.config.vocab_size)

    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder)
        except (TypeError, ValueError, KeyError, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.folder / 'config.json'}: not read ({said}).") from None

    @cached_property
    def longest(self) -> int | None:
        """Tokens that its positions are made for, None = any number."""
        limit: int | None = self.skeleton().model.net.max_tokens
        return limit

    def skeleton(self) -> Any:
        """Return the model without memory for its weights."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config)

    def load(self, precision: str) -> Any:
        """Return the model with its weights, in the dtype that a precision trains."""
        from transformers import AutoModelForCausalLM, GenerationConfig

        try:
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=_DTYPES[precision])
        except (OSError, ValueError, SafetensorError) as error:
            said = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.folder}: its weights cannot be read ({said}).") from None
        try:
            model.generation_config.validate(strict=True)
        except ValueError:  # it would be refused when a checkpoint is written: keep its ids alone
            ids = ("bos_token_id", "eos_token_id", "pad_token_id")
            kept = {name: getattr(model.generation_config, name) for name in ids}
            model.generation_config = GenerationConfig(**kept)
        return model


def _check(folder: Path, plugins: Sequence[Path]) -> None:
    file = folder / "config.json"
    if not file.is_file():
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{folder}: an adapter without its base model; merge it first: "
                f"hymba-lab finetune merge {folder} --out MERGED."
            )
        if (folder / WEIGHTS).is_file():
            raise CheckpointError(
                f"{folder}: a run of the lab; write it as a folder first: "
                f"hymba-lab finetune export {folder} --out FOLDER."
            )
        raise CheckpointError(f"{folder}: no config.json, so no checkpoint that can be tuned.")
    try:
        content = json_of(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a JSON file ({error}).") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in TYPES:
        raise CheckpointError(
            f"{file}: model_type is {kind!r}; only {' and '.join(TYPES)} are tuned here."
        )
    if kind == HymbaConfig.model_type:
        read_released(file)
    else:
        read_lab(folder, plugins)


def _tokenizer(folder: Path, vocab: int) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder}: no tokenizer.json; copy it from where the checkpoint comes from."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the package `tokenizers` raises nothing narrower
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({said}).") from None
    if not tokenizer.is_fast:
        raise CheckpointError(f"{folder}: its tokenizer tells no places in a text; use a fast one.")
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer has no eos_token, so no answer would end; name one in "
            "tokenizer_config.json."
        )
    if len(tokenizer) > vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer):,} ids, the model {vocab:,}: they do not "
            "belong together."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
