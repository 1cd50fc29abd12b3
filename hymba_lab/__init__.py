"""Architecture ablations of models that run attention heads and SSM heads in parallel (Hymba)."""

__version__ = "0.1.0"
