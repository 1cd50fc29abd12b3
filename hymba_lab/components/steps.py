"""The map from dt to the steps of an SSM: a linear map whose bias the scan adds.

The scan adds it in its own precision, inside its kernel. The map is called as a module all the
same, so that hooks and adapters (LoRA, DoRA) reach it.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import linear


class StepMap(nn.Linear):
    """W x of x (..., rank); `bias` (D,) is a parameter that whoever calls the scan hands on."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)


def called(step_map: nn.Module, x: Tensor) -> Tensor:
    """Return step_map(x), without the bias also where an adapter is wrapped around the map.

    DoRA takes the wrapped map's bias off its output before it scales it, so for that call there
    must be none.
    """
    inner = step_map
    while isinstance(below := getattr(inner, "base_layer", None), nn.Module):
        inner = below
    if inner is step_map:
        return cast(Tensor, step_map(x))
    bias, inner.bias = inner.bias, None  # type: ignore[assignment]
    try:
        return cast(Tensor, step_map(x))
    finally:
        inner.bias = bias
