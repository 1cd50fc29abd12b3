"""A model and its codec from a folder: a run of ours, or a checkpoint in the released format."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hymba_lab.atomic import json_of
from hymba_lab.checkpoints.codec import Codec, TokenizerFile, text_source
from hymba_lab.checkpoints.filled import filled
from hymba_lab.checkpoints.hf_checkpoint import load_pretrained, precision_of
from hymba_lab.checkpoints.lab_folder import is_lab_folder, load_lab_folder
from hymba_lab.checkpoints.weights import described, load_weights
from hymba_lab.config import from_resolved
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel, build_model

LONGEST = "longest_text"
"""Key of the longest text that a model was tuned on, in the config.json of the lab's folders."""


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
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path}: an adapter without its base model; merge it into the folder that it was "
            "trained on, and give the merged folder."
        )
    lab = is_lab_folder(path)
    model = (
        load_lab_folder(path, precision_of(dtype), plugins) if lab else load_pretrained(path, dtype)
    )
    if not texts:
        return model, None
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{path}: no tokenizer.json; copy it from where the checkpoint comes from, or give "
            "--ids instead of --prompt."
        )
    return model, _tokenizer(path, model.embedding.num_embeddings)


def longest_text(path: Path, model: LanguageModel) -> int | None:
    """Return how many tokens its positions are made for; else its longest text in training.

    Tuning counts, too. None = not known.
    """
    if model.max_tokens is not None:
        return model.max_tokens
    file = path if path.is_file() else path / WEIGHTS
    if file.is_file():
        return _seq_len(load_weights(file)[1].get("config"))
    content = _read_json(path / "config.json")
    lengths = [_seq_len(content.get("lab")), content.get(LONGEST)]
    return max((n for n in lengths if isinstance(n, int)), default=None)


def _seq_len(config: Any) -> int | None:
    training = config.get("training") if isinstance(config, dict) else None
    return training.get("seq_len") if isinstance(training, dict) else None


def _tokenizer(path: Path, vocab: int) -> TokenizerFile:
    """Return the tokenizer of a folder; what ends a text is said by either configuration file."""
    eos, bos = (
        [i for i in _ids(path, key) if 0 <= i < vocab] for key in ("eos_token_id", "bos_token_id")
    )
    return TokenizerFile(path / "tokenizer.json", eos, bos[0] if bos else None)


def ends_of(path: Path) -> list[int]:
    """Return the ids that end a text, as a folder's files say; [] of a run without its text."""
    return _ids(path, "eos_token_id") if path.is_dir() else []


def _ids(folder: Path, key: str) -> list[int]:
    """Return the ids under a key of `generation_config.json` or, where it has none, `config.json`.

    Raises `CheckpointError` for what is neither an id nor a list of ids nor null.
    """
    for file in (folder / "generation_config.json", folder / "config.json"):
        content = _read_json(file)
        if key in content:
            given = content[key]
            ids = given if isinstance(given, list) else [] if given is None else [given]
            if all(type(i) is int for i in ids):  # true is an int, too
                return ids
            raise CheckpointError(
                f"{file}: {key} is {json.dumps(given)}; give the id of a token, such as 2, a list "
                "of ids, or null."
            )
    return []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json_of(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error}).") from error
    return content if isinstance(content, dict) else {}


def _load_run(
    file: Path, dtype: str | None, texts: bool, plugins: Sequence[Path]
) -> tuple[LanguageModel, Codec | None]:
    weights, facts = load_weights(file)
    resolved, vocab = described(file, facts)
    config = from_resolved(resolved, plugins=plugins, source=str(file))
    try:
        model = filled(partial(build_model, config.model, vocab), weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of its configuration: {error}") from None
    codec = text_source(config, file) if texts else None
    return model.to(getattr(torch, dtype) if dtype else None).eval(), codec
