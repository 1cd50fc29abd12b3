"""Run the Triton scan on CPU tensors: a program, for triton reads TRITON_INTERPRET when imported.

    TRITON_INTERPRET=1 python tests/interpreted_scan.py CASES.json

prints one JSON object a line: the case and its errors against the float64 loop of test_scan.py.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_scan import Inputs, loop, make_inputs, relative_errors

from hymba_lab.ops.scan_triton import selective_scan


def run(case: dict[str, Any]) -> dict[str, float]:
    """Errors of outputs and gradients against the loop over what 16-bit inputs hold."""
    inputs = make_inputs(*case["shape"], case["step"], case["seed"])
    inputs = {name: tensor for name, tensor in inputs.items() if name not in case["absent"]}
    if case["bf16"]:
        inputs = {k: t.bfloat16().double() if _is_sequence(k) else t for k, t in inputs.items()}

    def scan(**leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaves = {name: leaves.get(name) for name in (*_REQUIRED, "z", "dt_bias", "h0")}
        if case["bf16"]:
            leaves = {k: t.bfloat16() if _is_sequence(k) and t is not None else t
                      for k, t in leaves.items()}  # fmt: skip
        if case["strided"]:
            leaves |= _strided(leaves)
        y, h = selective_scan(**leaves, chunk=case["chunk"])
        assert y.dtype == leaves["x"].dtype and h.dtype == torch.float32
        return y.float(), h

    expected, found = gradients(loop, inputs, torch.float64), gradients(scan, inputs, torch.float32)
    for name in [name for name, tensor in expected.items() if not tensor.any()]:
        assert not found[name].any(), name  # one token from the zero state: A does nothing
        del expected[name], found[name]
    return relative_errors(found, expected)


def gradients(scan: Callable[..., Any], inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """As `with_gradients`, the gradient arriving at y being one that 16 bits hold."""
    leaves = {name: t.to(dtype).detach().requires_grad_() for name, t in inputs.items()}
    y, h_last = scan(**leaves)
    generator = torch.Generator().manual_seed(1)
    arriving = [torch.randn(out.shape, generator=generator) for out in (y, h_last)]
    arriving = [grad.bfloat16().to(dtype) for grad in arriving]
    grads = torch.autograd.grad([y, h_last], list(leaves.values()), arriving)
    named = {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {"y": y.detach(), "h_last": h_last.detach(), **named}


_REQUIRED = ("x", "dt", "A", "B", "C", "D")


def _is_sequence(name: str) -> bool:
    return name in ("x", "dt", "B", "C", "z")


def _strided(leaves: dict[str, Any]) -> dict[str, Any]:
    """x, B and C as slices of one projection, dt with its channels apart."""
    width, states = leaves["x"].shape[2], leaves["B"].shape[2]
    packed = torch.cat([leaves["x"], leaves["B"], leaves["C"]], dim=2)
    parts = packed.split([width, states, states], dim=2)
    dt = leaves["dt"].transpose(1, 2).contiguous().transpose(1, 2)
    return {**dict(zip(("x", "B", "C"), parts, strict=True)), "dt": dt}


def main() -> None:
    """Run every case of the file."""
    torch.set_num_threads(1)
    for case in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps({"case": case, "errors": run(case)}), flush=True)


if __name__ == "__main__":
    main()
