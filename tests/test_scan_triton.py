"""The Triton scan: its kernels run as Python against the float64 loop, and compile for GPUs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hymba_lab.ops import scan_triton, triton_device

pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("interpreted_scan.py")
# kept in 16 bits at the end: a GPU rounds, the interpreter cuts off, which errs by up to 2^-7
CUT_OFF = ("y", "grad_x", "grad_dt", "grad_B", "grad_C", "grad_z")


def case(
    shape: tuple[int, int, int, int],
    *,
    step: float = 0.05,
    seed: int = 0,
    absent: tuple[str, ...] = (),
    bf16: bool = False,
    strided: bool = False,
    chunk: int = 8,
) -> dict[str, Any]:
    """One scan as `interpreted_scan.py` reads it; shape (B, T, D, N)."""
    return {
        "shape": shape, "step": step, "seed": seed, "absent": absent, "bf16": bf16,
        "strided": strided, "chunk": chunk,
    }  # fmt: skip


def random_case(seed: int) -> dict[str, Any]:
    """Odd lengths, 4 to 128 states, steps up to 100 times the usual, options off now and then."""
    draw = random.Random(seed)
    n_states = draw.choice([4, 5, 8, 16, 16, 20, 64, 128])
    shape = (draw.randint(1, 3), draw.randint(1, 70), draw.randint(1, 40), n_states)
    absent = tuple(name for name in ("z", "dt_bias", "h0") if draw.random() < 0.3)
    return case(
        shape,
        step=draw.choice([0.05, 0.5, 5.0]),
        seed=seed,
        absent=absent,
        bf16=draw.random() < 0.25,
        strided=draw.random() < 0.5,
        chunk=draw.choice([4, 8, 16]),
    )


def interpreted(
    tmp_path: Path, cases: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Each case with its errors, from a process that imports triton as an interpreter."""
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(path)],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return [(line["case"], line["errors"]) for line in lines]


def assert_close(found: list[tuple[dict[str, Any], dict[str, float]]]) -> None:
    for one, errors in found:
        for name, error in errors.items():
            limit = 2**-7 if one["bf16"] and name in CUT_OFF else 1e-5
            assert error < limit, (one, name, error)


@pytest.mark.slow
def test_outputs_and_gradients_equal_the_float64_loop(tmp_path: Path) -> None:
    cases = [
        case((2, 21, 5, 16)),
        case((1, 1, 3, 4), absent=("z", "dt_bias", "h0"), chunk=4),
        case((1, 11, 3, 128), step=5.0, strided=True, chunk=8),
        case((1, 10, 20, 5), bf16=True, chunk=8),
    ]
    found = interpreted(tmp_path, cases)
    assert len(found) == len(cases) and "grad_h0" in found[0][1]
    assert_close(found)


@pytest.mark.slow
def test_forty_random_shapes_equal_the_float64_loop(tmp_path: Path) -> None:
    cases = [random_case(seed) for seed in range(40)]
    assert {one["shape"][3] for one in cases} >= {4, 128} and any(one["bf16"] for one in cases)
    found = interpreted(tmp_path, cases)
    assert len(found) == 40
    assert_close(found)


@pytest.mark.parametrize(
    ("capability", "n_states"),
    [(90, 16), *(pytest.param(c, n, marks=pytest.mark.slow) for c, n in [(80, 16), (90, 128)])],
)
def test_the_kernels_compile_for_gpus(capability: int, n_states: int) -> None:
    """To machine code, without a device: what the interpreter accepts need not be a kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compiled

    from hymba_lab.ops import scan_triton_kernels as kernels

    steps = scan_triton.CHUNK
    sequences = ("x", "dt", "B", "C", "z", "y", "gy", "dx", "ddt", "dz")
    numbers = ("T", "n_channels", "n_states", "n_chunks")
    for kernel in (kernels.forward, kernels.backward):
        names, tile = kernel.arg_names, scan_triton.tile(n_states, steps, kernel.__name__)
        chosen = {n: tile.get(n, True) for n in names if n in tile or n in _FLAGS}
        kinds = {
            name: "constexpr" if name in chosen
            else "i32" if name in numbers or name.endswith(("_b", "_t"))
            else "*bf16" if name in sequences else "*fp32"
            for name in names
        }  # fmt: skip
        places = {(names.index(name),): value for name, value in chosen.items()}
        source = ASTSource(kernel, kinds, places)
        options = dict(scan_triton.LAUNCH)
        made = compiled(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert len(made.asm["cubin"]) > 10_000


_FLAGS = ("HAS_Z", "HAS_BIAS", "HAS_H0", "KEEP", "EXACT")


def test_the_operator_has_shapes_and_a_backward_for_a_compiler() -> None:
    """Checked on shapes alone: `torch.compile` and FSDP see one operation."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 5, 6, dtype=torch.bfloat16, requires_grad=True)
        narrow, A = torch.empty(2, 5, 3), torch.empty(6, 3)
        y, h_last = scan_triton.selective_scan(
            x, x.detach(), A, narrow, narrow, A[:, 0], None, None, None
        )
        assert (y.shape, y.dtype) == (x.shape, torch.bfloat16)
        assert (h_last.shape, h_last.dtype) == ((2, 6, 3), torch.float32)
        grad = torch.autograd.grad(y.sum(), x)[0]
        assert (grad.shape, grad.dtype) == (x.shape, torch.bfloat16)


def test_an_empty_sequence_leaves_the_state() -> None:
    wide, narrow, A = torch.zeros(2, 0, 4), torch.zeros(2, 0, 3), -torch.ones(4, 3)
    h0 = torch.randn(2, 4, 3, requires_grad=True)
    y, h_last = scan_triton.selective_scan(wide, wide, A, narrow, narrow, A[:, 0], None, None, h0)
    assert y.shape == (2, 0, 4) and torch.equal(h_last, h0)
    assert torch.equal(torch.autograd.grad(h_last.sum(), h0)[0], torch.ones_like(h0))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(12))
def test_on_a_gpu_outputs_and_gradients_equal_the_float64_loop(seed: int) -> None:
    from test_scan import loop, make_inputs, relative_errors, with_gradients

    one = random_case(seed)
    made = make_inputs(*one["shape"], one["step"], one["seed"])
    inputs = {name: tensor for name, tensor in made.items() if name not in one["absent"]}
    expected = with_gradients(loop, inputs, torch.float64)

    def scan(**leaves: Tensor) -> tuple[Tensor, Tensor]:
        moved = {name: leaves[name].cuda() if name in leaves else None for name in made}
        y, h_last = scan_triton.selective_scan(**moved, chunk=one["chunk"])  # type: ignore[arg-type]
        return y.cpu(), h_last.cpu()

    errors = relative_errors(with_gradients(scan, inputs, torch.float32), expected)
    assert max(error for error in errors.values() if error == error) < 1e-5, errors


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton_device.missing.cache_clear()
    yield
    triton_device.missing.cache_clear()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(("device", "installed", "said"), [
    (False, True, "no CUDA device"), (True, False, "hymba-lab[gpu]"), (True, True, None),
])  # fmt: skip
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, device: bool, installed: bool, said: str | None
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(triton_device, "find_spec", lambda name: object() if installed else None)
    reason = triton_device.missing()
    assert reason is None if said is None else said in (reason or "")


def test_only_gpus_and_types_it_computes_exactly_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_device.takes(torch.zeros(1, 1, 1))
    pretended: Tensor = _Cuda(torch.zeros(1, 1, 1))  # type: ignore[assignment]
    assert triton_device.takes(pretended)
    assert not triton_device.takes(_Cuda(torch.zeros(1, 1, 1, dtype=torch.float64)))  # type: ignore[arg-type]


class _Cuda:
    """A tensor as it would look on a GPU."""

    def __init__(self, tensor: Tensor) -> None:
        self.is_cuda, self.dtype = True, tensor.dtype
