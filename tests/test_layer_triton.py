"""The Triton kernels of a layer: run as Python against float64, and compiled for GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hymba_lab.ops import triton_device
from hymba_lab.ops.conv import CAUSAL_CONV
from hymba_lab.ops.cross_entropy import CROSS_ENTROPY
from hymba_lab.ops.rms_norm import RMS_NORM
from hymba_lab.ops.rotary import ROTATION
from hymba_lab.ops.selection import Operation
from hymba_lab.ops.swiglu import SWIGLU

pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("interpreted_layer.py")
OPERATIONS = (ROTATION, SWIGLU, CAUSAL_CONV, RMS_NORM, CROSS_ENTROPY)
OURS = {"rms_norm": "RMSNorm", "causal_conv": "CausalConv", "rotation": "Rotation",
        "swiglu": "SwiGLU", "cross_entropy": "_LinearCrossEntropy"}  # fmt: skip


@pytest.mark.slow
def test_outputs_and_gradients_equal_plain_torch_in_float64() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env={**os.environ, **dict.fromkeys((one.variable for one in OPERATIONS), "triton"),
             "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = list(map(json.loads, done.stdout.splitlines()))
    assert {one["operation"] for one in found} == OURS.keys() and len(found) == 60
    for one in found:
        # kept in 16 bits at the end: a GPU rounds, the interpreter cuts off
        limit = 2**-7 if one["low"] else 5e-6
        assert one["by"] == f"{OURS[one['operation']]}Backward", one
        assert max(one["errors"]) < limit, one


@pytest.mark.gpu
def test_on_a_gpu_they_equal_plain_torch_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(PROGRAM.parent))
    from interpreted_layer import cases, errors

    monkeypatch.setattr(triton_device, "LEAST", 0)
    torch.set_default_device("cuda")
    try:
        found = [errors(case, low=seed % 3 == 2) for seed in range(12) for case in cases(seed)]
    finally:
        torch.set_default_device("cpu")
    for one in found:
        assert one["by"] == f"{OURS[one['operation']]}Backward", one
        assert max(one["errors"]) < (2**-8 if one["low"] else 5e-6), one


WIDE = {"TAPS": 4, "BIAS": True, "SILU": True}
KERNELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "swiglu": ("swiglu_triton", "forward", {"BLOCK": 1024}),
    "swiglu backward": ("swiglu_triton", "backward", {"BLOCK": 1024}),
    "rotation": ("rotary_triton", "turn", {"width": 32, "HALF": 32, "BT": 64}),
    "norm": ("rms_norm_triton", "forward", {"BM": 1, "BD": 2048}),
    "norm backward": ("rms_norm_triton", "backward", {"BM": 1, "BD": 2048}),
    "convolution": ("conv_triton", "forward", {**WIDE, "BT": 32, "BD": 64}),
    "its sums": ("conv_triton", "backward_sums", {**WIDE, "BT": 16, "BD": 64}),
    "its input": ("conv_triton", "backward_x", {"TAPS": 4, "BT": 32, "BD": 64}),
    "cross-entropy": ("cross_entropy_triton", "rows", {"BLOCK": 4096}),
}
NUMBERS = ("n", "n_rows", "step", "dy_step", "n_tiles", "T", "n_channels", "n_heads", "n_tokens",
           "vocab", "width")  # fmt: skip
EXACT = ("w", "b", "part", "scale", "cos", "sin", "share", "losses")


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_compile_for_gpus(name: str) -> None:
    """To machine code, without a device: what the interpreter accepts need not be a kernel."""
    from importlib import import_module

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compiled

    module, function, chosen = KERNELS[name]
    kernel = getattr(import_module(f"hymba_lab.ops.{module}"), function)

    def kind(argument: str) -> str:
        if argument in chosen:
            return "constexpr"
        if argument in NUMBERS or argument.endswith(("_b", "_h", "_t")):
            return "i32"
        if argument in ("eps", "sign"):
            return "fp32"
        return "*i64" if argument == "targets" else "*fp32" if argument in EXACT else "*bf16"

    names = kernel.arg_names
    places = {(names.index(key),): value for key, value in chosen.items()}
    source = ASTSource(kernel, {argument: kind(argument) for argument in names}, places)
    made = compiled(source, target=GPUTarget("cuda", 90, 32), options=dict(triton_device.FUSED))
    assert len(made.asm["cubin"]) > 10_000


@pytest.mark.parametrize("operation", OPERATIONS)
def test_they_serve_large_tensors_of_a_gpu(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operation.implementations["triton"]
    large, small = _Cuda(triton_device.LEAST), _Cuda(triton_device.LEAST - 1)
    rest: dict[str, tuple[Any, ...]] = {
        "rotation": (torch.zeros(3, 4),), "swiglu": (large,),
        "causal_conv": (torch.zeros(3, 4), None, True, None), "rms_norm": (torch.zeros(3),),
        "cross_entropy": (),
    }  # fmt: skip
    given = rest[operation.name]
    assert one.devices == ("cuda",)
    assert one.takes(large, *given)
    assert not one.takes(small, *given)
    assert not one.takes(torch.zeros(triton_device.LEAST), *given)  # a CPU has kernels of its own
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not one.takes(large, *given)  # the block's compiler makes the kernel


class _Cuda:
    """A tensor as it would look on a GPU."""

    def __init__(self, numel: int) -> None:
        self.is_cuda, self._numel, self.dtype = True, numel, torch.bfloat16

    def numel(self) -> int:
        return self._numel
