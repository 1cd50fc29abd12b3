"""The elementwise parts of a training step against their definitions in float64."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.ops import cross_entropy, rotary
from hymba_lab.ops import rms_norm as norm
from hymba_lab.ops import swiglu as mlp_gate
from hymba_lab.ops.cross_entropy import linear_cross_entropy
from hymba_lab.ops.rms_norm import rms_norm
from hymba_lab.ops.rotary import rotate
from hymba_lab.ops.swiglu import swiglu
from hymba_lab.training.memory import keep_memory

CLOSE = dict(rtol=2e-6, atol=2e-6)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return made.requires_grad_()


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_()


@pytest.mark.parametrize("shape", [(2, 7, 16), (5, 3), (3, 4, 1), (3, 300, 37), (2, 1, 5, 64)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.usefixtures("kernel_build")
def test_rms_norm_is_its_equation_with_its_gradients(shape: tuple[int, ...], scale: float) -> None:
    x, w = random(*shape, scale=scale), random(shape[-1], seed=1)
    ours, reference = rms_norm(x, w, 1e-6), exact(x)
    v = exact(w)
    expected = reference / (reference.square().mean(-1, keepdim=True) + 1e-6).sqrt() * v
    weights = random(*shape, seed=2).detach()
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours, expected.float(), **CLOSE)
    torch.testing.assert_close(x.grad * scale, reference.grad.float() * scale, **CLOSE)
    torch.testing.assert_close(w.grad, v.grad.float(), rtol=2e-6, atol=1e-5)


@pytest.mark.usefixtures("kernel_build")
def test_rms_norm_takes_strided_inputs_and_other_precisions() -> None:
    x, w = random(2, 5, 40), random(20, seed=1)
    for part in (x[..., 3:23], x.transpose(0, 1)[..., 3:23], x[:, ::2, 20:]):
        expected = F.rms_norm(part, (20,), w, 1e-6)
        ours = rms_norm(part, w, 1e-6)
        torch.testing.assert_close(ours, expected, **CLOSE)
        (theirs,) = torch.autograd.grad(expected.square().sum(), x, retain_graph=True)
        (found,) = torch.autograd.grad(ours.square().sum(), x, retain_graph=True)
        torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float64):
        low = rms_norm(part.to(dtype), w.to(dtype), 1e-6)
        torch.testing.assert_close(low, F.rms_norm(part.to(dtype), (20,), w.to(dtype), 1e-6))


@pytest.mark.usefixtures("kernel_build")
def test_rms_norm_is_bitwise_the_same_on_one_thread_and_on_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(norm, "WORK_PER_THREAD", 1)
    found, n_threads = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x, w = random(3, 400, 48), random(48, seed=1)
            y = rms_norm(x, w, 1e-6)
            y.square().sum().backward()
            found.append((y.detach(), x.grad))
    finally:
        torch.set_num_threads(n_threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 9000), (1,)])
@pytest.mark.usefixtures("kernel_build")
def test_swiglu_is_its_equation_with_its_gradients(shape: tuple[int, ...]) -> None:
    gate, up = random(*shape, scale=8), random(*shape, seed=1)
    g, u = exact(gate), exact(up)
    expected = g * torch.sigmoid(g) * u
    y, arriving = swiglu(gate, up), random(*shape, seed=2).detach()
    found = torch.autograd.grad(y, (gate, up), arriving)
    wanted = torch.autograd.grad(expected, (g, u), arriving.double())
    for got, want in zip((y, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(got, want.float(), **CLOSE)


@pytest.mark.usefixtures("kernel_build")
def test_swiglu_takes_strided_inputs_other_precisions_and_extremes() -> None:
    both = random(4, 6, 20)
    gate, up = both.chunk(2, dim=-1)
    torch.testing.assert_close(swiglu(gate, up), F.silu(gate) * up, **CLOSE)
    low = (gate.bfloat16(), up.bfloat16())
    assert torch.equal(swiglu(*low), F.silu(low[0]) * low[1])
    extreme = torch.tensor([-1e4, -90.0, 0.0, 90.0, torch.inf, torch.nan])
    expected = F.silu(extreme.clamp(min=-80))
    torch.testing.assert_close(swiglu(extreme, torch.ones(6)), expected, equal_nan=True, **CLOSE)


@pytest.mark.usefixtures("kernel_build")
def test_swiglu_and_rotation_are_bitwise_the_same_on_one_thread_and_on_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (mlp_gate, rotary):
        monkeypatch.setattr(module, "WORK_PER_THREAD", 1)
    found, n_threads = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = random(3, 2, 500, 16)
            y = rotate(swiglu(x, x), range(500), 100.0)
            found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    finally:
        torch.set_num_threads(n_threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.usefixtures("kernel_build")
@pytest.mark.parametrize("positions", [range(5), torch.arange(2, 7), torch.tensor([[[4]], [[9]]])])
def test_rotation_turns_each_pair_of_channels(positions: Tensor | range) -> None:
    n_tokens = 1 if isinstance(positions, Tensor) and positions.ndim == 3 else 5
    x, theta = random(2, 3, n_tokens, 8), 100.0
    at = torch.tensor(list(positions)) if isinstance(positions, range) else positions
    angle = at[..., None].double() * theta ** (-torch.arange(4).double() / 4)
    twin = exact(x)
    first, second = twin.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1).float()
    y, arriving = rotate(x, positions, theta), random(2, 3, n_tokens, 8, seed=1).detach()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(y, x, arriving)
    (wanted,) = torch.autograd.grad(expected, twin, arriving)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-5)
    heads_inside = x.detach().transpose(1, 2).contiguous().transpose(1, 2)  # as in the model
    assert torch.equal(rotate(heads_inside, positions, theta), y)


def test_the_angles_of_a_first_call_without_gradients_serve_a_training_step() -> None:
    x = random(1, 1, 11, 6)
    with torch.inference_mode():
        rotate(x.detach(), range(11), 77.0)
    rotate(x, range(11), 77.0).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("multiple", [1, 4])  # to which a GPU fills up a vocabulary; it has 9
@pytest.mark.parametrize("rows", [1, 4, 64])  # rows of a chunk; there are 11
def test_cross_entropy_in_chunks_equals_that_of_all_logits(
    rows: int, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = lambda w: F.pad(w, (0, 0, 0, -len(w) % multiple))  # noqa: E731
    monkeypatch.setattr(cross_entropy, "_aligned", fill)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", {"cpu": 1})
    monkeypatch.setattr(cross_entropy, "LEAST_ROWS", rows)
    x, w = random(11, 6, scale=3), random(9, 6, seed=1, scale=3)
    targets = torch.randint(9, (11,), generator=torch.Generator().manual_seed(2))
    share = random(11, seed=3).detach()
    loss, each = linear_cross_entropy(x, w, targets, share)
    (2 * loss).backward()
    y, v = exact(x), exact(w)
    expected = F.cross_entropy(y @ v.T, targets, reduction="none")
    (2 * (expected * share).sum()).backward()
    assert not each.requires_grad
    torch.testing.assert_close(each, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad, v.grad.float(), rtol=1e-5, atol=1e-5)


def test_cross_entropy_of_a_hopeless_target_is_finite() -> None:
    x, w = torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0]])
    _, each = linear_cross_entropy(x, w, torch.tensor([1]), torch.ones(1))
    assert each.item() == 400


def test_cross_entropy_under_autocast_has_the_precision_of_its_products() -> None:
    x, w = random(40, 16), random(30, 16, seed=1)
    targets = torch.arange(40) % 30
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(x, w, targets, torch.full((40,), 1 / 40))
    loss.backward()
    y, v = random(40, 16), random(30, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.cross_entropy(F.linear(y, v).float(), targets)
    plain.backward()
    assert loss.dtype == torch.float32 and x.grad.dtype == w.grad.dtype == torch.float32
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(x.grad, y.grad, rtol=2e-2, atol=1e-5)
    torch.testing.assert_close(w.grad, v.grad, rtol=2e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not keep_memory(), reason="no glibc: there is nothing to tell its malloc")
def test_a_process_that_keeps_its_memory_faults_no_page_twice() -> None:
    code = """if 1:
        import resource, sys
        import torch
        from hymba_lab.training.memory import keep_memory
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if "keep" in sys.argv:
            assert keep_memory()
        for step in range(20):
            begun = faults()
            made = [torch.ones(5 * 2**18) for _ in range(5)]  # 5 MiB each
            del made
        print(faults() - begun)
    """
    limits = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True,
                           check=True, env={**os.environ, "OMP_NUM_THREADS": "1", **limits}).stdout)
        for word in ("keep", "default")
    )  # fmt: skip
    assert kept < 100 <= 1000 < given_back
