"""Operations that torch.compile makes one kernel of: the same numbers, and only where it pays."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hymba_lab.ops import fused
from hymba_lab.ops.conv import CAUSAL_CONV
from hymba_lab.ops.rotary import ROTATION, rope_table
from hymba_lab.ops.selection import Operation
from hymba_lab.ops.swiglu import SWIGLU


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


CASES: list[tuple[Operation, tuple[Any, ...]]] = [
    (ROTATION, (random(2, 3, 5, 8), *rope_table(range(5), 8, 100.0, torch.device("cpu")))),
    (SWIGLU, (random(2, 5, 7), random(2, 5, 7, seed=1))),
    (CAUSAL_CONV, (random(2, 9, 3), random(3, 4, seed=1), random(3, seed=2), True, None)),
    (CAUSAL_CONV, (random(2, 2, 3), random(3, 4, seed=1), None, False, None)),  # fewer than taps
]


@pytest.mark.parametrize(("operation", "given"), CASES)
def test_one_kernel_computes_what_torch_does(
    operation: Operation, given: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_compiled", lambda f: torch.compile(f, backend="aot_eager"))
    leaves = [t for t in given if isinstance(t, Tensor) and t.requires_grad]
    found = []
    for name in ("compiled", "torch"):
        y = operation.implementations[name].run(*given)
        y, *rest = y if isinstance(y, tuple) else (y,)
        found.append((y, *rest, *torch.autograd.grad(y.square().sum(), leaves)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(
            one, two, rtol=1e-5, atol=1e-5
        )  # the convolution sums in float32


@pytest.mark.parametrize("operation", [ROTATION, SWIGLU, CAUSAL_CONV])
def test_it_serves_large_tensors_of_a_gpu(operation: Operation) -> None:
    one = operation.implementations["compiled"]
    rest: dict[str, tuple[Any, ...]] = {
        "rotation": (None,), "swiglu": (None,), "causal_conv": (torch.zeros(3, 4), None, True, None)
    }  # fmt: skip
    given = rest[operation.name]
    assert one.devices == ("cuda",)
    assert one.takes(_Cuda(fused.LEAST), *given)
    assert not one.takes(_Cuda(fused.LEAST - 1), *given)
    assert not one.takes(torch.zeros(fused.LEAST), *given)  # a CPU has kernels of its own


class _Cuda:
    """A tensor as it would look on a GPU."""

    def __init__(self, numel: int) -> None:
        self.is_cuda, self._numel = True, numel

    def numel(self) -> int:
        return self._numel
