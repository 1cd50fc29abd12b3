"""A model and its codec from a folder: a run of ours, or a checkpoint in the released format."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hymba_lab.checkpoints.codec import Codec, TokenizerFile, text_source
from hymba_lab.checkpoints.hf_checkpoint import load_pretrained
from hymba_lab.checkpoints.weights import load_weights
from hymba_lab.config import from_resolved
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel, build_model

WEIGHTS = "weights.safetensors"


def load(
    path: Path, dtype: str | None, *, texts: bool, plugins: Sequence[Path] = ()
) -> tuple[LanguageModel, Codec | None]:
    """Return model and codec of a checkpoint; the codec is None if no `texts` are asked for.

    `plugins` are files whose components it may use; of those that a run of ours names itself, only
    the user's own are run (`config/trust.py`). Raises `ConfigError` for others, and
    `CheckpointError` for what is no checkpoint and, with `texts`, has no tokenizer.
    """
    file = path if path.is_file() else path / WEIGHTS
    if file.is_file() and not (path / "config.json").is_file():
        return _load_run(file, dtype, texts, plugins)
    model = load_pretrained(path, dtype)
    if not texts:
        return model, None
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{path}: no tokenizer.json; copy it from where the checkpoint comes from, or give "
            "--ids instead of --prompt."
        )
    eos = (model.released or {}).get("eos_token_id")
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    known = [end for end in ends if 0 <= end < model.embedding.num_embeddings]
    return model, TokenizerFile(path / "tokenizer.json", known)


def _load_run(
    file: Path, dtype: str | None, texts: bool, plugins: Sequence[Path]
) -> tuple[LanguageModel, Codec | None]:
    weights, facts = load_weights(file)
    if not {"config", "vocab"} <= facts.keys():
        raise CheckpointError(
            f"{file}: holds no configuration; give the weights.safetensors of a run, or a folder "
            "with config.json."
        )
    config = from_resolved(facts["config"], plugins=plugins, source=str(file))
    with torch.device("meta"):
        model = build_model(config.model, facts["vocab"])
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of its configuration: {error}") from None
    codec = text_source(config, file) if texts else None
    return model.to(getattr(torch, dtype) if dtype else None).eval(), codec
