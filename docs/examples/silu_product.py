"""A fusion, as a plugin: the attention branch times the gated SSM branch."""

from torch import Tensor, nn

from hymba_lab.components.fusion import fusions


@fusions.register("silu_product")
class SiluProduct(nn.Module):
    """y = W (a * silu(s))."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int, *, bias: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(d_attn, d_model, bias=bias)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        """a (B, T, d_attn), s (B, T, d_ssm) -> (B, T, d_model)."""
        y: Tensor = self.out(a * nn.functional.silu(s))
        return y
