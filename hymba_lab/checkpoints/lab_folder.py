"""Folders of any architecture of the lab, as `hymba_lab.hf` saves them; read without transformers.

`config.json` (model_type `hymba_lab`) holds the resolved configuration under `lab`; the tensors
have the lab's names below `model.net.`, and an untied head is `lm_head.weight`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hymba_lab.atomic import json_of
from hymba_lab.checkpoints.filled import filled
from hymba_lab.checkpoints.tensor_files import TensorFolder
from hymba_lab.checkpoints.weights import MOST_IDS, is_vocab
from hymba_lab.config import Config, from_resolved
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel, build_model

MODEL_TYPE = "hymba_lab"
_PREFIX, _HEAD = "model.net.", "lm_head.weight"


def is_lab_folder(folder: Path) -> bool:
    """Return whether a folder's `config.json` is of this kind."""
    try:
        content = json_of(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") == MODEL_TYPE


def read_lab(folder: Path, plugins: Sequence[Path] = ()) -> tuple[Config, dict[str, Any]]:
    """Return the configuration of a folder and its whole `config.json`.

    `plugins` are files of code that may run for its components (`config/trust.py`).
    """
    content = json_of(folder / "config.json")
    if not isinstance(content.get("lab"), dict):
        raise CheckpointError(
            f"{folder / 'config.json'}: no `lab`, the resolved configuration; save the model again "
            "with save_pretrained."
        )
    checked_vocab(folder / "config.json", content.get("vocab_size"))
    config = from_resolved(content["lab"], plugins=plugins, source=str(folder / "config.json"))
    return config, content


def checked_vocab(source: Path | str, given: Any) -> int:
    """Return a `vocab_size`; raises `CheckpointError` where it is no number of ids."""
    if is_vocab(given):
        return given
    raise CheckpointError(
        f"{source}: vocab_size is {given!r}; it is the number of the tokens' ids, from 1 to "
        f"{MOST_IDS}; save the model again with save_pretrained."
    )


def load_lab_folder(
    folder: Path, dtype: torch.dtype | None = None, plugins: Sequence[Path] = ()
) -> LanguageModel:
    """Return the model in evaluation mode; raises `CheckpointError` for tensors of another."""
    config, content = read_lab(folder, plugins)
    vocab = content["vocab_size"]
    build = partial(build_model, config.model.model_copy(update={"vocab": vocab}), vocab)
    tensors = TensorFolder(folder)
    ours = {
        name: "head.weight" if name == _HEAD else name.removeprefix(_PREFIX)
        for name in tensors.shapes
        if name != _HEAD or not config.model.tie_embeddings
    }
    state = {name: tensors.read(theirs, dtype) for theirs, name in ours.items()}
    try:
        model = filled(build, state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: not the tensors of config.json: {error}") from None
    return model.eval()
