"""The SSM branch: built from d_model and d_inner, maps x (B, T, D) to (B, T, d_inner).

`past` stands for the tokens of earlier calls while generating.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components import steps
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import WHOLE, SSMPast
from hymba_lab.registry import Registry

Count = Annotated[int, Field(ge=1)]

ssms: Registry[nn.Module] = Registry("model.ssm")


@ssms.register("mamba1")
class Mamba1(nn.Module):
    """The selective SSM of arXiv:2312.00752, with a norm on dt, B and C as in the released Hymba.

    u = silu(conv(W_x x));  [dt | B | C] = W u;  A = -exp(A_log)
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,  dt = softplus(W_dt norm(dt) + b)
    y_t = (C_t h_t + D u_t) * silu(W_z x)
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_state: Count = 16,
        d_conv: Count = 4,
        dt_rank: Count | None = None,
        inner_norms: bool = True,
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """`dt_rank: null` is ceil(d_model / 16), Mamba's rule."""
        super().__init__()
        dt_rank = dt_rank or math.ceil(d_model / 16)
        self.widths = [dt_rank, d_state, d_state]
        self.x = nn.Linear(d_model, d_inner, bias=False)
        self.z = nn.Linear(d_model, d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(d_inner, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(d_inner))
        self.dt_b_c = nn.Linear(d_inner, sum(self.widths), bias=False)
        self.norms = nn.ModuleList(
            RMSNorm(width, eps) if inner_norms else nn.Identity() for width in self.widths
        )
        self.dt = steps.StepMap(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.reset()

    def forward(self, x: Tensor, past: SSMPast = WHOLE) -> Tensor:
        u = past.conv(self.x(x), self.conv_weight, self.conv_bias)
        dt, B, C = self.dt_b_c(u).split(self.widths, dim=-1)
        dt, B, C = (norm(part) for norm, part in zip(self.norms, (dt, B, C), strict=True))
        A = past.decay(self.A_log)
        dt = steps.called(self.dt, dt)
        return past.scan(u, dt, A, B, C, self.D, z=self.z(x), dt_bias=self.dt.bias)

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state and last inputs."""
        d_inner, d_conv = self.conv_weight.shape
        return {"h": (d_inner, self.A_log.shape[1]), "inputs": (d_conv - 1, d_inner)}

    def cache_elements(self, n_tokens: int) -> int:
        """Return how many values generation keeps, whatever the length: state and last inputs."""
        return sum(map(math.prod, self.cache_shapes(n_tokens).values()))

    @torch.no_grad()
    def reset(self) -> None:
        """Mamba's start: A = -1..-N per channel, steps log-uniform in [1e-3, 1e-1], D = 1."""
        d_inner, d_state = self.A_log.shape
        self.A_log.copy_(torch.arange(1, d_state + 1).log().expand(d_inner, -1))
        self.D.fill_(1)
        nn.init.uniform_(self.dt.weight, -(self.widths[0] ** -0.5), self.widths[0] ** -0.5)
        step = torch.exp(torch.empty(d_inner).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        bound = self.conv_weight.shape[1] ** -0.5  # torch's start of a depthwise convolution
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
