"""Peak learning rates: a number, or a rule that reads it off the model's size."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from hymba_lab.registry import Section

Positive = Annotated[float, Field(gt=0)]


class SizeRule(Section):
    """`lr: {rule: olmo}`: the peak falls with the cube root of the size.

    olmo: lr = factor * 0.5 * 0.0047 * (N / 108e6)^(-1/3), N the parameters without embedding and
    head (OLMo-core's model ladder, `wsds_chinchilla_run_configurator.py`, for AdamW). So one line
    serves every scale, and `factor` is what is left to tune.
    """

    rule: Literal["olmo"]
    factor: Positive = 1.0


Rate = Positive | SizeRule


def peak(rate: float | SizeRule, model: nn.Module) -> float:
    """Return the peak rate for a model."""
    if not isinstance(rate, SizeRule):
        return rate
    return rate.factor * 0.5 * 0.0047 * math.pow(_size(model) / 108e6, -1 / 3)


def _size(model: nn.Module) -> int:
    """Return the parameters that are neither embedding nor head, at least one."""
    head = getattr(model, "head", None)
    outside = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    left_out = {id(p) for module in outside for p in module.parameters()}
    return max(1, sum(p.numel() for p in model.parameters() if id(p) not in left_out))
