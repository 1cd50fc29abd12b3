"""Axis: short convolutions over the tokens, at up to four places of a block (Canon layers).

An entry returns where they stand and how long they are; `ShortConv` is the layer. Source: Physics
of Language Models 4.1 (ssrn 5240330): a residual filter of four tokens, no bias, no activation.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_norm import start_conv
from hymba_lab.components.past import WHOLE, Past
from hymba_lab.registry import Registry

Taps = Annotated[int, Field(ge=2)]
Place = Literal["mixer", "mlp"]


@dataclass(frozen=True)
class ConvPlan:
    """Convolutions of `d_conv` tokens on what the mixer and what the MLP reads."""

    d_conv: int
    mixer: bool = False
    mlp: bool = False


short_convs: Registry[ConvPlan | None] = Registry("model.short_conv")


@short_convs.register("none")
def none() -> None:
    """No convolution but those inside recurrences."""
    return


@short_convs.register("canon")
def canon(
    *,
    before: Annotated[list[Place], Field(min_length=1)] = ["mixer", "mlp"],
    d_conv: Taps = 4,
) -> ConvPlan:
    """Before the mixer (Canon A), before the MLP (C); on q, k, v (B) it is `model.attention`'s."""
    return ConvPlan(d_conv, "mixer" in before, "mlp" in before)


class ShortConv(nn.Module):
    """y = x + conv(x), every channel of x (B, T, D) filtered by itself, causally."""

    def __init__(self, d_model: int, d_conv: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, d_conv))
        self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE, state: str = "inputs") -> Tensor:
        return x + past.conv(x, self.weight, None, silu=False, state=state)

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the last inputs that one row keeps."""
        channels, d_conv = self.weight.shape
        return {"inputs": (d_conv - 1, channels)}

    def reset(self) -> None:
        """Torch's start of a convolution."""
        start_conv(self.weight)
