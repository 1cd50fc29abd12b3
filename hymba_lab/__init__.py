"""Architecture ablations of models that run attention heads and SSM heads in parallel (Hymba)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hymba_lab.model.hf_checkpoint import load_pretrained, save_pretrained

__version__ = "0.1.0"
__all__ = ["__version__", "load_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Import checkpoints when they are asked for: much of the package needs no torch."""
    if name in ("load_pretrained", "save_pretrained"):
        from hymba_lab.model import hf_checkpoint

        return getattr(hf_checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
