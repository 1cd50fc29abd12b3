"""YAML -> one frozen, fully resolved configuration with a digest."""

from hymba_lab.config.registries import all_registries
from hymba_lab.config.resolve import (
    from_resolved,
    load_config,
    load_document,
    overridden,
    resolve,
)
from hymba_lab.config.schema import COSMETIC, Config, ModelConfig, TrainingConfig

__all__ = [
    "COSMETIC",
    "Config",
    "ModelConfig",
    "TrainingConfig",
    "all_registries",
    "from_resolved",
    "load_config",
    "load_document",
    "overridden",
    "resolve",
]
