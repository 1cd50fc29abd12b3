"""Architecture ablations of models that run attention heads and SSM heads in parallel (Hymba)."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hymba_lab.checkpoints.hf_checkpoint import load_pretrained, save_pretrained

__version__ = "0.1.0"
__all__ = ["__version__", "load_pretrained", "save_pretrained"]

# `python -m hymba_lab.train` finds commands/train.py
__path__.append(str(Path(__file__).with_name("commands")))

_ROOM = {
    "load_pretrained": "hymba_lab.checkpoints.hf_checkpoint",
    "save_pretrained": "hymba_lab.checkpoints.hf_checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: much of the package needs no torch."""
    if name in _ROOM:
        return getattr(import_module(_ROOM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
