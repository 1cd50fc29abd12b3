"""The paper's mean once more, with an option that changes nothing but the luck of the draw.

Rows that differ in `label` alone are the same model: same equations, same data, same tuning. They
start from other random numbers, as rows of two architectures do. A verdict between them is false.
"""

from typing import Annotated

import torch
from pydantic import Field

from hymba_lab.components.fusion import Mean, fusions


@fusions.register("labelled_mean")
class LabelledMean(Mean):
    """`mean`, built after `label` random numbers were drawn: all parameters start elsewhere."""

    def __init__(
        self,
        d_attn: int,
        d_ssm: int,
        d_model: int,
        *,
        label: Annotated[int, Field(ge=0)],
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        torch.rand(label)
        super().__init__(d_attn, d_ssm, d_model, eps=eps)
