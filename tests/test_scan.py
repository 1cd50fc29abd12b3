"""The selective scan: every implementation against a loop in float64, and the laws it must obey."""

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.errors import UserError
from hymba_lab.ops import (
    backends,
    kernels,
    scan_cuda,
    selective_scan,
    selective_scan_step,
)
from hymba_lab.ops.scan import SCAN

CPU_SCANS = [name for name in ("cpp", "torch") if SCAN.implementations[name].missing() is None]
BUILDS = ["v4", "v3", "plain"]  # a processor that runs one runs those after it
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0")
OPTIONAL = ("z", "dt_bias", "h0")
Inputs = dict[str, Tensor]


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here"
)
def test_what_a_compiler_could_build_was_built() -> None:
    """A build that fails is a warning of the installation, and every test of a kernel a skip."""
    assert kernels.missing() is None


def loop(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence as the paper writes it, one token at a time."""
    h = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype) if h0 is None else h0
    outputs = []
    per_token = zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True)
    for x_t, dt_t, B_t, C_t in per_token:
        raw = dt_t if dt_bias is None else dt_t + dt_bias
        delta = torch.log1p(torch.exp(raw))
        decay = torch.exp(torch.einsum("bd,dn->bdn", delta, A))
        h = decay * h + torch.einsum("bd,bd,bn->bdn", delta, x_t, B_t)
        outputs.append(torch.einsum("bdn,bn->bd", h, C_t) + D * x_t)
    y = torch.stack(outputs, dim=1)
    return (y if z is None else y * z / (1 + torch.exp(-z))), h


def make_inputs(
    n_batch: int, n_time: int, n_channels: int, n_states: int, step: float = 0.05, seed: int = 0
) -> Inputs:
    """Float64 inputs that float32 represents exactly; `step` is the typical delta."""
    torch.manual_seed(seed)
    wide = (n_batch, n_time, n_channels)
    inputs = {
        "x": torch.randn(wide),
        "dt": torch.randn(wide) * 0.5,
        "A": -torch.arange(1.0, n_states + 1) * (0.5 + torch.rand(n_channels, 1)),
        "B": torch.randn(n_batch, n_time, n_states),
        "C": torch.randn(n_batch, n_time, n_states),
        "D": torch.randn(n_channels),
        "z": torch.randn(wide) * 2,
        "dt_bias": torch.randn(n_channels) * 0.5 + torch.tensor(step).expm1().log(),
        "h0": torch.randn(n_batch, n_channels, n_states),
    }
    return {name: tensor.double() for name, tensor in inputs.items()}


def with_gradients(
    scan: Callable[..., tuple[Tensor, Tensor]], inputs: Inputs, dtype: torch.dtype
) -> Inputs:
    """Outputs and, for fixed gradients arriving at y and at h_last, every input's gradient."""
    leaves = {name: t.to(dtype).detach().requires_grad_() for name, t in inputs.items()}
    y, h_last = scan(**leaves)
    generator = torch.Generator().manual_seed(1)
    arriving = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in (y, h_last)]
    grads = torch.autograd.grad([y, h_last], list(leaves.values()), arriving)
    named = {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {"y": y.detach(), "h_last": h_last.detach(), **named}


def relative_errors(found: Inputs, expected: Inputs) -> dict[str, float]:
    """Normwise relative error of each named tensor."""
    assert found.keys() == expected.keys()
    return {
        name: ((found[name].double() - expected[name]).norm() / expected[name].norm()).item()
        for name in expected
    }


@pytest.fixture(params=CPU_SCANS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one implementation after the other."""
    monkeypatch.setenv("HYMBA_LAB_SCAN", request.param)
    name: str = request.param
    return name


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forces the compiled kernel and skips where there is none."""
    if "cpp" not in CPU_SCANS:
        pytest.skip("the kernel is not built")
    monkeypatch.setenv("HYMBA_LAB_SCAN", "cpp")


SHAPES = [
    pytest.param(2, 1, 16, 4, id="one-token"),
    pytest.param(2, 33, 5, 1, id="one-state"),
    pytest.param(1, 16, 128, 16, id="whole-chunk-and-group"),
    pytest.param(3, 37, 19, 16, id="odd-channels"),
    pytest.param(2, 50, 150, 4, id="two-groups"),
    pytest.param(1, 20, 17, 64, id="many-states"),
    pytest.param(1, 19, 3, 7, id="odd-states"),
    pytest.param(2, 400, 16, 16, id="long"),
]


@pytest.mark.parametrize("step", [0.05, 0.5], ids=["steps", "steps-x10"])
@pytest.mark.parametrize(("n_batch", "n_time", "n_channels", "n_states"), SHAPES)
def test_outputs_and_gradients_equal_the_float64_loop(
    backend: str, n_batch: int, n_time: int, n_channels: int, n_states: int, step: float
) -> None:
    inputs = make_inputs(n_batch, n_time, n_channels, n_states, step)
    expected = with_gradients(loop, inputs, torch.float64)
    errors = relative_errors(with_gradients(selective_scan, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-6, errors


def test_decays_below_the_smallest_float_equal_the_float64_loop(backend: str) -> None:
    inputs = make_inputs(2, 37, 20, 16, step=5.0)
    assert (inputs["A"].min() * inputs["dt_bias"].max()).item() < -126 / 1.44
    expected = with_gradients(loop, inputs, torch.float64)
    errors = relative_errors(with_gradients(selective_scan, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("absent", [("z",), ("dt_bias",), ("h0",), OPTIONAL], ids="-".join)
def test_absent_options_are_the_neutral_element(backend: str, absent: tuple[str, ...]) -> None:
    inputs = {k: v for k, v in make_inputs(2, 21, 20, 4).items() if k not in absent}
    expected = with_gradients(loop, inputs, torch.float64)
    errors = relative_errors(with_gradients(selective_scan, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-6, errors


def test_float64_takes_the_torch_form_and_is_exact() -> None:
    inputs = make_inputs(2, 70, 5, 3, step=0.5)
    expected = with_gradients(loop, inputs, torch.float64)
    errors = relative_errors(with_gradients(selective_scan, inputs, torch.float64), expected)
    assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("n_states", [1, 4, 16, 20])
@pytest.mark.parametrize("optional", [OPTIONAL, ("h0",)], ids=["all", "bare"])
def test_steps_equal_the_whole_sequence(
    backend: str, n_states: int, optional: tuple[str, ...]
) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 18, 21, n_states).items()}
    inputs = {k: t for k, t in inputs.items() if k not in OPTIONAL or k in optional}
    y, h_last = selective_scan(**inputs)
    h = inputs.pop("h0")
    with torch.no_grad():
        for t in range(y.shape[1]):
            token = {k: v[:, t] if v.ndim == 3 else v for k, v in inputs.items()}
            y_t, h = selective_scan_step(**token, h=h)
            torch.testing.assert_close(y_t, y[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h, h_last, rtol=1e-5, atol=1e-5)


def test_a_step_has_gradients() -> None:
    inputs = make_inputs(2, 1, 5, 3)
    h = inputs.pop("h0").requires_grad_()
    token = {k: v[:, 0] if v.ndim == 3 else v for k, v in inputs.items()}
    y, h_next = selective_scan_step(**token, h=h)
    expected, _ = loop(**inputs, h0=h)
    found = torch.autograd.grad(y.sum(), h)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), h)[0])
    assert h_next.requires_grad


def test_a_sequence_continues_from_its_state(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 40, 24, 16).items()}
    whole, h_whole = selective_scan(**inputs)
    h, pieces = inputs.pop("h0"), []
    for part in (slice(0, 13), slice(13, 14), slice(14, 40)):
        piece = {k: v[:, part] if v.ndim == 3 else v for k, v in inputs.items()}
        y, h = selective_scan(**piece, h0=h)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h, h_whole, rtol=1e-5, atol=1e-5)


def test_the_past_does_not_see_the_future(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(1, 40, 16, 4).items()}
    before, _ = selective_scan(**inputs)
    for name in ("x", "dt", "B", "C", "z"):
        inputs[name][:, 20] += 1
    after, _ = selective_scan(**inputs)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_bfloat16_in_bfloat16_out_computed_in_float32(backend: str) -> None:
    exact = make_inputs(2, 40, 20, 4)
    inputs = {k: t.bfloat16() if t.ndim == 3 and k != "h0" else t.float() for k, t in exact.items()}
    y, h_last = selective_scan(**inputs)
    expected, h_expected = loop(**{k: t.double() for k, t in inputs.items()})
    assert (y.dtype, h_last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(h_last.double(), h_expected, rtol=1e-5, atol=1e-5)
    # one rounding of the result to 8 bits of mantissa, nothing more
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)
    x = inputs["x"].requires_grad_()
    grad = torch.autograd.grad(selective_scan(**inputs)[0].float().sum(), x)[0]
    assert grad.dtype == torch.bfloat16


def test_autocast_changes_nothing(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 20, 20, 4).items()}
    plain = with_gradients(selective_scan, inputs, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = with_gradients(selective_scan, inputs, torch.float32)
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_strided_inputs_are_read_rightly(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 20, 24, 4).items()}
    expected, _ = selective_scan(**inputs)
    packed = torch.cat([inputs["x"], inputs["z"], inputs["B"], inputs["C"]], dim=2)
    names = ("x", "z", "B", "C")
    inputs.update(zip(names, packed.split([24, 24, 4, 4], dim=2), strict=True))
    inputs["A"] = inputs["A"].t().contiguous().t()
    assert not inputs["z"].is_contiguous()
    torch.testing.assert_close(selective_scan(**inputs)[0], expected)


def test_strides_of_a_single_token_mean_nothing(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(3, 1, 24, 4).items()}
    expected, _ = selective_scan(**inputs)
    inputs["z"] = inputs["z"].as_strided((3, 1, 24), (24, 7, 1))
    torch.testing.assert_close(selective_scan(**inputs)[0], expected)


def test_an_empty_sequence_leaves_the_state(backend: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 4, 5, 3).items()}
    empty = {k: v[:, :0] if v.ndim == 3 and k != "h0" else v for k, v in inputs.items()}
    y, h_last = selective_scan(**empty)
    assert y.shape == (2, 0, 5)
    assert torch.equal(h_last, inputs["h0"])


@pytest.mark.parametrize("name", ["x", "dt", "z", "B"])
def test_nan_is_never_swallowed(backend: str, name: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(1, 20, 16, 4).items()}
    inputs[name][0, 7, 2] = torch.nan
    y, _ = selective_scan(**inputs)
    assert y[0, 7].isnan().any() and not y[0, :7].isnan().any()


def test_extreme_steps_stay_finite(backend: str) -> None:
    inputs = make_inputs(1, 40, 16, 16)
    inputs["dt"] = torch.linspace(-200, 200, 40).double().reshape(1, 40, 1).expand(1, 40, 16)
    inputs["z"] = inputs["z"] * 100
    found = with_gradients(selective_scan, inputs, torch.float32)
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.usefixtures("kernel")
def test_threads_do_not_change_a_bit() -> None:
    inputs = make_inputs(3, 100, 300, 16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(selective_scan, inputs, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("build", BUILDS)
def test_every_build_equals_the_float64_loop(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if BUILDS.index(build) < BUILDS.index(kernels.variant()):
        pytest.skip(f"this processor does not run the {build} build")
    monkeypatch.setattr(kernels, "variant", lambda: build)
    if kernels.missing() is not None:
        pytest.skip(f"the {build} build is for another kind of processor")
    inputs = make_inputs(2, 37, 150, 7)
    expected = with_gradients(loop, inputs, torch.float64)
    errors = relative_errors(with_gradients(selective_scan, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.usefixtures("kernel")
def test_states_are_kept_only_for_a_backward() -> None:
    inputs = {k: t.float() for k, t in make_inputs(1, 64, 16, 4).items()}
    inputs["x"].requires_grad_()
    saved: list[tuple[int, ...]] = []

    def record(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        selective_scan(**inputs)
        assert (1, 4, 16, 4) in saved  # 64 tokens in chunks of 16
        saved.clear()
        with torch.no_grad():
            selective_scan(**inputs)
        assert not saved


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
def test_compiles_without_a_graph_break() -> None:
    inputs = make_inputs(2, 40, 20, 4)

    def between(**tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, h_last = selective_scan(**{**tensors, "x": tensors["x"] * 2})
        return y + 1, h_last

    torch.compiler.reset()  # shapes seen before would be traced as variable ones
    compiled = torch.compile(between, fullgraph=True, backend="aot_eager")
    expected = with_gradients(between, inputs, torch.float32)
    found = with_gradients(compiled, inputs, torch.float32)
    errors = relative_errors(found, {k: v.double() for k, v in expected.items()})
    assert max(errors.values()) < 1e-6, errors


def test_meta_tensors_give_shapes_and_flops() -> None:
    inputs = {k: t.float().to("meta") for k, t in make_inputs(2, 7, 5, 3).items()}
    inputs["x"].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y, h_last = selective_scan(**inputs)
    assert (y.shape, h_last.shape) == ((2, 7, 5), (2, 5, 3)) and y.is_meta
    assert counter.get_total_flops() == 9 * 2 * 7 * 5 * 3
    h = inputs.pop("h0")
    token = {k: v[:, 0] if v.ndim == 3 else v for k, v in inputs.items()}
    with FlopCounterMode(display=False) as counter:
        y, h_last = selective_scan_step(**token, h=h)
    assert (y.shape, h_last.shape) == ((2, 5), (2, 5, 3))
    assert counter.get_total_flops() == 9 * 2 * 5 * 3


# ------------------------------------------------------------------ choosing an implementation


def test_the_choice_is_reported_with_reasons() -> None:
    status = backends()["selective_scan"]
    assert status["chosen"] in status["available"] and "torch" in status["available"]
    assert set(status["available"]) | set(status["unavailable"]) == set(SCAN.implementations)
    assert all(reason for reason in status["unavailable"].values())


def test_without_a_build_the_torch_form_runs_and_the_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HYMBA_LAB_SCAN", raising=False)
    monkeypatch.setattr(kernels, "variant", lambda: "absent")
    status = backends()["selective_scan"]
    assert "cpp" not in status["available"]
    assert "install g++ or clang" in status["unavailable"]["cpp"]
    x = make_inputs(1, 3, 4, 2)["x"].float()
    assert SCAN.choose(x, None) == "torch"


def test_a_library_of_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_scan_old.so").write_bytes(b"not a library")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    monkeypatch.setattr(kernels, "variant", lambda: "old")
    assert "does not load" in (kernels.missing() or "")


@pytest.mark.parametrize("name", ["dt", "A", "B", "D", "z", "h0"])
def test_a_wrong_shape_never_reaches_a_kernel(name: str) -> None:
    inputs = {k: t.float() for k, t in make_inputs(2, 5, 6, 3).items()}
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ValueError, match=r"x \[2, 5, 6\] on cpu: .* must be"):
        selective_scan(**inputs)


def test_an_unknown_choice_names_the_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYMBA_LAB_SCAN", "fast")
    with pytest.raises(UserError, match=r"HYMBA_LAB_SCAN=fast.*triton, cuda, cpp, torch"):
        selective_scan(**make_inputs(1, 2, 3, 2))


def test_a_choice_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYMBA_LAB_SCAN", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scan_cuda.missing.cache_clear()
    try:
        with pytest.raises(UserError, match="no CUDA device"):
            selective_scan(**make_inputs(1, 2, 3, 2))
    finally:
        scan_cuda.missing.cache_clear()


@pytest.mark.usefixtures("kernel")
def test_a_choice_that_does_not_fit_the_tensors_says_what_it_takes() -> None:
    with pytest.raises(UserError, match=r"float32 or bfloat16; given torch\.float64"):
        selective_scan(**make_inputs(1, 2, 3, 2))


@pytest.mark.parametrize("built", [True, False])
def test_mamba_ssm_counts_by_its_compiled_extension(
    built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package imports without its CUDA scan, too: the extension decides."""
    interface: Any = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_cuda = object() if built else None
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    scan_cuda.missing.cache_clear()
    try:
        reason = scan_cuda.missing()
    finally:
        scan_cuda.missing.cache_clear()
    if built:
        assert reason is None
    else:
        assert reason is not None
        assert "selective_scan_cuda" in reason and "MAMBA_KEEP_CUDA_BUILD=TRUE" in reason


def test_mamba_ssm_gets_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with mamba-ssm's signature and (B, D, T) layout, on the CPU."""

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> tuple[Tensor, Tensor]:
        assert delta_softplus and return_last_state and D is not None and z is not None
        wide = (t.transpose(1, 2) for t in (u, delta))
        narrow = (t.transpose(1, 2) for t in (B, C))
        y, h = loop(*wide, A, *narrow, D, z.transpose(1, 2), delta_bias)
        return y.transpose(1, 2), h

    module: Any = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    inputs = {k: t.float() for k, t in make_inputs(2, 9, 5, 3).items()}
    del inputs["h0"]
    inputs["x"].requires_grad_()
    y, h_last = scan_cuda.selective_scan(**inputs, h0=None)
    expected, h_expected = loop(**inputs)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(h_last, h_expected)
    torch.autograd.grad(y.sum(), inputs["x"], retain_graph=True)
    with pytest.raises(NotImplementedError, match="last state"):
        h_last.sum().backward()
