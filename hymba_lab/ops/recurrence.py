"""What the recurrences over a matrix state share: checks and the precision of the sums."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def checked(
    operation: str,
    name: str,
    leading: Tensor,
    given: Mapping[str, Tensor | None],
    expected: Mapping[str, Sequence[int]],
) -> None:
    """Raise `ValueError` for a tensor of another shape or device than `leading` asks for."""
    for other, tensor in given.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(expected[other]) or tensor.device != leading.device:
            raise ValueError(
                f"{operation} of {name} {list(leading.shape)} on {leading.device}: {other} must be "
                f"{list(expected[other])} there, given {list(tensor.shape)} on {tensor.device}"
            )


def computed(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """Return the tensors in float32, or in float64 where `dtype` is float64."""
    exact = torch.promote_types(dtype, torch.float32)
    return [tensor.to(exact) for tensor in tensors]


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64: what a decay or a norm is computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
