"""An adapter into the weights it was trained beside: a folder like any other."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hymba_lab.atomic import json_of
from hymba_lab.config.start import weights_digest
from hymba_lab.errors import CheckpointError, StoreError
from hymba_lab.finetune.place import Place
from hymba_lab.finetune.start import Start


def merge(adapter: Path, out: Path, base: Path | None = None, plugins: Sequence[Path] = ()) -> bool:
    """Write base model and adapter as one model; `base` None = the folder the adapter names.

    False where the same weights were merged there before. Raises `CheckpointError` for what is no
    adapter, or one for other shapes.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    start = Start(base or Path(_base_of(adapter)), plugins)
    asked = {
        "merged": str(adapter.resolve()),
        "adapter's weights": weights_digest(adapter),
        "base": str(start.folder.resolve()),
        "base's weights": weights_digest(start.folder),
    }
    place = Place(out, asked)
    if place.enter() is not None:
        return False
    model: Any = start.load("fp32")
    try:
        with warnings.catch_warnings():  # of missing keys, which are refused below
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{adapter}: does not fit {start.folder} ({said}).") from None
    given = load_peft_weights(str(adapter), device="cpu").keys()
    if other := given ^ get_peft_model_state_dict(adapted).keys():
        raise CheckpointError(
            f"{adapter}: does not fit {start.folder}: {len(other)} weights are in one of them only "
            f"({', '.join(sorted(other)[:3])}); give the base it was trained on with --base."
        )
    merged = adapted.merge_and_unload()
    place.begin()

    def save(folder: Path) -> None:
        merged.save_pretrained(folder)
        start.tokenizer.save_pretrained(folder)

    place.finish(save, {"adapter": str(adapter)})
    return True


def _base_of(adapter: Path) -> str:
    """Return the folder that an adapter was trained on."""
    file = adapter / "adapter_config.json"
    if not file.is_file():
        inner = adapter / "adapter" / file.name
        hint = f"; give {inner.parent}" if inner.is_file() else ""
        raise CheckpointError(f"{adapter}: no adapter_config.json, so no adapter{hint}.")
    try:
        content = json_of(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a JSON file ({error}).") from None
    named = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(named, str):
        raise StoreError(f"{file}: names no base model; give it with --base FOLDER.")
    return named
