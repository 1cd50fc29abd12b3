"""Mamba-2 (arXiv:2405.21060): one decay per head, B and C shared by a group of heads."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_norm import heads_of, start_conv, start_steps, to_heads
from hymba_lab.components.norm import GroupRMSNorm, RMSNorm
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import NO_STEP, Count, ssms
from hymba_lab.errors import ConfigError
from hymba_lab.ops.recurrence import at_least_float32
from hymba_lab.ops.ssd import ssd


@ssms.register("mamba2")
class Mamba2(nn.Module):
    """The state space dual of arXiv:2405.21060.

    [u | B | C] = silu(conv(W x));  dt = softplus(W_dt x + b);  A = -exp(A_log), one per head
    h_t = exp(dt_t A) h_{t-1} + B_t (dt_t u_t)^T,  s_t = h_t^T C_t + D u_t
    y = norm(s * silu(W_z x)), the norm over all channels of a group
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_state: Count = 128,
        d_head: Count = 64,
        n_groups: Count = 1,
        d_conv: Count = 4,
        norm: bool = True,
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """`norm: false` leaves s * silu(z) as it is (Falcon-H1)."""
        super().__init__()
        n_heads = heads_of("mamba2", d_inner, d_head)
        if n_heads % n_groups:
            raise ConfigError(f"mamba2: n_groups = {n_groups} does not divide {n_heads} heads.")
        self.d_state, self.d_head, self.n_groups = d_state, d_head, n_groups
        self.widths = [d_inner, n_groups * d_state, n_groups * d_state]
        self.u_b_c = nn.Linear(d_model, sum(self.widths), bias=False)
        self.z = nn.Linear(d_model, d_inner, bias=False)
        self.dt = nn.Linear(d_model, n_heads, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(sum(self.widths), d_conv))
        self.conv_bias = nn.Parameter(torch.empty(sum(self.widths)))
        self.A_log = nn.Parameter(torch.empty(n_heads))
        self.dt_bias = nn.Parameter(torch.empty(n_heads))
        self.D = nn.Parameter(torch.empty(n_heads))
        self.norm = _norm(d_inner, n_groups, eps) if norm else nn.Identity()
        self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        mixed = past.conv(self.u_b_c(x), self.conv_weight, self.conv_bias)
        u, B, C = torch.split(mixed, self.widths, dim=-1)
        tokens = {"u": to_heads(u, self.d_head), "dt": self.dt(x)}
        tokens |= {"B": to_heads(B, self.d_state), "C": to_heads(C, self.d_state)}
        fixed = {"A_log": self.A_log, "D": self.D, "dt_bias": self.dt_bias}
        s = past.recur(SSD, tokens, fixed).flatten(2) * F.silu(self.z(x))
        y: Tensor = self.norm(s)
        return y

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state and last inputs."""
        channels, d_conv = self.conv_weight.shape
        return {
            "h": (len(self.A_log), self.d_state, self.d_head),
            "inputs": (d_conv - 1, channels),
        }

    def reset(self) -> None:
        """Mamba-2's start: A in -[1, 16], steps log-uniform in [1e-3, 1e-1], D = 1."""
        start_conv(self.conv_weight, self.conv_bias)
        start_steps(self.A_log, self.dt_bias)
        nn.init.ones_(self.D)


def _norm(d_inner: int, n_groups: int, eps: float) -> nn.Module:
    """Over the channels of each group, a weight for every channel, as Mamba-2's own code has it."""
    return RMSNorm(d_inner, eps) if n_groups == 1 else GroupRMSNorm(d_inner, n_groups, eps)


def _scan(
    *,
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One SSD over steps of softplus(dt + dt_bias) (B, T, H), with the skip D u."""
    delta = F.softplus(at_least_float32(dt) + at_least_float32(dt_bias))
    log_decay = -delta * at_least_float32(A_log).exp()
    s, after = ssd((u * delta.unsqueeze(3)).to(u.dtype), log_decay, B, C, state=state)
    return s + u * D.to(u.dtype).unsqueeze(1), after


SSD = Recurrence(_scan, no_step={"dt": NO_STEP}, values="u")
"""Mamba-2's recurrence of u (B, T, H, P), dt (B, T, H) and B, C (B, T, G, N)."""
