"""Strict loading: a folder's tensors are those of its configuration, or nothing is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hymba_lab.checkpoints.hf_checkpoint import check_tensors, meta_model
from hymba_lab.checkpoints.hf_config import read_released
from hymba_lab.checkpoints.lab_folder import MODEL_TYPE, is_lab_folder
from hymba_lab.checkpoints.tensor_files import TensorFolder
from hymba_lab.errors import CheckpointError
from hymba_lab.hf.config import HymbaConfig
from hymba_lab.model import LanguageModel

_ELSEWHERE = ("state_dict", "gguf_file", "subfolder", "variant", "key_mapping")


def check_folder(source: Any, kind: type[HymbaConfig], options: dict[str, Any]) -> None:
    """Compare a local folder in the released format with its configuration, before it is read.

    Only headers are read. What transformers finds elsewhere, and folders of the lab's own `kind`,
    are judged after loading.
    """
    folder = Path(source) if isinstance(source, str | Path) else Path()
    if any(options.get(key) for key in _ELSEWHERE) or not (folder / "config.json").is_file():
        return
    if kind.model_type == MODEL_TYPE:
        if options.get("config") is None and not is_lab_folder(folder):
            raise CheckpointError(
                f"{folder / 'config.json'}: model_type is not {MODEL_TYPE!r}, which this class "
                "loads; load the folder with AutoModel or AutoModelForCausalLM."
            )
        return
    released, _ = read_released(folder / "config.json")
    check_tensors(TensorFolder(folder), meta_model(released, folder / "config.json"))


def check_loaded(source: Any, info: dict[str, Any]) -> None:
    """Raise `CheckpointError` over all tensors that were missing, extra or misshapen."""
    faults = [f"missing: {name}" for name in sorted(info.get("missing_keys", ()))]
    faults += [f"not of this model: {name}" for name in sorted(info.get("unexpected_keys", ()))]
    faults += [f"misshapen: {name}" for name in sorted(map(str, info.get("mismatched_keys", ())))]
    if faults:
        raise CheckpointError(
            f"{source}: the tensors are not those of its configuration:\n  " + "\n  ".join(faults)
        )


@torch.no_grad()
def fill_buffers(net: LanguageModel, build: Callable[[], LanguageModel]) -> None:
    """Give buffers that no file holds (`persistent=False`) the values that `build` makes, in place.

    transformers makes a model without memory, and these buffers of whatever the memory held before.
    """
    left = dict(net.named_buffers()).keys() - net.state_dict().keys()
    made = dict(build().named_buffers()) if left else {}
    for name in left:
        net.get_buffer(name).copy_(made[name])
