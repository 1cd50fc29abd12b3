"""Axis: learned tokens in front of every sequence (section 2.3; table 10, rows 12-13).

An entry is built from d_model and maps embeddings (B, T, D) to (B, n_meta + T, D) with `add`,
and back with `drop`. Off is None.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.registry import Registry


class MetaTokens(nn.Module):
    """n_meta vectors, N(0, std^2) at the start, that pass through every layer with the text."""

    def __init__(self, d_model: int, n_meta: int, std: float) -> None:
        super().__init__()
        self.n_meta = n_meta
        self.tokens = nn.Parameter(torch.randn(n_meta, d_model) * std)

    def add(self, x: Tensor) -> Tensor:
        """Put the tokens in front: (B, T, D) -> (B, n_meta + T, D)."""
        return torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], dim=1)

    def drop(self, y: Tensor) -> Tensor:
        """Cut their positions off: (B, n_meta + T, D) -> (B, T, D)."""
        return y[:, self.n_meta :]


meta_tokens: Registry[MetaTokens | None] = Registry("model.meta_tokens")


@meta_tokens.register("none")
def none(d_model: int) -> None:
    """No token in front."""
    return


@meta_tokens.register("learned")
def learned(
    d_model: int,
    *,
    n_meta: Annotated[int, Field(ge=1, le=2**20)],
    std: Annotated[float, Field(gt=0)] = 1.0,
) -> MetaTokens:
    """n_meta learned tokens (Hymba: 128, N(0, 1) at the start)."""
    return MetaTokens(d_model, n_meta, std)
