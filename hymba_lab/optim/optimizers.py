"""Optimizers by name; an entry is built from the model and owns the choice of what decays."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.optim.rates import Rate, peak
from hymba_lab.registry import Registry

Beta = Annotated[float, Field(ge=0, lt=1)]

optimizers: Registry[torch.optim.Optimizer] = Registry("optimizer")


@optimizers.register("adamw")
def adamw(
    model: nn.Module,
    *,
    lr: Rate,
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.95],
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    weight_decay: Annotated[float, Field(ge=0)] = 0.1,
) -> torch.optim.AdamW:
    """Adam with decoupled decay: w <- w - lr (m / (sqrt(v) + eps) + weight_decay w). `lr`, the peak
    that the schedule scales, is a number, or `{rule: olmo, factor: 1.0}`, read off the size.

    Only matrices decay (see `matrices`). Source: arXiv:1711.05101.
    """
    groups = parameter_groups(model, weight_decay)
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())  # 4x on a CPU
    return torch.optim.AdamW(
        groups, lr=peak(lr, model), betas=(betas[0], betas[1]), eps=eps, fused=fused
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups, what decays and the rest: each parameter once, in the model's order."""
    decayed = {id(weight) for weight in matrices(model)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]


def matrices(model: nn.Module) -> list[Tensor]:
    """Return the weights of every `nn.Linear` that are no embedding's.

    The rule goes by module, not by shape: A_log, convolution kernels and meta tokens have two
    dimensions and are no maps between channels, so pulling them to zero would mean something
    else. A tied head is the embedding. Biases, norms and gates are not decayed either.
    """
    modules = list(model.modules())
    embeddings = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    linears = [module.weight for module in modules if isinstance(module, nn.Linear)]
    return [weight for weight in linears if id(weight) not in embeddings]
