"""Axis: how the attention and the SSM branch become one (equation 3; table 10, row 11).

An entry is built from the widths of both branches and of the residual stream, owns the output
projection, and maps a (B, T, d_attn) and s (B, T, d_ssm) to (B, T, d_model).
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.norm import GroupRMSNorm, RMSNorm
from hymba_lab.errors import ConfigError
from hymba_lab.registry import LATER, Registry

Eps = Annotated[float, Field(gt=0)]
Groups = Annotated[int, Field(ge=1, le=2**24)]

fusions: Registry[nn.Module] = Registry("model.fusion")


@fusions.register("mean")
class Mean(nn.Module):
    """y = W (norm(a) + norm(s)) / 2; the norms' weights are the paper's beta_1 and beta_2."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int, *, eps: Eps = 1e-6) -> None:
        super().__init__()
        _require_equal("mean", d_attn, d_ssm)
        self.norm_attn = RMSNorm(d_attn, eps)
        self.norm_ssm = RMSNorm(d_ssm, eps)
        self.out = nn.Linear(d_attn, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm_attn(a) + self.norm_ssm(s)) / 2
        return y


@fusions.register("concat")
class Concat(nn.Module):
    """y = W [norm(a), norm(s)] (the paper's row 11); `norms: false` is Falcon-H1's W [a, s]."""

    def __init__(
        self,
        d_attn: int,
        d_ssm: int,
        d_model: int,
        *,
        norms: Annotated[bool, LATER] = True,
        eps: Eps = 1e-6,
    ) -> None:
        super().__init__()
        self.norm_attn = RMSNorm(d_attn, eps) if norms else nn.Identity()
        self.norm_ssm = RMSNorm(d_ssm, eps) if norms else nn.Identity()
        self.out = nn.Linear(d_attn + d_ssm, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out(torch.cat([self.norm_attn(a), self.norm_ssm(s)], dim=-1))
        return y


@fusions.register("sum")
class Sum(nn.Module):
    """y = W (a + s), without norms: the branch that shouts is heard."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int) -> None:
        super().__init__()
        _require_equal("sum", d_attn, d_ssm)
        self.out = nn.Linear(d_attn, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out(a + s)
        return y


@fusions.register("difference")
class Difference(nn.Module):
    """y = W (norm(a) - norm(s)) (arXiv:2510.04800)."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int, *, eps: Eps = 1e-6) -> None:
        super().__init__()
        _require_equal("difference", d_attn, d_ssm)
        self.norm_attn = RMSNorm(d_attn, eps)
        self.norm_ssm = RMSNorm(d_ssm, eps)
        self.out = nn.Linear(d_attn, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm_attn(a) - self.norm_ssm(s))
        return y


@fusions.register("group_difference")
class GroupDifference(nn.Module):
    """y = W_a norm(a) - W_s norm(s), each norm over groups of channels (arXiv:2510.04800)."""

    def __init__(
        self, d_attn: int, d_ssm: int, d_model: int, *, n_groups: Groups = 4, eps: Eps = 1e-6
    ) -> None:
        super().__init__()
        self.norm_attn = GroupRMSNorm(d_attn, n_groups, eps)
        self.norm_ssm = GroupRMSNorm(d_ssm, n_groups, eps)
        self.out_attn = nn.Linear(d_attn, d_model, bias=False)
        self.out_ssm = nn.Linear(d_ssm, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out_attn(self.norm_attn(a)) - self.out_ssm(self.norm_ssm(s))
        return y


@fusions.register("gate")
class Gate(nn.Module):
    """y = g * W_a norm(a) + (1 - g) * W_s norm(s), a learned gate g in (0, 1) per channel."""

    def __init__(
        self, d_attn: int, d_ssm: int, d_model: int, *, init: float = 0.0, eps: Eps = 1e-6
    ) -> None:
        super().__init__()
        self.norm_attn = RMSNorm(d_attn, eps)
        self.norm_ssm = RMSNorm(d_ssm, eps)
        self.out_attn = nn.Linear(d_attn, d_model, bias=False)
        self.out_ssm = nn.Linear(d_ssm, d_model, bias=False)
        self.logit = nn.Parameter(torch.full((d_model,), init))

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        g = torch.sigmoid(self.logit)
        y: Tensor = g * self.out_attn(self.norm_attn(a)) + (1 - g) * self.out_ssm(self.norm_ssm(s))
        return y


def _require_equal(name: str, d_attn: int, d_ssm: int) -> None:
    if d_attn != d_ssm:
        raise ConfigError(
            f"{name} adds the branches channel by channel, but attention is {d_attn} wide "
            f"(n_heads * d_head_v) and the SSM {d_ssm} (expand * d_model); make them equal, "
            "or use concat or gate, which project each branch."
        )
