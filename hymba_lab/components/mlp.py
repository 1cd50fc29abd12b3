"""The channel mixer behind every token mixer: built from d_model, maps (B, T, D) to (B, T, D)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from hymba_lab.ops.swiglu import swiglu
from hymba_lab.registry import Registry

Width = Annotated[int, Field(ge=1, le=2**24)]

mlps: Registry[nn.Module | None] = Registry("model.mlp")


@mlps.register("none")
def none(d_model: int) -> None:
    """No channel mixer (plain Mamba blocks)."""
    return


@mlps.register("swiglu")
class SwiGLU(nn.Module):
    """y = W_down (silu(W_gate x) * W_up x) (arXiv:2002.05202)."""

    def __init__(self, d_model: int, *, d_ff: Width) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(swiglu(self.gate(x), self.up(x)))
        return y


@mlps.register("relu2")
class SquaredReLU(nn.Module):
    """y = W_down relu(W_up x)^2 (arXiv:2109.08668)."""

    def __init__(self, d_model: int, *, d_ff: Width) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(relu(self.up(x)).square())
        return y
