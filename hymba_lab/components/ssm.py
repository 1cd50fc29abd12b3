"""The SSM branch: built from d_model and d_inner, maps x (B, T, D) to (B, T, d_inner).

`past` stands for the tokens of earlier calls while generating: what a component keeps of them it
names in `cache_shapes` and asks its past for (`components/past.py`).
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components import steps
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.ops import one_token, selective_scan, selective_scan_step
from hymba_lab.ops.recurrence import at_least_float32
from hymba_lab.registry import Registry

Count = Annotated[int, Field(ge=1, le=2**24)]

ssms: Registry[nn.Module] = Registry("model.ssm")

NO_STEP = -1e4  # softplus of it is 0, in bfloat16 and float16 too: the state stays as it is


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
        if not self.A_log.is_meta:  # nothing to fill
            self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        u = past.conv(self.x(x), self.conv_weight, self.conv_bias)
        dt, B, C = self.dt_b_c(u).split(self.widths, dim=-1)
        dt, B, C = (norm(part) for norm, part in zip(self.norms, (dt, B, C), strict=True))
        dt = steps.called(self.dt, dt)
        tokens = {"x": u, "dt": dt, "B": B, "C": C, "z": self.z(x)}
        return past.recur(SCAN, tokens, {"A_log": self.A_log, "D": self.D, "dt_bias": self.dt.bias})

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state and last inputs."""
        d_inner, d_conv = self.conv_weight.shape
        return {"h": (d_inner, self.A_log.shape[1]), "inputs": (d_conv - 1, d_inner)}

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


def _scan(
    *, A_log: Tensor, D: Tensor, dt_bias: Tensor, state: Tensor | None, **tokens: Tensor
) -> tuple[Tensor, Tensor]:
    A = -at_least_float32(A_log).exp()
    return selective_scan(**tokens, A=A, D=D, dt_bias=dt_bias, h0=state)


def _step(*, A_log: Tensor, D: Tensor, dt_bias: Tensor, state: Tensor, **tokens: Tensor) -> Tensor:
    """Take A again in every step: it is no state."""
    A = one_token.decay(A_log) if one_token.fits(A_log) else -at_least_float32(A_log).exp()
    y, _ = selective_scan_step(**tokens, A=A, D=D, dt_bias=dt_bias, h=state, out=state)
    return y


SCAN = Recurrence(_scan, _step, no_step={"dt": NO_STEP})
"""The selective scan of x, dt, z (B, T, D) and B, C (B, T, N) with A_log, D and dt_bias."""
