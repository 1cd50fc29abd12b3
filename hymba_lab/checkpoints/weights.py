"""A trained model's tensors and what one needs to know to use them: `weights.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hymba_lab.atomic import Guard, parsed_json, written
from hymba_lab.errors import CheckpointError

FORMAT = 1
HEADER = "hymba_lab"
MOST_IDS = 2**31 - 1


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    guard: Guard | None = None,
) -> None:
    """Write a trained model's tensors, and `facts` about them (plain JSON), as safetensors.

    The facts are one text under one key, for safetensors writes several in no fixed order: equal
    models are equal files.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with written(path, guard) as partial:
        save_file(tensors, partial, {HEADER: json.dumps(facts, sort_keys=True)})


def check_readable(path: Path) -> None:
    """Raise `CheckpointError` for a file without the right to read it.

    Asked first: safetensors says of such a file that there is none.
    """
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; ask its owner for the right to, or give a "
            "copy of your own."
        ) from None
    except OSError:
        pass  # told by who reads it


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the facts that `save_weights` wrote."""
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = parsed_json((file.metadata() or {}).get(HEADER, "{}"))
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
        return tensors, facts if isinstance(facts, dict) else {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; train the run first.") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}.") from error


def is_vocab(given: Any) -> TypeGuard[int]:
    """Return whether this is a number of ids; true and a fraction are none."""
    return type(given) is int and 0 < given <= MOST_IDS


def described(path: Path, facts: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the configuration and the vocabulary that a run's weights name.

    Raises `CheckpointError` where they name none, or were written by a later version.
    """
    found = facts.get("format", FORMAT)
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: format {found}, this version reads {FORMAT}; use the version that wrote it."
        )
    config, vocab = facts.get("config"), facts.get("vocab")
    if isinstance(config, dict) and is_vocab(vocab):
        return config, vocab
    raise CheckpointError(
        f"{path}: holds no configuration; give the weights.safetensors of a run, or a folder "
        "with config.json."
    )
